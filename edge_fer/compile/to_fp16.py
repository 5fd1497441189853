"""Cast a folded fp32 graph to half precision, with fp32 inputs and outputs and fp32 islands where fp16 would overflow.

For runtimes that take their precision from the graph (TensorRT 10 and 11, strongly typed). CPU backends get half
precision by a hint on the fp32 graph instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from edge_fer.compile.graph import Array, Graph, rebuilt
from edge_fer.core.errors import BadInputError

FP16_MAX = 65504.0
HEADROOM = 8.0
"""How many times the largest magnitude that was seen must still fit: other faces give larger values than those seen."""
HALF_OPERATORS = frozenset(
    {
        "Add",
        "AveragePool",
        "Clip",
        "Concat",
        "Conv",
        "ConvTranspose",
        "Div",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "MatMul",
        "MaxPool",
        "Mul",
        "PRelu",
        "Relu",
        "Reshape",
        "Sigmoid",
        "Slice",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that keep their accuracy in fp16. Others (exponentials, powers, sums over many values) stay in fp32."""


@dataclass(frozen=True)
class HalfModel:
    """The cast graph, and the names of the nodes that stayed in fp32 with the reason."""

    model: ModelProto
    islands: dict[str, str]


def to_fp16(model: ModelProto, peaks: Mapping[str, float]) -> HalfModel:
    """Cast a graph.

    Args:
        model: folded fp32 graph.
        peaks: largest magnitude seen per tensor; tensors that are absent are taken to be harmless.

    Raises:
        BadInputError: nothing could be cast.
    """
    graph = Graph(model)
    whole = _whole_numbers(graph)
    islands = {node.name: reason for node in graph.nodes if (reason := _keeps_float(graph, node, peaks)) is not None}
    islands |= {node.name: "computes a shape" for node in graph.nodes if node.output[0] in whole}
    if len(islands) == len(graph.nodes):
        raise BadInputError("No layer of this network can run in fp16: all would overflow.", fix="Use int8 or fp32.")
    arrays: dict[str, Array] = {}
    nodes: list[NodeProto] = []
    half_of: dict[str, str] = {}
    float_of: dict[str, str] = {name: name for name in graph.inputs}

    def cast(source: str, kind: int, suffix: str) -> str:
        name = f"{source}.{suffix}"
        nodes.append(helper.make_node("Cast", [source], [name], f"{source}.to_{suffix}", to=kind))
        return name

    def read(name: str, half: bool) -> str:
        if not name or name in whole:
            return name
        if graph.is_constant(name):
            array = graph.array(name)
            stored = f"{name}.half" if half and array.dtype == np.float32 else name
            arrays[stored] = array.astype(np.float16) if stored != name else array
            return stored
        if half:
            if name not in half_of:
                half_of[name] = cast(float_of[name], TensorProto.FLOAT16, "half")
            return half_of[name]
        if name not in float_of:
            float_of[name] = cast(half_of[name], TensorProto.FLOAT, "float")
        return float_of[name]

    for node in graph.nodes:
        half = node.name not in islands
        fresh = NodeProto()
        fresh.CopyFrom(node)
        del fresh.input[:], fresh.output[:]
        fresh.input.extend([read(name, half) for name in node.input])
        for name in node.output:
            made = f"{name}.half" if half else name
            (half_of if half else float_of)[name] = made
            fresh.output.append(made)
        nodes.append(fresh)
    nodes.extend(
        helper.make_node("Cast", [half_of[name]], [name], f"{name}.to_float", to=TensorProto.FLOAT)
        for name in graph.outputs
        if name not in float_of
    )
    cast_model = rebuilt(model, nodes, arrays)
    onnx.checker.check_model(cast_model, full_check=True)
    return HalfModel(cast_model, islands)


_INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})


def _whole_numbers(graph: Graph) -> frozenset[str]:
    """Computed tensors that hold shapes and indices, which have no half precision."""
    found: set[str] = set()
    for node in graph.nodes:
        first = node.input[0] if node.input else ""
        constant = bool(first) and graph.is_constant(first) and np.issubdtype(graph.array(first).dtype, np.integer)
        # A cast says itself what it gives; every other operator gives what its first input is.
        if node.op_type == "Cast":
            whole = helper.get_node_attr_value(node, "to") in _INTEGERS
        else:
            whole = node.op_type in ("Shape", "Size") or first in found or constant
        if whole:
            found.update(node.output)
    return frozenset(found)


def _keeps_float(graph: Graph, node: NodeProto, peaks: Mapping[str, float]) -> str | None:
    """Why a node must stay in fp32, or ``None``."""
    if node.op_type not in HALF_OPERATORS:
        return f"{node.op_type} loses accuracy in fp16"
    for name in (*node.input, *node.output):
        if peaks.get(name, 0.0) * HEADROOM > FP16_MAX:
            return f"{name} reaches {peaks[name]:.3g}"
    for name in node.input:
        if name and graph.is_constant(name):
            array = graph.array(name)
            if array.dtype == np.float32 and array.size and float(np.abs(array).max()) > FP16_MAX:
                return f"{name} holds {float(np.abs(array).max()):.3g}"
    return None
