"""Write the exact GELU as one operator, where the exporter spells it out over five."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto, NodeProto, helper

from edge_fer.compile.graph import Graph, opset_of, rebuilt

OPSET = 20
"""The first opset that has the operator."""


def fuse_gelu(model: ModelProto) -> ModelProto:
    """Replace ``x * (1 + erf(x / sqrt(2))) * 0.5``, in any order of its factors, by ``Gelu``.

    ONNX Runtime fuses that by itself in a floating-point graph, but not where ``x`` is dequantised: it first gives
    every reader of ``x`` a dequantisation of its own, and then sees two different tensors.

    Returns:
        a graph of opset 20; the one that was given where there is nothing to fuse.
    """
    graph = Graph(model)
    made: dict[str, NodeProto] = {}
    dropped: set[str] = set()
    for erf in graph.nodes:
        found = _gelu_around(graph, erf) if erf.op_type == "Erf" else None
        if found is not None:
            source, inner, output = found
            made[output] = helper.make_node("Gelu", [source], [output], output)
            dropped |= inner
    if not made:
        return model
    nodes = [made.get(n.output[0], n) for n in graph.nodes if n.output[0] not in dropped]
    arrays = {name: graph.array(name) for name in graph.initializers}
    return rebuilt(model, nodes, arrays, opset=max(OPSET, opset_of(model)))


def _gelu_around(graph: Graph, erf: NodeProto) -> tuple[str, set[str], str] | None:
    """(x, tensors between, result) of the GELU that an error function is part of."""
    scaled = graph.producer.get(erf.input[0])
    if scaled is None or not _by(graph, scaled, {"Div": math.sqrt(2), "Mul": math.sqrt(0.5)}):
        return None
    plus = graph.only_consumer(erf.output[0])
    if plus is None or not _by(graph, plus, {"Add": 1.0}):
        return None
    x = next(name for name in scaled.input if not graph.is_constant(name))
    inner = {str(scaled.output[0]), str(erf.output[0]), str(plus.output[0])}
    tensor, halved, multiplied = str(plus.output[0]), False, False
    while not (halved and multiplied):
        step = graph.only_consumer(tensor)
        if step is None or step.op_type != "Mul":
            return None
        other = next((name for name in step.input if name != tensor), tensor)
        if not multiplied and (other == x or _is_half_of(graph, other, x)):
            halved = halved or other != x
            if other != x:
                inner.add(other)
            multiplied = True
        elif not halved and _by(graph, step, {"Mul": 0.5}):
            halved = True
        else:
            return None
        inner.add(tensor)
        tensor = str(step.output[0])
    if graph.only_consumer(str(scaled.output[0])) is not erf:
        return None
    return x, inner, tensor


def _is_half_of(graph: Graph, name: str, x: str) -> bool:
    half = graph.producer.get(name)
    return half is not None and x in half.input and _by(graph, half, {"Mul": 0.5}) and bool(graph.only_consumer(name))


def _by(graph: Graph, node: NodeProto, values: dict[str, float]) -> bool:
    """Whether a node is one of these operators with this stored number."""
    if node.op_type not in values:
        return False
    stored = [graph.array(name) for name in node.input if graph.is_constant(name)]
    return (
        len(stored) == 1 and stored[0].size == 1 and bool(np.isclose(float(stored[0].ravel()[0]), values[node.op_type]))
    )


__all__ = ["OPSET", "fuse_gelu"]
