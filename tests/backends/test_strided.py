"""Strided 1x1 convolutions of an int8 network stay in int8 on OpenVINO, and compute what they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fer.backends.openvino.build import import_openvino, settings
from edge_fer.backends.openvino.strided import skip_before_strided
from edge_fer.compile.executed import layers_by_precision

SIDE, CHANNELS = 16, 32


def _file(path: Path, *, strides: tuple[int, int] = (2, 2), kernel: int = 1, extra_reader: bool = False) -> Path:
    """A quantised 3x3 convolution, and two that read its result with ``strides``, one with ``kernel``; their sum."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"scale": np.array(0.02, np.float32), "zero": np.array(0, np.int8)}
    nodes = []

    def quantised(name: str, source: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{name}.bytes"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.bytes", "scale", "zero"], [name]))
        return name

    def convolution(name: str, source: str, side: int, stride: int) -> str:
        arrays[f"{name}.weight"] = rng.integers(-127, 128, (CHANNELS, CHANNELS, side, side)).astype(np.int8)
        arrays[f"{name}.scales"] = np.full(CHANNELS, 0.001, np.float32)
        arrays[f"{name}.zeros"] = np.zeros(CHANNELS, np.int8)
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}.weight", f"{name}.scales", f"{name}.zeros"], [f"{name}.w"], axis=0
            )
        )
        border = [side // 2] * 4
        nodes.append(
            helper.make_node("Conv", [source, f"{name}.w"], [name], name, strides=[stride, stride], pads=border)
        )
        return name

    first = convolution("first", quantised("pixels", "input"), 3, 1)
    nodes.append(helper.make_node("Relu", [first], ["positive"]))
    shared = quantised("shared", "positive")
    one, other = convolution("one", shared, kernel, strides[0]), convolution("other", shared, 1, strides[1])
    # The two maps may differ in size: their means do not.
    nodes.append(helper.make_node("GlobalAveragePool", [one], ["one.mean"]))
    nodes.append(helper.make_node("GlobalAveragePool", [other], ["other.mean"]))
    nodes.append(helper.make_node("Add", ["one.mean", "other.mean"], ["sum"]))
    if extra_reader:
        nodes.append(helper.make_node("GlobalAveragePool", [shared], ["shared.mean"]))
        nodes.append(helper.make_node("Add", ["sum", "shared.mean"], ["logits"]))
    else:
        nodes.append(helper.make_node("Identity", ["sum"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "strided",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_the_layers_stay_in_int8_and_the_answer_is_the_same(tmp_path: Path) -> None:
    core = import_openvino().Core()
    path = str(_file(tmp_path / "strided.onnx"))
    before, after = core.read_model(path), core.read_model(path)
    assert skip_before_strided(after) == 2
    assert skip_before_strided(after) == 0
    batch = np.random.default_rng(1).normal(size=(1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    engines = [core.compile_model(model, "CPU", settings("int8", 1)) for model in (before, after)]
    np.testing.assert_allclose(engines[1](batch)[0], engines[0](batch)[0], rtol=1e-5, atol=1e-5)
    assert layers_by_precision(engines[1]) == {"int8": 3}


@pytest.mark.parametrize("other", [{"strides": (2, 1)}, {"kernel": 3}, {"extra_reader": True}, {"strides": (1, 1)}])
def test_a_map_that_is_read_otherwise_too_stays_as_it_is(tmp_path: Path, other: dict[str, object]) -> None:
    model = import_openvino().Core().read_model(str(_file(tmp_path / "strided.onnx", **other)))  # type: ignore[arg-type]
    assert skip_before_strided(model) == 0
