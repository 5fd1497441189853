"""Grad-CAM against values computed by hand, and for every family that is registered."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from small_networks import Branches, TwoMaps, contract
from torch import nn

from edge_fer.core.errors import UsageError
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.evaluate.grad_cam import FAMILY_LAYERS, Explainer, default_layer, stages, telling_channels
from edge_fer.evaluate.network_graph import read_graph
from edge_fer.models.registry import architecture, build_model, classifiers


def picture() -> np.ndarray:
    """(1, 1, 8, 8): 1 at one place, -2 at another, 0 elsewhere."""
    inputs = np.zeros((1, 1, 8, 8), np.float32)
    inputs[0, 0, 1, 2], inputs[0, 0, 5, 6] = 1.0, -2.0
    return inputs


def test_the_heat_is_what_a_hand_computes() -> None:
    """After the ReLU the maps are a = 2 at (1, 2) and b = 2 at (5, 6); their means are 2/64. The logit of class 0 is
    3 mean(a) + mean(b), so dy/da = 3/64 and dy/db = 1/64 everywhere: heat 6/64 at (1, 2) and 2/64 at (5, 6). Class 1
    is mean(a) - 2 mean(b): heat 2/64 at (1, 2), and the negative -4/64 is cut to 0."""
    explainer = Explainer(TwoMaps(), contract())
    assert explainer.layer == "relu"
    first = explainer.heat(picture(), np.array([0]))
    expected = np.zeros((8, 8))
    expected[1, 2], expected[5, 6] = 1.0, 2 / 6
    np.testing.assert_allclose(first.heat[0], expected, atol=1e-6)
    assert first.peak[0] == pytest.approx(6 / 64)
    second = explainer.heat(picture(), np.array([1]))
    expected[5, 6] = 0.0
    np.testing.assert_allclose(second.heat[0], expected, atol=1e-6)
    assert second.peak[0] == pytest.approx(2 / 64)
    logits = np.array([3 * 2 / 64 + 2 / 64, 2 / 64 - 2 * 2 / 64])
    np.testing.assert_allclose(first.scores[0], np.exp(logits) / np.exp(logits).sum(), rtol=1e-6)


@pytest.mark.parametrize("inplace", [False, True])
def test_before_an_activation_in_place_the_maps_are_those_before_it(inplace: bool) -> None:
    """At the convolution a = 2x and b = -x; the ReLU passes slopes only where they are positive: dy/da is 3/64 at
    (1, 2) alone, so its mean is 3/64/64; dy/db 1/64 at (5, 6) alone: heat (3 * 2 - 1) / 64**2 at (1, 2), negative at
    (5, 6): 3 * -4 + 2."""
    found = Explainer(TwoMaps(inplace=inplace), contract(), layer="conv").heat(picture(), np.array([0]))
    expected = np.zeros((8, 8))
    expected[1, 2] = 1.0
    np.testing.assert_allclose(found.heat[0], expected, atol=1e-6)
    assert found.peak[0] == pytest.approx(5 / 64**2)


def test_a_small_map_is_enlarged_between_its_places() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 1, 4, stride=4, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)
    )
    network[0].weight.data.fill_(1.0)
    network[3].weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    inputs = np.zeros((1, 1, 8, 8), np.float32)
    inputs[0, 0, :4, :4], inputs[0, 0, 4:, 4:] = 1.0, 0.5
    found = Explainer(network, contract(), layer="0").heat(inputs, np.array([0]))
    small = np.array([[1.0, 0.0], [0.0, 0.5]], np.float32)
    np.testing.assert_allclose(found.heat[0], cv2.resize(small, (8, 8), interpolation=cv2.INTER_LINEAR), atol=1e-6)


def test_a_class_that_nothing_speaks_for_has_no_heat() -> None:
    inputs = np.zeros((1, 1, 8, 8), np.float32)
    inputs[0, 0, 5, 6] = -2.0  # only b, which speaks against class 1
    found = Explainer(TwoMaps(), contract()).heat(inputs, np.array([1]))
    assert found.peak[0] == 0
    assert not found.heat.any()


def test_without_a_class_the_best_one_is_explained_row_by_row() -> None:
    inputs = np.concatenate([picture(), picture() * 0])
    explainer = Explainer(TwoMaps(), contract())
    found = explainer.heat(inputs)
    assert found.classes.tolist() == [0, 0]
    np.testing.assert_array_equal(found.heat[0], explainer.heat(picture()).heat[0])
    assert found.scores[1] == pytest.approx([0.5, 0.5])


def test_many_rows_are_explained_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(70, 1, 8, 8)).astype(np.float32)
    explainer = Explainer(TwoMaps(), contract())
    together = explainer.heat(inputs)
    assert len(together.heat) == 70
    for i in (0, 31, 32, 69):
        np.testing.assert_allclose(explainer.heat(inputs[i : i + 1]).heat[0], together.heat[i], atol=1e-6)
    np.testing.assert_allclose(explainer.scores(inputs), together.scores, rtol=1e-6)


def test_another_layer_can_be_named_and_a_wrong_one_is_told() -> None:
    assert Explainer(Branches(), contract()).layer == "down"
    assert Explainer(Branches(), contract(), layer="body").layer == "body"
    with pytest.raises(UsageError, match="no layer 'elsewhere'") as caught:
        Explainer(Branches(), contract(), layer="elsewhere")
    assert "down" in caught.value.fix
    with pytest.raises(UsageError, match="not a map"):
        Explainer(Branches(), contract(), layer="fc")


def test_a_layer_that_runs_twice_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)
            self.fc = nn.Linear(1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(self.conv(x)).mean(dim=(2, 3)))

    with pytest.raises(UsageError, match="nothing to weigh"):
        Explainer(Twice(), contract())
    explainer = Explainer(TwoMaps(), contract())
    explainer.graph = Explainer(TwoMaps(), contract()).graph
    with pytest.raises(UsageError, match="runs 2 times"):
        Explainer(Twice(), contract(), layer="conv")


def test_a_layer_without_influence_is_told() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aside = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.aside(x)
            return self.main(x).mean(dim=(2, 3))

    with pytest.raises(UsageError, match=r"no layer|not a map"):
        Explainer(Aside(), contract(), layer="aside")


def drawn_quickly(spec: ModelSpec, options: dict[str, object] | None = None) -> nn.Module:
    """A network of uniform weights: drawing a hundred million by the book takes a minute, and changes nothing here."""
    with torch.device("meta"):
        network = build_model(spec, options)
    network = network.to_empty(device="cpu").eval()
    torch.manual_seed(0)
    for value in (*network.parameters(), *network.buffers()):
        if value.is_floating_point():
            fan = max(1, value[0].numel()) if value.ndim > 1 else 1
            value.data.uniform_(-1, 1).mul_((3 / fan) ** 0.5) if value.ndim > 1 else value.data.fill_(0.5)
        else:
            value.data.zero_()
    return network


WEIGHED = {
    "cnn_baseline": ("features", (256, 6, 6)),
    "compact": ("stages", (320, 6, 6)),
    "convnext_base": ("features", (1024, 7, 7)),
    "convnext_small": ("features", (768, 7, 7)),
    "convnext_tiny": ("features", (768, 7, 7)),
    "resemotenet": ("features", (256, 6, 6)),
    "resnet18": ("layer4", (512, 7, 7)),
    "resnet34": ("layer4", (512, 7, 7)),
    "resnet50": ("layer4", (2048, 7, 7)),
    "resnet50_fpn": ("backbone.layer4", (2048, 7, 7)),
    "resnet50_fpn_hu": ("backbone.layer4", (2048, 7, 7)),
    "resnet50_fpn_transformer": ("encoder.project", (256, 7, 7)),
    "resnet50_hu": ("backbone.layer4", (2048, 7, 7)),
    "resnet50_transformer": ("encoder.project", (256, 7, 7)),
    "resnet50_vggface2": ("layer4", (2048, 7, 7)),
}
"""Every architecture's layer and its map (channels, height, width) at the published input."""


