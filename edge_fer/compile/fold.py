"""Fold batch norms into the convolutions before them, so that what is quantised is what runs."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edge_fer.compile.graph import Array, Graph, attributes, rebuilt


def fold_batch_norm(model: ModelProto) -> ModelProto:
    """Replace every ``Conv -> BatchNormalization`` by one convolution with the same function.

    ``W' = W * gamma / sqrt(var + eps)`` and ``b' = beta + (b - mean) * gamma / sqrt(var + eps)``, per output channel,
    in float64, rounded once. A batch norm whose convolution is read elsewhere too is left as it is.
    """
    graph = Graph(model)
    arrays = {name: graph.array(name) for name in graph.initializers}
    folded: dict[str, NodeProto] = {}
    dropped: set[str] = set()
    for norm in graph.nodes:
        conv = graph.producer.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or graph.only_consumer(conv.output[0]) is None:
            continue
        gamma, beta, mean, variance = (graph.array(name).astype(np.float64) for name in norm.input[1:5])
        factor = gamma / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
        weight = graph.array(conv.input[1]).astype(np.float64)
        bias = graph.array(conv.input[2]).astype(np.float64) if len(conv.input) > 2 else np.zeros(len(factor))
        weight_name = conv.input[1]
        stem = weight_name.removesuffix(".weight")
        if len(graph.consumers[weight_name]) > 1:
            # Shared weights with different norms become different weights.
            stem = f"{norm.input[1].removesuffix('.weight')}.folded"
            weight_name = _own_name(graph, arrays, conv, stem, ".weight")
        bias_name = _own_name(graph, arrays, conv, stem, ".bias")
        arrays[weight_name] = _rounded(weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
        arrays[bias_name] = _rounded(beta + (bias - mean) * factor)
        fresh = NodeProto()
        fresh.CopyFrom(conv)
        del fresh.input[:], fresh.output[:]
        fresh.input.extend([conv.input[0], weight_name, bias_name])
        fresh.output.extend([norm.output[0]])
        folded[conv.output[0]] = fresh
        dropped.add(norm.output[0])
    nodes = [folded.get(n.output[0], n) for n in graph.nodes if n.output[0] not in dropped]
    return rebuilt(model, nodes, arrays)


def _own_name(graph: Graph, arrays: dict[str, Array], conv: NodeProto, stem: str, suffix: str) -> str:
    """A name under which only this convolution stores something.

    The exporter stores equal arrays once: the zero biases of an untrained network are all the first one's.
    """
    name, count = f"{stem}{suffix}", 2
    while name in arrays and graph.only_consumer(name) is not conv:
        name, count = f"{stem}.{count}{suffix}", count + 1
    return name


def drop_identities(model: ModelProto) -> ModelProto:
    """Remove operators that do nothing at inference (``Identity``, ``Dropout``), and store ``Constant`` nodes."""
    graph = Graph(model)
    arrays = {name: graph.array(name) for name in graph.initializers}
    alias: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        source = alias.get(node.input[0], node.input[0]) if node.input else ""
        if node.op_type == "Constant" and "value" in attributes(node):
            arrays[node.output[0]] = _constant(node)
        elif node.op_type in ("Identity", "Dropout") and node.output[0] not in graph.outputs:
            alias[node.output[0]] = source
        else:
            fresh = NodeProto()
            fresh.CopyFrom(node)
            del fresh.input[:]
            fresh.input.extend(alias.get(name, name) for name in node.input)
            nodes.append(fresh)
    return rebuilt(model, nodes, arrays)


def mean_to_pool(model: ModelProto) -> ModelProto:
    """Write a mean over both spatial axes as ``GlobalAveragePool`` (+ ``Flatten``): every runtime has a kernel."""
    graph = Graph(model)
    arrays = {name: graph.array(name) for name in graph.initializers}
    nodes = []
    for node in graph.nodes:
        settings = attributes(node)
        axes = settings.get("axes")
        if node.op_type != "ReduceMean" or axes is None or list(axes) not in ([2, 3], [-2, -1], [-1, -2]):
            nodes.append(node)
            continue
        if settings.get("keepdims", 1):
            nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [node.output[0]]))
            continue
        pooled = f"{node.output[0]}.pooled"
        nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled]))
        nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]], axis=1))
    return rebuilt(model, nodes, arrays)


def fold_dense(model: ModelProto) -> ModelProto:
    """Prepare dense layers over pixels (``MatMul`` + stored bias), which the exporter writes with anonymous weights.

    The weight is called after the bias, so that ranges and reports name the layer on every version of the exporter, and
    a per-channel factor that follows (ConvNeXt's layer scale, behind a transposition) is multiplied into both.
    """
    graph = Graph(model)
    arrays = {name: graph.array(name) for name in graph.initializers}
    replaced: dict[str, NodeProto] = {}
    skipped: dict[str, str] = {}
    for node in graph.nodes:
        bias = _stored_bias(graph, node)
        if bias is None:
            continue
        add = graph.consumers[node.output[0]][0]
        weight_name = f"{bias.removesuffix('.bias')}.weight"
        if weight_name in arrays or len(graph.consumers[bias]) > 1:
            # The exporter stores equal arrays once, so the zero biases of an untrained network have one common name.
            continue
        weight, offset = arrays[node.input[1]].astype(np.float64), arrays[bias].astype(np.float64)
        factor, scaled = _channel_factor(graph, add)
        if factor is not None and scaled is not None:
            weight, offset = weight * factor, offset * factor
            skipped[scaled.output[0]] = next(n for n in scaled.input if not graph.is_constant(n))
        arrays[weight_name], arrays[bias] = _rounded(weight), _rounded(offset)
        replaced[node.output[0]] = _reading(node, [node.input[0], weight_name])
        replaced[add.output[0]] = _reading(add, [node.output[0], bias])
    nodes = []
    for node in graph.nodes:
        if node.output[0] in skipped:
            continue
        fresh = replaced.get(node.output[0], node)
        nodes.append(_reading(fresh, [skipped.get(name, name) for name in fresh.input]))
    return rebuilt(model, nodes, arrays)


def _stored_bias(graph: Graph, node: NodeProto) -> str | None:
    """The bias that the only reader of a dense layer adds to it."""
    if node.op_type != "MatMul" or not graph.is_constant(node.input[1]):
        return None
    add = graph.only_consumer(node.output[0])
    if add is None or add.op_type != "Add":
        return None
    stored = [name for name in add.input if graph.is_constant(name)]
    return stored[0] if len(stored) == 1 and graph.array(stored[0]).ndim == 1 else None


def _channel_factor(graph: Graph, add: NodeProto) -> tuple[Array | None, NodeProto | None]:
    """A stored factor per channel by which only the result of ``add`` is multiplied once it is channels-first."""
    turn = graph.only_consumer(add.output[0])
    if turn is None or turn.op_type != "Transpose" or list(attributes(turn).get("perm", ())) != [0, 3, 1, 2]:
        return None, None
    scale = graph.only_consumer(turn.output[0])
    if scale is None or scale.op_type != "Mul" or scale.output[0] in graph.outputs:
        return None, None
    stored = [name for name in scale.input if graph.is_constant(name)]
    if len(stored) != 1 or graph.array(stored[0]).shape[-2:] != (1, 1):
        return None, None
    return graph.array(stored[0]).astype(np.float64).reshape(-1), scale


def _reading(node: NodeProto, inputs: list[str]) -> NodeProto:
    fresh = NodeProto()
    fresh.CopyFrom(node)
    del fresh.input[:]
    fresh.input.extend(inputs)
    return fresh


def _rounded(values: Array) -> Array:
    return np.asarray(values, dtype=np.float32)


def _constant(node: NodeProto) -> Array:
    return np.asarray(numpy_helper.to_array(attributes(node)["value"]))
