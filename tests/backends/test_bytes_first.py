"""OpenVINO rearranges the pixels of an int8 network as bytes, and computes the same as in the order of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fer.backends.openvino.build import import_openvino, settings
from edge_fer.backends.openvino.bytes_first import round_before_rearranging

SIDE = 8


def _file(path: Path, *, scales: int = 1, extra_reader: bool = False) -> Path:
    """Blocks of 2x2 pixels, quantised, into a convolution; ``scales`` above 1 quantises them channel by channel."""
    rng = np.random.default_rng(0)
    channels = 4 * 3
    arrays = {
        "scale": np.full(scales, 0.02, np.float32) if scales > 1 else np.float32(0.02),
        "zero": np.zeros(scales, np.int8) if scales > 1 else np.int8(0),
        "weight": rng.normal(size=(8, channels, 2, 2)).astype(np.float32),
    }
    nodes = [
        helper.make_node("SpaceToDepth", ["input"], ["blocks"], "blocks", blocksize=2),
        helper.make_node("QuantizeLinear", ["blocks", "scale", "zero"], ["bytes"], "q", axis=1),
        helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["values"], "dq", axis=1),
        helper.make_node("Conv", ["values", "weight"], ["conv"], "conv"),
        helper.make_node("GlobalAveragePool", ["conv"], ["pooled"], "pool"),
    ]
    if extra_reader:
        nodes.append(helper.make_node("GlobalMaxPool", ["blocks"], ["peak"], "peak"))
        nodes.append(helper.make_node("ReduceMax", ["peak"], ["most"], "most", keepdims=0))
        nodes.append(helper.make_node("Add", ["pooled", "most"], ["logits"], "sum"))
    else:
        nodes.append(helper.make_node("Flatten", ["pooled"], ["logits"], "logits"))
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def _answer(model: object) -> np.ndarray:
    batch = np.random.default_rng(1).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)
    compiled = import_openvino().Core().compile_model(model, "CPU", settings("int8", 1))
    return np.array(compiled(batch)[0])


def test_the_order_changes_and_the_answer_does_not(tmp_path: Path) -> None:
    path = _file(tmp_path / "blocks.onnx")
    core = import_openvino().Core()
    before, after = core.read_model(str(path)), core.read_model(str(path))
    assert round_before_rearranging(after) == 1
    moved = next(op for op in after.get_ordered_ops() if op.get_type_name() == "SpaceToDepth")
    assert moved.output(0).get_element_type().to_string() == "i8"
    np.testing.assert_array_equal(_answer(after), _answer(before))
    assert round_before_rearranging(after) == 0


@pytest.mark.parametrize("other", [{"scales": 12}, {"extra_reader": True}])
def test_what_depends_on_the_order_stays_as_it_is(tmp_path: Path, other: dict[str, int]) -> None:
    model = import_openvino().Core().read_model(str(_file(tmp_path / "blocks.onnx", **other)))
    assert round_before_rearranging(model) == 0
