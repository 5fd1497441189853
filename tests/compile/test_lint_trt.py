"""The TensorRT rules: a right file passes, and each planted violation is found at its node, explained."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_fer.compile.lint_trt import lint_trt


def network(
    *,
    opset: int = 17,
    kind: type = np.int8,
    zero_point: int | None = 0,
    scale: float = 0.05,
    axis: int = 0,
    stored_weight: bool = False,
    int32_bias: bool = False,
    quantised_weight: bool = True,
    per_channel_input: bool = False,
    quantised_shortcut: bool = True,
) -> onnx.ModelProto:
    """Two convolutions and a shortcut with Q/DQ in the trt dialect; each argument plants one violation."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 4, 1, 1)).astype(np.float32)
    arrays: dict[str, np.ndarray] = {
        "s": np.full(4, scale, np.float32) if per_channel_input else np.array(scale, np.float32),
        "ws": np.full(4, 0.02, np.float32),
        "wz": np.zeros(4, np.int8),
        "w": weight,
    }
    point = ["z"] if zero_point is not None else []
    if zero_point is not None:
        arrays["z"] = np.full(4 if per_channel_input else (), zero_point, kind)
    channel = {"axis": 1} if per_channel_input else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", *point], ["xq"], "input.q", **channel),
        helper.make_node("DequantizeLinear", ["xq", "s", *point], ["x"], "input.dq", **channel),
    ]
    if not quantised_weight:
        read = "w"
    else:
        read = "wd"
        if stored_weight:
            arrays["wq"] = np.ones((4, 4, 1, 1), np.int8)
        else:
            nodes.append(helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], "w.q", axis=axis))
        nodes.append(helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], "w.dq", axis=axis))
    if int32_bias:
        arrays |= {"bq": np.ones(4, np.int32), "bs": np.full(4, 0.001, np.float32), "bz": np.zeros(4, np.int32)}
        nodes.append(helper.make_node("DequantizeLinear", ["bq", "bs", "bz"], ["b"], "b.dq", axis=0))
    else:
        arrays["b"] = np.zeros(4, np.float32)
    nodes.append(helper.make_node("Conv", ["x", read, "b"], ["c"], "conv"))
    nodes.append(helper.make_node("Relu", ["input"], ["r"], "relu"))
    nodes.append(helper.make_node("Add", ["c", "x" if quantised_shortcut else "r"], ["logits"], "add"))
    value = ["n", 4, 8, 8]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, value)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, value)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_a_right_file_has_no_violation():
    assert lint_trt(network()) == []


@pytest.mark.parametrize(
    ("planted", "rule", "node"),
    [
        ({"zero_point": 3}, "zero-point-zero", "input.q"),
        ({"kind": np.uint8}, "int8-only", "input.dq"),
        ({"kind": np.uint8, "zero_point": 128}, "zero-point-zero", "input.dq"),
        ({"zero_point": None}, "zero-point-missing", "input.q"),
        ({"int32_bias": True}, "int32", "b.dq"),
        ({"scale": 0.0}, "scale-positive", "input.q"),
        ({"scale": -0.1}, "scale-positive", "input.q"),
        ({"scale": float("nan")}, "scale-positive", "input.q"),
        ({"axis": 1}, "weight-axis", "w.q"),
        ({"stored_weight": True}, "weight-fp32", "w.dq"),
        ({"quantised_weight": False}, "mixed", "conv"),
        ({"per_channel_input": True}, "per-tensor", "input.q"),
        ({"quantised_shortcut": False}, "residual", "add"),
        ({"opset": 18}, "opset", "(graph)"),
    ],
)
def test_each_violation_is_found_where_it_is_and_explained(planted, rule, node):
    found = {(violation.rule, violation.node): violation for violation in lint_trt(network(**planted))}
    assert (rule, node) in found, list(found)
    sentence = str(found[rule, node])
    assert node in sentence
    assert len(sentence) > 30
