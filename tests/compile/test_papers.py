"""Every network of the papers: parameters counted on paper, the same function in ONNX, int8 in both CPU engines."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from edge_fer.backends.registry import open_onnx
from edge_fer.compile.calibrate import choose_ranges, collect, open_session, run_logits
from edge_fer.compile.export_onnx import check_parity, export_onnx
from edge_fer.compile.graph import Graph
from edge_fer.compile.plan import plan_quantisation
from edge_fer.compile.quantize_int8 import quantize_int8
from edge_fer.core.engine import INPUT, OUTPUT
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.models.registry import build_model

GREY = PreprocessSpec(size_hw=(48, 48), colour="gray", mean=(0.508,), std=(0.255,))
SMALL = PreprocessSpec(size_hw=(64, 64), colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
PAPERS: dict[str, tuple[PreprocessSpec, dict[str, object]]] = {
    "cnn_baseline": (GREY, {}),
    "resemotenet": (GREY, {}),
    "resnet50_fpn": (SMALL, {}),
    "resnet50_hu": (SMALL, {}),
    "resnet50_fpn_hu": (SMALL, {}),
    "resnet50_transformer": (SMALL, {}),
    "resnet50_fpn_transformer": (SMALL, {}),
}


def conv(before: int, after: int, side: int, *, bias: bool = False) -> int:
    return before * after * side * side + after * bias


def dense(before: int, after: int) -> int:
    return before * after + after


def convolutions(widths: list[int], repeats: int) -> int:
    """3x3 convolutions with batch norm, each width several times."""
    total = 0
    for before, after in pairwise(widths):
        for turn in range(repeats):
            total += conv(after if turn else before, after, 3) + 2 * after
    return total


def trunk() -> int:
    """ResNet-50 without its classifier, RGB."""
    total = conv(3, 64, 7) + 2 * 64
    before = 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        total += conv(before, 4 * width, 1) + 2 * 4 * width
        for _ in range(depth):
            total += conv(before, width, 1) + conv(width, width, 3) + conv(width, 4 * width, 1) + 2 * (2 + 4) * width
            before = 4 * width
    return total


def pyramid(widths: tuple[int, ...]) -> int:
    return sum(conv(width, 256, 1, bias=True) + conv(256, 256, 3, bias=True) for width in widths)


def encoder(channels: int, places: int) -> int:
    layer = 4 * dense(256, 256) + dense(256, 1024) + dense(1024, 256) + 2 * 2 * 256
    return conv(channels, 256, 1, bias=True) + 256 + (1 + places) * 256 + 3 * layer


def residual(before: int, after: int) -> int:
    return conv(before, after, 3) + conv(after, after, 3) + conv(before, after, 1) + 3 * 2 * after


ON_PAPER = {
    "resnet18": conv(3, 64, 7) + 128 + 4 * (conv(64, 64, 3) + 128)
    + sum(residual(w, 2 * w) + 2 * (conv(2 * w, 2 * w, 3) + 4 * w) for w in (64, 128, 256)) + dense(512, 7),
    "cnn_baseline": convolutions([1, 64, 128, 256], 2) + dense(256, 128) + dense(128, 7),
    "resemotenet": convolutions([1, 64, 128, 256], 1) + 2 * 256 * 16
    + residual(256, 512) + residual(512, 1024) + residual(1024, 2048)
    + dense(2048, 1024) + dense(1024, 512) + dense(512, 256) + dense(256, 7),
    "resnet50_fpn": trunk() + pyramid((512, 1024, 2048)) + conv(2048, 256, 3, bias=True) + conv(256, 256, 3, bias=True)
    + 5 * dense(256, 7) + dense(35, 7),
    "resnet50_hu": trunk() + dense(2048, 7),
    "resnet50_fpn_hu": trunk() + pyramid((256, 512, 1024, 2048)) + dense(1024, 7) + 4 * dense(256, 7),
    "resnet50_transformer": trunk() + encoder(2048, 49) + dense(256, 7),
    "resnet50_fpn_transformer": trunk() + pyramid((256, 512, 1024, 2048)) + encoder(256, 49) + 5 * dense(256, 7),
}  # fmt: skip


@pytest.mark.parametrize("arch", sorted(ON_PAPER))
def test_parameters_are_those_counted_on_paper(arch: str) -> None:
    small = PAPERS.get(arch, (SMALL, {}))[0]
    preprocess = small if small is GREY else small.model_copy(update={"size_hw": (224, 224)})
    with torch.device("meta"):
        model = build_model(ModelSpec(name=arch, arch=arch, preprocess=preprocess))
    assert sum(p.numel() for p in model.parameters()) == ON_PAPER[arch]


def test_resnet18_has_the_published_number_of_parameters() -> None:
    assert ON_PAPER["resnet18"] == 11_180_103
    grey = SMALL.model_copy(update={"colour": "gray", "mean": (0.5,), "std": (0.25,)})
    with torch.device("meta"):
        model = build_model(ModelSpec(name="grey", arch="resnet18", preprocess=grey))
    assert sum(p.numel() for p in model.parameters()) == 11_173_831


def settled(arch: str) -> tuple[torch.nn.Module, ModelSpec, np.ndarray]:
    """A network whose batch norms have seen the inputs, so that its maps are of the size that training leaves."""
    preprocess, options = PAPERS[arch]
    spec = ModelSpec(name=arch, arch=arch, preprocess=preprocess)
    torch.manual_seed(0)
    model = build_model(spec, options)
    inputs = np.random.default_rng(0).normal(size=(8, *spec.input_shape)).astype(np.float32)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
        if name.endswith(".bn3"):
            # Training makes a block's branch small beside its shortcut; without that fifty layers amplify any noise.
            torch.nn.init.constant_(module.weight, 0.3)
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.from_numpy(inputs))
    return model.eval().requires_grad_(False), spec, inputs


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted(PAPERS))
def test_it_exports_exactly_and_runs_in_int8_on_both_cpu_engines(arch: str, slim_resemotenet, tmp_path) -> None:
    with slim_resemotenet():
        model, spec, inputs = settled(arch)
    onnx_model = export_onnx(model, spec)
    logits = run_logits(open_session(onnx_model, 1), inputs)
    assert check_parity(model, logits, inputs, arch).max_gap < 1e-4
    plan = plan_quantisation(Graph(onnx_model))
    ranges = choose_ranges(collect(onnx_model, plan.measured, lambda: iter([inputs])), plan, "minmax")
    int8 = quantize_int8(onnx_model, plan, {name: found.threshold for name, found in ranges.items()}, "cpu")
    path = tmp_path / "int8.onnx"
    path.write_bytes(int8.SerializeToString())
    for backend in ("onnxruntime", "openvino"):
        with open_onnx(path, spec, backend=backend, precision="int8", max_batch=len(inputs)) as engine:
            slot = engine.slots[0]
            slot.inputs[INPUT][:] = inputs
            engine.submit(slot, len(inputs))
            engine.wait(slot)
            got = slot.outputs[OUTPUT]
            noise, signal = np.square(got - logits).mean(), np.square(logits - logits.mean()).mean()
            # Untrained logits hardly differ between inputs, so that noise weighs more than it does after training.
            assert noise < 0.3 * signal, f"{backend}: {noise:.3g} of {signal:.3g}"


def test_auxiliary_heads_are_for_training_only() -> None:
    model, _, inputs = settled("resnet50_fpn_transformer")
    main, others = model.all_heads(torch.from_numpy(inputs[:2]))  # type: ignore[operator]
    assert [tuple(head.shape) for head in others] == [(2, 7)] * 4
    torch.testing.assert_close(main, model(torch.from_numpy(inputs[:2])))


def test_the_transformer_can_tell_places_apart() -> None:
    """Without an encoding of the place, shuffled patches would give the same logits."""
    model, _, inputs = settled("resnet50_transformer")
    encoder_ = model.encoder
    grid = torch.randn(1, 2048, 2, 2)
    with torch.no_grad():
        encoder_.position.normal_()
        one, other = encoder_(grid), encoder_(grid.flip(3))
    assert (one - other).abs().max() > 1e-3
    assert inputs.ndim == 4
