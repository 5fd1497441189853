"""Half precision: the same labels, half the bytes, and fp32 where fp16 would overflow."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fer.compile.calibrate import open_session, peak_magnitudes, run_logits
from edge_fer.compile.to_fp16 import FP16_MAX, HEADROOM, to_fp16
from edge_fer.core.errors import BadInputError


def test_half_precision_keeps_the_function_and_halves_the_file(resnet_onnx, resnet_inputs):
    half = to_fp16(resnet_onnx, peak_magnitudes(resnet_onnx, resnet_inputs))
    expected = run_logits(open_session(resnet_onnx, 1), resnet_inputs)
    got = run_logits(open_session(half.model, 1), resnet_inputs)
    assert half.islands == {}
    assert half.model.ByteSize() < 0.51 * resnet_onnx.ByteSize()
    assert np.abs(expected - got).max() < 0.02 * np.abs(expected).max()
    assert (expected.argmax(1) == got.argmax(1)).all()


def test_inputs_and_outputs_stay_fp32(tiny_onnx):
    model = to_fp16(tiny_onnx, {}).model
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    kinds = {t.data_type for t in model.graph.initializer}
    assert kinds == {TensorProto.FLOAT16}


def overflowing(factor: float) -> onnx.ModelProto:
    """Two multiplications, the first of which leaves fp16's range for a factor above about 65504."""
    nodes = [
        helper.make_node("Mul", ["input", "up"], ["big"], "up"),
        helper.make_node("Mul", ["big", "down"], ["small"], "down"),
        helper.make_node("Relu", ["small"], ["logits"], "relu"),
    ]
    arrays = {"up": np.float32(factor), "down": np.float32(1 / factor)}
    value = ["n", 4]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, value)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, value)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_would_overflow_stays_in_fp32_and_is_named():
    model = overflowing(60_000.0)
    inputs = np.array([[1.0, 2.0, 3.0, -4.0]], np.float32)
    half = to_fp16(model, peak_magnitudes(model, inputs))
    assert set(half.islands) == {"up", "down"}
    assert "big reaches" in half.islands["up"]
    got = open_session(half.model, 1).run(None, {"input": inputs})[0]
    assert got == pytest.approx(np.maximum(inputs, 0), rel=1e-2)


def test_there_is_headroom_for_faces_that_were_not_seen():
    model = overflowing(2.0)
    assert to_fp16(model, {"big": FP16_MAX / HEADROOM * 0.99}).islands == {}
    assert set(to_fp16(model, {"big": FP16_MAX / HEADROOM * 1.01}).islands) == {"up", "down"}


def test_a_network_that_overflows_everywhere_is_refused():
    with pytest.raises(BadInputError, match="No layer of this network can run in fp16"):
        to_fp16(overflowing(2.0), dict.fromkeys(("input", "big", "small", "logits"), 1e6))
