"""VGGFace2's published layout: other names, other strides, another pooling, the same function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from edge_fer.core.errors import CheckpointError
from edge_fer.models.pretrained import load_trunk
from edge_fer.models.registry import architecture
from edge_fer.models.vggface2 import resnet50_vggface2

BLOCKS = (3, 4, 6, 3)


def published(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of the published names and shapes, written down here from the published network's definition."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, out: int, into: int, side: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, into, side, side, generator=generator) / (into * side * side) ** 0.5
        state[f"{name}_bn.weight"] = torch.rand(out, generator=generator) + 0.5
        state[f"{name}_bn.bias"] = torch.randn(out, generator=generator) * 0.1
        state[f"{name}_bn.running_mean"] = torch.randn(out, generator=generator) * 0.1
        state[f"{name}_bn.running_var"] = torch.rand(out, generator=generator) + 0.5

    convolution("conv1_7x7_s2", 64, 3, 7)
    into = 64
    for stage, (blocks, width) in enumerate(zip(BLOCKS, (64, 128, 256, 512), strict=True), start=2):
        for block in range(1, blocks + 1):
            name = f"conv{stage}_{block}"
            convolution(f"{name}_1x1_reduce", width, into, 1)
            convolution(f"{name}_3x3", width, width, 3)
            convolution(f"{name}_1x1_increase", 4 * width, width, 1)
            if block == 1:
                convolution(f"{name}_1x1_proj", 4 * width, into, 1)
            into = 4 * width
    state["classifier.weight"] = torch.randn(10, 2048, 1, 1, generator=generator)
    state["classifier.bias"] = torch.randn(10, generator=generator)
    return state


def features(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The published network's last map, computed from its own names, operation by operation."""

    def step(name: str, x: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
        x = functional.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)
        norm = f"{name}_bn"
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return functional.batch_norm(x, mean, var, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-5)

    x = step("conv1_7x7_s2", x, 2, 3).relu()
    x = functional.max_pool2d(x, 3, 2, 0, ceil_mode=True)
    for stage, blocks in enumerate(BLOCKS, start=2):
        for block in range(1, blocks + 1):
            name = f"conv{stage}_{block}"
            stride = 2 if block == 1 and stage > 2 else 1
            shortcut = step(f"{name}_1x1_proj", x, stride) if block == 1 else x
            x = step(f"{name}_1x1_reduce", x, stride).relu()
            x = step(f"{name}_3x3", x, 1, 1).relu()
            x = (step(f"{name}_1x1_increase", x) + shortcut).relu()
    return x


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return published()


def test_published_weights_compute_in_our_network_what_they_compute_in_theirs(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    torch.save(state, tmp_path / "resnet50_ft_dims_2048.pth")
    network = resnet50_vggface2(7)
    loaded = load_trunk(network, "resnet50_vggface2", tmp_path / "resnet50_ft_dims_2048.pth")
    assert loaded.left_out == ("classifier.weight", "classifier.bias")
    assert {name for name in loaded.fresh if not name.endswith("num_batches_tracked")} == {"fc.weight", "fc.bias"}
    network.eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(network.levels(x)[3], features(state, x), rtol=1e-3, atol=1e-4)  # type: ignore[operator]


def test_they_are_not_taken_for_torchvisions(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "weights.pth")
    from edge_fer.models.resnet import resnet50

    with pytest.raises(CheckpointError, match="does not hold the trunk of a resnet50: it has no conv1"):
        load_trunk(resnet50(7), "resnet50", tmp_path / "weights.pth")


def test_pixels_lose_the_published_mean_and_are_not_divided() -> None:
    found = architecture("resnet50_vggface2")
    for mean, std, published_mean in zip(found.mean, found.std, (131.0912, 103.8827, 91.4953), strict=True):
        # What reaches the network is (p/255 - mean)/std, which has to be p - published_mean.
        assert (200 / 255 - mean) / std == pytest.approx(200 - published_mean, rel=1e-5)
