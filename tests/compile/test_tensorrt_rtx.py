"""NVIDIA's own parser and builder take every form of every network of ours through our own builder, and what they would
misread is refused.

TensorRT for RTX parses and builds ahead of time without a driver or a GPU. Nothing here runs an engine.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edge_fer.backends.tensorrt.library import listening
from edge_fer.backends.tensorrt.plan import Order, Plan, build_plan, onnx_form
from edge_fer.compile.calibrate import choose_ranges, collect, peak_magnitudes
from edge_fer.compile.export_detector import export_detector
from edge_fer.compile.export_onnx import export_onnx
from edge_fer.compile.graph import Graph
from edge_fer.compile.lint_trt import lint_trt
from edge_fer.compile.plan import plan_quantisation
from edge_fer.compile.quantize_int8 import quantize_int8
from edge_fer.compile.to_fp16 import to_fp16
from edge_fer.core.errors import BadInputError, DeviceError
from edge_fer.core.spec import AnySpec, DetectorSpec, ModelSpec, PreprocessSpec
from edge_fer.models.registry import ARCHITECTURES, build_model

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for Linux and Windows on x86-64 only")

Slim = Callable[[], AbstractContextManager[None]]
SIDE = 64
"""Input side in pixels: what is under test is the graph, not how long a large one takes."""
LARGE = {"convnext_small", "convnext_base", "resnet34"}
"""The same blocks as in a smaller network of their family, more often."""


def order(path: Path, precision: str, shape: tuple[int, int, int], **changes: Any) -> Order:
    given: dict[str, Any] = {"max_batch": 8, "workspace_bytes": 256 << 20, "sm": (8, 6), **changes}
    return Order(path, precision, shape, **given)


def contract(arch: str) -> AnySpec:
    if ARCHITECTURES[arch].task == "detection":
        return DetectorSpec(name=arch, arch=arch, size_hw=(SIDE, SIDE))
    colour = PreprocessSpec(size_hw=(SIDE, SIDE), colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    return ModelSpec(name=arch, arch=arch, preprocess=colour)


def export(arch: str, spec: AnySpec) -> ModelProto:
    torch.manual_seed(0)
    network = build_model(spec).eval().requires_grad_(False)
    return export_detector(network, spec) if isinstance(spec, DetectorSpec) else export_onnx(network, spec)


@pytest.fixture(scope="module", params=sorted(set(ARCHITECTURES) - LARGE))
def forms(
    request: pytest.FixtureRequest, slim_resemotenet: Slim, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AnySpec, dict[str, Path]]:
    """Every form of a network with random weights, as ``edge-fer compile`` writes them."""
    spec = contract(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    with slim_resemotenet():
        model = export(request.param, spec)
    inputs = np.random.default_rng(0).normal(size=(2, *spec.input_shape)).astype(np.float32)
    plan = plan_quantisation(Graph(model))
    ranges = choose_ranges(collect(model, plan.measured, lambda: iter([inputs])), plan, "minmax")
    thresholds = {name: found.threshold for name, found in ranges.items()}
    made = {
        "fp32": model,
        "fp16": to_fp16(model, peak_magnitudes(model, inputs)).model,
        "int8": quantize_int8(model, plan, thresholds, "trt"),
        "int8 for CPUs": quantize_int8(model, plan, thresholds, "cpu"),
    }
    for name, form in made.items():
        onnx.save(form, folder / f"{name}.onnx")
    return spec, {name: folder / f"{name}.onnx" for name in made}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_form_of_every_network_builds_without_a_finding(
    forms: tuple[AnySpec, dict[str, Path]], precision: str
) -> None:
    spec, paths = forms
    built = build_plan(trt, order(paths[onnx_form(trt, precision)], precision, spec.input_shape))
    assert len(built.data) > 10_000
    assert built.record.warnings == ()
    assert built.record.strongly_typed == (precision != "fp32"), "this version has no flags for precisions"


def test_the_other_dialect_is_refused_though_the_parser_would_take_it(
    forms: tuple[AnySpec, dict[str, Path]],
) -> None:
    spec, paths = forms
    with pytest.raises(BadInputError, match=r"quantised for CPUs.*--trt-dialect"):
        build_plan(trt, order(paths["int8 for CPUs"], "int8", spec.input_shape))


@pytest.mark.parametrize(
    ("form", "precision", "says"),
    [
        ("fp32", "int8", "is not quantised"),
        ("fp32", "fp16", "holds float32 weights"),
        ("fp16", "fp32", "holds float16 weights"),
        ("int8", "fp32", "is no form for fp32"),
    ],
)
def test_a_form_of_another_precision_is_refused(
    tiny_forms: dict[str, Path], form: str, precision: str, says: str
) -> None:
    with pytest.raises(BadInputError, match=says):
        build_plan(trt, order(tiny_forms[form], precision, (1, 32, 32)))


@pytest.fixture(scope="module")
def tiny_forms(
    tiny_onnx: ModelProto, tiny_inputs: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Forms of the trained network."""
    folder = tmp_path_factory.mktemp("tiny-forms")
    plan = plan_quantisation(Graph(tiny_onnx))
    ranges = choose_ranges(collect(tiny_onnx, plan.measured, lambda: iter([tiny_inputs])), plan, "mse")
    made = {
        "fp32": tiny_onnx,
        "fp16": to_fp16(tiny_onnx, peak_magnitudes(tiny_onnx, tiny_inputs)).model,
        "int8": quantize_int8(tiny_onnx, plan, {name: found.threshold for name, found in ranges.items()}, "trt"),
    }
    for name, form in made.items():
        onnx.save(form, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in made}