@pytest.mark.parametrize("arch", classifiers())
def test_every_architecture_s_layer_is_its_last_map_with_places(arch: str) -> None:
    known = architecture(arch)
    preprocess = PreprocessSpec(size_hw=known.size_hw, colour="rgb", mean=known.mean, std=known.std)
    spec = ModelSpec(name=arch.replace("_", "-"), arch=arch, preprocess=preprocess)
    with torch.device("meta"):  # shapes need no numbers
        graph = read_graph(build_model(spec).eval(), torch.zeros(1, *spec.input_shape))
    layer = default_layer(graph, spec)
    (found,) = [m for m in graph.maps if m.name == layer]
    assert (layer, found.shape, found.calls) == (*WEIGHED[arch], 1)


def test_families_with_a_layer_of_their_own_are_registered() -> None:
    assert set(FAMILY_LAYERS) <= set(classifiers())


DEEPER = {"convnext_base", "convnext_small", "resnet34", "resnet50_hu"}
"""The code of another one, repeated more often."""


@pytest.mark.parametrize("arch", [name for name in classifiers() if name not in DEEPER])
def test_every_family_has_a_layer_with_heat_and_stages_that_shrink(arch: str) -> None:
    known = architecture(arch)
    size = (64, 64) if known.size_hw[0] > 96 else known.size_hw
    preprocess = PreprocessSpec(size_hw=size, colour="rgb", mean=known.mean, std=known.std)
    spec = ModelSpec(name=arch.replace("_", "-"), arch=arch, preprocess=preprocess)
    # The encoding of places is learnt for one size.
    options = {"size_hw": size} if "transformer" in arch else {}
    explainer = Explainer(drawn_quickly(spec, options), spec)
    inputs = np.random.default_rng(0).normal(size=(1, *spec.input_shape)).astype(np.float32)
    assert any(explainer.heat(inputs, np.array([k])).peak[0] > 0 for k in range(7)), "no class gains from anything"
    ends = stages(explainer.graph)
    assert len(ends) >= 3
    assert ends[0].shape[1] > ends[-1].shape[1]
    maps = explainer.maps(inputs, [stage.name for stage in ends])
    assert [m.shape[1:] for m in maps.values()] == [stage.shape for stage in ends]


def test_stages_end_where_blocks_do() -> None:
    preprocess = PreprocessSpec(size_hw=(64, 64), colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    spec = ModelSpec(name="r", arch="resnet50", preprocess=preprocess)
    explainer = Explainer(drawn_quickly(spec), spec)
    assert [s.name for s in stages(explainer.graph)] == ["relu", "layer1", "layer2", "layer3", "layer4"]
    assert explainer.layer == "layer4"


def test_telling_channels_are_those_that_vary_over_the_places() -> None:
    maps = np.zeros((5, 4, 4), np.float32)
    maps[1] += 100.0  # strong, and the same everywhere
    maps[3, 0, 0], maps[0, 0, 0] = 5.0, 2.0
    assert telling_channels(maps, 2).tolist() == [3, 0]
    assert len(telling_channels(maps, 9)) == 5
