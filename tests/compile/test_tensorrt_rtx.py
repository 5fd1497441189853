"""NVIDIA's own parser and builder take our ``trt`` forms, and reject what our linter rejects.

TensorRT for RTX parses and builds ahead of time without a driver or a GPU. Nothing here runs an engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fer.compile.calibrate import choose_ranges, collect
from edge_fer.compile.graph import Graph
from edge_fer.compile.lint_trt import lint_trt
from edge_fer.compile.plan import plan_quantisation
from edge_fer.compile.quantize_int8 import quantize_int8

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for Linux and Windows on x86-64 only")


class Findings(trt.ILogger):  # type: ignore[misc]
    """Collects what the parser and builder say at warning level or above."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.messages: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.Severity.WARNING:
            self.messages.append(message)


def build(path: Path, max_batch: int = 8) -> tuple[int, list[str]]:
    """Engine size in bytes (0 when refused) and everything that was said."""
    findings = Findings()
    builder = trt.Builder(findings)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, findings)
    if not parser.parse_from_file(str(path)):
        return 0, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    source = network.get_input(0)
    shape = list(source.shape)[1:]
    profile.set_shape(source.name, [1, *shape], [1, *shape], [max_batch, *shape])
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    plan = builder.build_serialized_network(network, config)
    return (0 if plan is None else int(plan.nbytes)), findings.messages


def quantised_convolution(
    folder: Path, *, zero_point: int = 0, unsigned: bool = False, int32_bias: bool = False
) -> Path:
    """One convolution with Q/DQ around it, right or with one planted violation."""
    kind = np.uint8 if unsigned else np.int8
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "scale": np.float32(0.05),
        "zero": np.asarray(zero_point, kind),
        "weight": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "weight_scale": np.full(8, 0.02, np.float32),
        "weight_zero": np.zeros(8, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], name="input.quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="input.dequantize"),
        helper.make_node("QuantizeLinear", ["weight", "weight_scale", "weight_zero"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "weight_scale", "weight_zero"], ["w"], axis=0),
    ]
    if int32_bias:
        arrays |= {"bias_q": np.arange(8, dtype=np.int32), "bias_scale": np.full(8, 0.001, np.float32)}
        nodes.append(helper.make_node("DequantizeLinear", ["bias_q", "bias_scale"], ["bias"], axis=0))
    else:
        arrays["bias"] = np.zeros(8, np.float32)
    nodes.append(helper.make_node("Conv", ["x", "w", "bias"], ["logits"], kernel_shape=[3, 3]))
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 8, 6, 6])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    path = folder / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_correct_form_builds_in_silence(tmp_path: Path) -> None:
    size, said = build(quantised_convolution(tmp_path))
    assert size > 0
    assert said == []


@pytest.mark.parametrize(
    ("violation", "expected"),
    [
        ({"zero_point": 3}, "zero"),
        ({"int32_bias": True}, "DequantizeLinear"),
        ({"unsigned": True, "zero_point": 3}, "zero"),
    ],
)
def test_violations_are_refused(tmp_path: Path, violation: dict[str, Any], expected: str) -> None:
    size, said = build(quantised_convolution(tmp_path, **violation))
    assert size == 0
    assert any(expected.lower() in line.lower() for line in said), said


def test_unsigned_activations_build_but_only_with_a_warning_that_they_mean_something_else(tmp_path: Path) -> None:
    """Why our builder must refuse the ``cpu`` dialect itself: the parser takes it and computes another function."""
    size, said = build(quantised_convolution(tmp_path, unsigned=True))
    assert size > 0
    assert any("UINT8" in line and "INT8" in line for line in said), said


@pytest.mark.parametrize("violation", [{"zero_point": 3}, {"int32_bias": True}, {"unsigned": True}])
def test_the_linter_finds_what_the_parser_refuses_or_misreads(tmp_path: Path, violation: dict[str, Any]) -> None:
    assert lint_trt(onnx.load(quantised_convolution(tmp_path))) == []
    assert lint_trt(onnx.load(quantised_convolution(tmp_path, **violation))) != []


@pytest.mark.parametrize("network", ["tiny", "resnet"])
def test_our_own_forms_build_in_silence(tmp_path: Path, network: str, request: pytest.FixtureRequest) -> None:
    model, inputs = request.getfixturevalue(f"{network}_onnx"), request.getfixturevalue(f"{network}_inputs")
    plan = plan_quantisation(Graph(model))
    ranges = choose_ranges(collect(model, plan.measured, lambda: iter([inputs])), plan, "mse")
    thresholds = {name: found.threshold for name, found in ranges.items()}
    path = tmp_path / "model.onnx"
    onnx.save(quantize_int8(model, plan, thresholds, "trt"), path)
    size, said = build(path)
    assert said == []
    assert 0 < size < 2_000_000 + 0.3 * model.ByteSize(), "kernels of about 1.3 MB, and int8 weights"
