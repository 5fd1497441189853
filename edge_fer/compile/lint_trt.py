"""Rules of TensorRT's ONNX parsers for explicit Q/DQ, checked before any of them sees the file.

The parsers of TensorRT 8.5/8.6 reject some violations with obscure messages and *accept* others while computing
something else: a uint8 zero-point only earns a warning that it "defaults to INT8". So a file that breaks a rule is
never handed on. The rules were read in the 8.6 parser and tried on TensorRT-RTX 1.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from edge_fer.compile.graph import Graph, attributes, opset_of
from edge_fer.compile.plan import fused_output

OPSETS = range(13, 18)
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
_TYPE_NAMES: dict[int, str] = {TensorProto.UINT8: "uint8", TensorProto.INT32: "int32", TensorProto.INT8: "int8"}


@dataclass(frozen=True)
class Violation:
    """One broken rule: its short name, the node, and what is wrong there."""

    rule: str
    node: str
    message: str

    def __str__(self) -> str:
        return f"{self.node}: {self.message} [{self.rule}]"


def lint_trt(model: ModelProto) -> list[Violation]:
    """Every violation, in the order of the graph; an empty list means that TensorRT 8.5 to 11 take the file."""
    graph = Graph(model)
    found: list[Violation] = []
    opset = opset_of(model)
    if opset not in OPSETS:
        found.append(
            Violation(
                "opset",
                "(graph)",
                f"opset {opset}: Q/DQ per channel needs {OPSETS[0]}, TensorRT 8.6 ends at {OPSETS[-1]}",
            )
        )
    for node in graph.nodes:
        if node.op_type in _QDQ:
            found += _check_pair_node(graph, node)
        elif node.op_type == "Conv":
            found += _check_convolution(graph, node)
    return found


def _check_pair_node(graph: Graph, node: NodeProto) -> list[Violation]:
    found = []

    def report(rule: str, message: str) -> None:
        found.append(Violation(rule, node.name or node.output[0], message))

    if len(node.input) < 3 or not node.input[2]:
        report("zero-point-missing", "has no zero-point; without one ONNX means uint8, which TensorRT does not have")
    elif not graph.is_constant(node.input[2]):
        report("zero-point-stored", f"its zero-point {node.input[2]} is computed; it must be stored")
    else:
        kind = graph.initializers[node.input[2]].data_type
        if kind == TensorProto.INT32:
            report("int32", "dequantizes int32 (a quantized bias); TensorRT wants the bias in fp32")
        elif kind != TensorProto.INT8:
            report("int8-only", f"is {_TYPE_NAMES.get(kind, f'type {kind}')}; TensorRT quantizes to int8 only")
        if np.any(graph.array(node.input[2]) != 0):
            report("zero-point-zero", "has a zero-point other than 0; TensorRT is symmetric")
    if not graph.is_constant(node.input[1]):
        report("scale-stored", f"its scale {node.input[1]} is computed; it must be stored")
        return found
    scale = graph.array(node.input[1])
    if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        report("scale-positive", "has a scale that is not a positive number")
    source = node.input[0]
    on_weight = graph.is_constant(source) or (
        source in graph.producer
        and graph.producer[source].op_type == "QuantizeLinear"
        and graph.is_constant(graph.producer[source].input[0])
    )
    if on_weight:
        stored = graph.initializers.get(source)
        if node.op_type == "DequantizeLinear" and stored is not None and stored.data_type != TensorProto.INT32:
            report("weight-fp32", f"its weight {source} is stored in integers; TensorRT wants fp32, then Q, then DQ")
        if (
            scale.ndim == 1
            and scale.size > 1
            and _weight_axis_expected(graph, node)
            not in (
                None,
                attributes(node).get("axis", 1),
            )
        ):
            report(
                "weight-axis", f"quantizes along axis {attributes(node).get('axis', 1)} instead of the output channels"
            )
    elif scale.size > 1:
        report("per-tensor", "quantizes an activation per channel; TensorRT takes one scale per activation")
    return found


def _weight_axis_expected(graph: Graph, node: NodeProto) -> int | None:
    """Axis of the output channels of the layer that reads this weight, or ``None`` when it is not a convolution."""
    name = node.output[0]
    for _ in range(2):
        for reader in graph.consumers[name]:
            if reader.op_type == "Conv":
                return 0
            if reader.op_type == "DequantizeLinear":
                name = reader.output[0]
    return None


def _check_convolution(graph: Graph, node: NodeProto) -> list[Violation]:
    found = []
    data, weight = _dequantized(graph, node.input[0]), _dequantized(graph, node.input[1])
    if data != weight:
        missing = "weight" if data else "input"
        found.append(
            Violation("mixed", node.name, f"only one side is quantized; its {missing} is not, so types are mixed")
        )
    if data and weight:
        found += _check_residual(graph, node)
    return found


def _check_residual(graph: Graph, node: NodeProto) -> list[Violation]:
    """A convolution that an ``Add`` fuses with runs in int8 only when the Add's other branch is quantized."""
    add = graph.only_consumer(fused_output(graph, node))
    if add is None or add.op_type != "Add" or len(graph.activations(add)) != 2:
        return []
    if any(_dequantized(graph, name) for name in add.input):
        return []
    return [Violation("residual", add.name, "adds two unquantized branches; quantize the one beside the convolution")]


def _dequantized(graph: Graph, name: str) -> bool:
    return name in graph.producer and graph.producer[name].op_type == "DequantizeLinear"