def test_a_plan_is_smaller_in_int8_and_says_how_it_was_built(tiny_forms: dict[str, Path], tmp_path: Path) -> None:
    told: list[str] = []
    cache = tmp_path / "timings" / "x.cache"
    built: dict[str, Plan] = {
        name: build_plan(trt, order(path, name, (1, 32, 32)), timing_cache=cache, on_step=told.append)
        for name, path in tiny_forms.items()
    }
    assert {plan.record.sm for plan in built.values()} == {"sm_86"}
    assert built["int8"].record.library.startswith("tensorrt_rtx ")
    assert told[0] == "TensorRT: building engine, 0 %"
    assert told[-1] == "TensorRT: building engine, 100 %"
    assert not cache.exists(), "TensorRT for RTX times nothing when it builds"


@pytest.mark.parametrize("sm", [(8, 0), (8, 6), (8, 9), (12, 0)])
def test_an_engine_can_be_built_ahead_for_a_gpu_that_is_not_here(
    tiny_forms: dict[str, Path], sm: tuple[int, int]
) -> None:
    built = build_plan(trt, order(tiny_forms["int8"], "int8", (1, 32, 32), sm=sm))
    assert built.record.sm == f"sm_{sm[0]}{sm[1]}"


def test_on_turing_tensorrt_for_rtx_builds_fp16_only_and_the_error_says_why(tiny_forms: dict[str, Path]) -> None:
    """The last layer is a matrix product in fp32, in int8 forms too. NVIDIA's other TensorRT has no such limit."""
    assert build_plan(trt, order(tiny_forms["fp16"], "fp16", (1, 32, 32), sm=(7, 5))).data
    for precision in ("fp32", "int8"):
        with pytest.raises(DeviceError, match="FP32 GEMM is not supported"):
            build_plan(trt, order(tiny_forms[precision], precision, (1, 32, 32), sm=(7, 5)))


def test_an_architecture_that_the_library_does_not_serve_is_a_sentence(tiny_forms: dict[str, Path]) -> None:
    with pytest.raises(DeviceError, match=r"builds nothing for sm_61; it knows SM120.*edge-fer doctor"):
        build_plan(trt, order(tiny_forms["int8"], "int8", (1, 32, 32), sm=(6, 1)))


def test_what_is_no_onnx_file_is_refused_before_the_parser_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for data in (b"", b"not a model", b"\x3a\xff\xff\xff\x0f"):
        path.write_bytes(data)
        with pytest.raises(BadInputError, match="is not an ONNX file"):
            build_plan(trt, order(path, "fp32", (1, 32, 32)))
    with pytest.raises(BadInputError, match="Cannot read"):
        build_plan(trt, order(tmp_path / "none.onnx", "fp32", (1, 32, 32)))


def test_an_operator_that_tensorrt_does_not_know_is_named(tmp_path: Path) -> None:
    node = helper.make_node("NonMaximumSuppression", ["input"], ["logits"], name="odd", domain="com.example")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("input", "logits")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]), opset_imports=opsets), path)
    with pytest.raises(BadInputError, match="does not accept"):
        build_plan(trt, order(path, "fp32", (4, 1, 1)))


def test_tensors_of_other_names_are_refused(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    path = tmp_path / "names.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(BadInputError, match=r"inputs \['x'\] and outputs \['y'\]"):
        build_plan(trt, order(path, "fp32", (1, 8, 8)))


def parse(path: Path) -> tuple[bool, list[str]]:
    """Whether NVIDIA's parser takes a file, and all that it says: the rules that ours stand for."""
    with listening(trt) as said:
        from edge_fer.backends.tensorrt.library import listener

        network = trt.Builder(listener(trt)).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, listener(trt))
        taken = parser.parse_from_file(str(path))
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
    return taken, [*errors, *said.errors, *said.warnings]


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
    path = quantised_convolution(tmp_path)
    assert parse(path) == (True, [])
    assert build_plan(trt, order(path, "int8", (3, 8, 8))).record.warnings == ()


@pytest.mark.parametrize(
    ("violation", "expected"),
    [
        ({"zero_point": 3}, "zero"),
        ({"int32_bias": True}, "DequantizeLinear"),
        ({"unsigned": True, "zero_point": 3}, "zero"),
    ],
)
def test_the_parser_refuses_violations_itself(tmp_path: Path, violation: dict[str, Any], expected: str) -> None:
    taken, said = parse(quantised_convolution(tmp_path, **violation))
    assert not taken
    assert any(expected.lower() in line.lower() for line in said), said


def test_the_parser_takes_unsigned_activations_with_a_warning_that_they_mean_something_else(tmp_path: Path) -> None:
    """Why our builder must refuse the ``cpu`` dialect itself."""
    taken, said = parse(quantised_convolution(tmp_path, unsigned=True))
    assert taken
    assert any("UINT8" in line and "INT8" in line for line in said), said


@pytest.mark.parametrize("violation", [{"zero_point": 3}, {"int32_bias": True}, {"unsigned": True}])
def test_builder_and_linter_find_what_the_parser_refuses_or_misreads(tmp_path: Path, violation: dict[str, Any]) -> None:
    assert lint_trt(onnx.load(quantised_convolution(tmp_path))) == []
    path = quantised_convolution(tmp_path, **violation)
    assert lint_trt(onnx.load(path)) != []
    with pytest.raises(BadInputError, match="not for TensorRT"):
        build_plan(trt, order(path, "int8", (3, 8, 8)))
