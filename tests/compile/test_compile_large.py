"""ResNet-50 and ConvNeXt-Tiny through the whole of ``compile``: every layer in int8 on both backends, and a mixture by
the stopwatch that passes the gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edge_fer.backends.race import Entrant, Timing
from edge_fer.compile.canary_faces import face_batch
from edge_fer.compile.compile_model import compile_model
from edge_fer.compile.decide import chosen_trial
from edge_fer.compile.executed import executed_by_onnxruntime, executed_by_openvino
from edge_fer.compile.request import CompileRequest
from edge_fer.core.bundle import Bundle, open_bundle
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.models.checkpoint import save_checkpoint
from edge_fer.models.registry import build_model

pytestmark = pytest.mark.slow

LAYERS = {"resnet50": 53, "convnext_tiny": 58}
"""Weighted layers but the last, which makes the logits."""


def contract(arch: str) -> ModelSpec:
    preprocess = PreprocessSpec(size_hw=(32, 32), colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    return ModelSpec(name=arch.replace("_", "-"), arch=arch, preprocess=preprocess)


@pytest.fixture(scope="module", params=sorted(LAYERS))
def fitted(request, faces, tmp_path_factory) -> tuple[str, Path]:
    """The network with random layers and a last one that was fitted, by least squares, to the faces of this folder."""
    arch = request.param
    spec = contract(arch)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build_model(spec).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("layer_scale"):
            parameter.fill_(0.2)  # a fresh ConvNeXt's 1e-6 would leave its blocks without a say
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    for batch in torch.from_numpy(face_batch(faces[0], spec.preprocess)).split(32):
        model(batch)
    hook.remove()
    features = torch.cat(seen).double()
    mean = features.mean(dim=0)
    wanted = 4 * torch.nn.functional.one_hot(torch.from_numpy(faces[1]), 7).double() - 1
    centred = features - mean
    scatter = centred.T @ centred
    ridge = 0.01 * scatter.diagonal().mean() * torch.eye(len(scatter), dtype=torch.float64)
    weight = torch.linalg.solve(scatter + ridge, centred.T @ wanted).T
    last.weight.copy_(weight.float())
    last.bias.copy_((wanted.mean(dim=0) - weight @ mean).float())
    path = tmp_path_factory.mktemp(arch) / f"{arch}.safetensors"
    save_checkpoint(path, spec, {}, model)
    return arch, path


def int8_form(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load(bundle.file(bundle.variant("int8", "cpu").file))


def stopwatch(us: dict[str, float]):
    """Times by the first of these words that stands in an engine's name."""

    def given(entrants: list[Entrant], spec, *, threads, progress) -> list[Timing]:
        return [Timing(rounds_us=(next(t for word, t in us.items() if word in e.name),) * 3) for e in entrants]

    return given


def test_it_compiles_to_int8_that_both_backends_really_compute_and_that_agrees(fitted, face_folder, tmp_path):
    arch, checkpoint = fitted
    out = tmp_path / "bundle"
    report = compile_model(
        CompileRequest(checkpoint=checkpoint, out=out, precision="int8", calibration=face_folder, build=False)
    )
    int8 = int8_form(open_bundle(out))
    assert executed_by_onnxruntime(int8).int8 == LAYERS[arch]
    assert executed_by_openvino(int8, contract(arch).input_shape).int8 == LAYERS[arch]
    for candidate in report.candidates:
        if candidate.precision == "int8":
            assert candidate.error is None
            assert candidate.parity.top1_agreement >= 0.9


def test_the_ladder_ends_in_what_is_fastest_and_passes_the_gate(fitted, face_folder, tmp_path):
    arch, checkpoint = fitted
    kind = "depthwise" if arch == "convnext_tiny" else "first convolution"
    out = tmp_path / "bundle"
    request = CompileRequest(
        checkpoint=checkpoint,
        out=out,
        precision="int8",
        calibration=face_folder,
        data=face_folder,
        max_drop=5.0,
        min_speedup=1.1,
        backend="onnxruntime",
    )
    times = {kind: 30.0, "int8": 40.0, "fp32": 100.0}
    report = compile_model(request, stopwatch=stopwatch(times))
    assert report.gate.passed
    chosen = chosen_trial(report.ladder)
    assert (chosen.precision, round(chosen.speedup, 2)) == ("int8", 3.33)
    expected = 18 if arch == "convnext_tiny" else 1
    assert len(chosen.float_layers) == expected
    executed = executed_by_onnxruntime(int8_form(open_bundle(out)))
    assert executed.int8 == LAYERS[arch] - expected
    assert np.isfinite([c.drop for c in report.candidates if c.precision == "int8"]).all()
