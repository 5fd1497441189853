"""From torch to folded ONNX: the same function, names that last, and figures that agree with the literature."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny_networks import COMPACT, RESNET
from torch import nn

from edge_fer.compile.calibrate import open_session, peak_magnitudes, run_logits
from edge_fer.compile.export_onnx import OPSET, check_parity, compare, export_onnx
from edge_fer.compile.graph import Graph, count_macs, model_hash, opset_of
from edge_fer.compile.plan import plan_quantisation
from edge_fer.compile.quantize_int8 import quantize_int8
from edge_fer.core.errors import CheckpointError, EdgeFerError
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.models.registry import build_model


def test_onnx_computes_what_torch_computes(tiny, tiny_onnx, tiny_inputs, resnet, resnet_onnx, resnet_inputs):
    for module, model, inputs in ((tiny, tiny_onnx, tiny_inputs), (resnet, resnet_onnx, resnet_inputs)):
        logits = run_logits(open_session(model, 1), inputs)
        parity = check_parity(module, logits, inputs, "net")
        assert parity.n == len(inputs)
        assert parity.top1_agreement == 1.0
        # float32 sums in another order on every processor: 24 bits of the largest logit, and what many layers add.
        assert parity.max_gap < 1e-5 * max(10.0, np.abs(logits).max())


def test_another_function_is_not_passed_off_as_equal(tiny, tiny_onnx, tiny_inputs):
    logits = run_logits(open_session(tiny_onnx, 1), tiny_inputs)
    with pytest.raises(EdgeFerError, match="does not compute what torch computes"):
        check_parity(tiny, logits + 0.1, tiny_inputs, "net")
    with pytest.raises(EdgeFerError, match="does not compute"):
        check_parity(tiny, np.full_like(logits, np.nan), tiny_inputs, "net")


def test_the_graph_is_opset_17_with_a_free_batch_and_our_names(tiny_onnx):
    onnx.checker.check_model(tiny_onnx, full_check=True)
    assert opset_of(tiny_onnx) == OPSET == 17
    assert [value.name for value in tiny_onnx.graph.input] == ["input"]
    assert [value.name for value in tiny_onnx.graph.output] == ["logits"]
    session = open_session(tiny_onnx, 1)
    for n in (1, 5):
        assert session.run(None, {"input": np.zeros((n, 1, 32, 32), np.float32)})[0].shape == (n, 7)


def test_no_batch_norm_is_left_and_every_convolution_has_a_bias(resnet_onnx):
    kinds = [node.op_type for node in resnet_onnx.graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == 20
    assert all(len(node.input) == 3 for node in resnet_onnx.graph.node if node.op_type == "Conv")


def test_tensors_are_named_after_the_weights_that_make_them(resnet_onnx):
    graph = Graph(resnet_onnx)
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names)
    assert "layer2.0.downsample.0" in names
    assert graph.producer["layer1.0.conv1.relu"].input[0] == "layer1.0.conv1"


def test_exporting_twice_gives_the_same_network_and_other_weights_another(tiny):
    first, second = export_onnx(tiny, COMPACT), export_onnx(tiny, COMPACT)
    assert first.SerializeToString() == second.SerializeToString()
    assert model_hash(first) == model_hash(second)
    changed = onnx.ModelProto()
    changed.CopyFrom(first)
    weight = numpy_helper.to_array(changed.graph.initializer[0]).copy()
    weight.flat[0] += 1e-3
    changed.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, changed.graph.initializer[0].name))
    assert model_hash(changed) != model_hash(first)


@pytest.mark.parametrize(("arch", "gmacs"), [("resnet18", 1.814), ("resnet50", 4.087)])
def test_macs_are_those_that_the_literature_counts(arch, gmacs):
    spec = ModelSpec(
        name="x",
        arch=arch,
        labels=tuple(f"c{i}" for i in range(7)),
        preprocess=PreprocessSpec(size_hw=(224, 224), colour="rgb", mean=(0.5,) * 3, std=(0.5,) * 3),
    )
    assert count_macs(export_onnx(build_model(spec), spec)) / 1e9 == pytest.approx(gmacs, abs=2e-3)


class WithNorms(nn.Module):
    """A convolution with a bias and a norm, one that is read twice and cannot be folded, and a spatial mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(1, 6, 3, bias=True, groups=1), nn.BatchNorm2d(6, eps=1e-3)
        self.b, self.norm_b = nn.Conv2d(6, 6, 1, groups=3, bias=False), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm_a(self.a(x)))
        raw = self.b(x)
        return self.fc((self.norm_b(raw) + raw).mean(dim=(2, 3)))


def test_folding_changes_the_graph_and_not_the_function():
    torch.manual_seed(0)
    model = WithNorms().eval()
    for norm in (model.norm_a, model.norm_b):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(norm.running_var, 0.01, 5)
    exported = export_onnx(model, COMPACT)
    kinds = [node.op_type for node in exported.graph.node]
    assert kinds.count("BatchNormalization") == 1, "the norm of a convolution that is read twice must stay"
    assert "GlobalAveragePool" in kinds
    assert "ReduceMean" not in kinds
    inputs = np.random.default_rng(0).normal(size=(4, 1, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(inputs)).numpy()
    assert compare(expected, run_logits(open_session(exported, 1), inputs)).max_gap < 1e-5


class OneNorm(nn.Module):
    """Two convolutions with the same biases, of which the exporter stores one; only the first has a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 7)
        nn.init.zeros_(self.a.bias)
        nn.init.zeros_(self.b.bias)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.b(torch.relu(self.norm(self.a(x)))))
        return self.fc(x.mean(dim=(2, 3)))


class SharedConvolution(nn.Module):
    """One convolution run twice, with two norms of which the exporter stores one factor, or without any."""

    def __init__(self, *, norms: bool) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4) if norms else nn.Identity() for _ in range(2)])
        self.fc = nn.Linear(4, 7)
        for norm in self.norms if norms else ():
            nn.init.normal_(norm.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for norm in self.norms:
            x = torch.relu(norm(self.shared(x)))
        return self.fc(x.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "build",
    [OneNorm, lambda: SharedConvolution(norms=True), lambda: SharedConvolution(norms=False)],
    ids=["equal biases", "shared weights, two norms", "shared weights"],
)
def test_what_the_exporter_stores_once_serves_every_layer_that_reads_it(build):
    torch.manual_seed(0)
    model = build().eval()
    inputs = np.random.default_rng(0).normal(size=(4, 1, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(inputs)).numpy()
    exported = export_onnx(model, COMPACT)
    assert compare(expected, run_logits(open_session(exported, 1), inputs)).max_gap < 1e-5
    plan = plan_quantisation(Graph(exported))
    assert len(plan.layers) == sum(node.op_type == "Conv" for node in exported.graph.node)
    peaks = peak_magnitudes(exported, inputs)
    for dialect in ("cpu", "trt"):
        int8 = quantize_int8(exported, plan, {name: peaks[name] for name in plan.measured}, dialect)
        assert compare(expected, run_logits(open_session(int8, 1), inputs)).max_gap < 0.02 * np.abs(expected).max()


def test_a_network_that_does_not_fit_its_contract_is_refused(tiny):
    rgb = COMPACT.model_copy(update={"preprocess": RESNET.preprocess})
    with pytest.raises(CheckpointError, match="does not run on an input of"):
        export_onnx(tiny, rgb)
    with pytest.raises(CheckpointError, match=r"\(7,\) values a face for 2 labels"):
        export_onnx(tiny, COMPACT.model_copy(update={"labels": ("a", "b")}))
