"""What each layer of an ONNX network must compute and move, from its shapes alone."""

from __future__ import annotations

import math
from pathlib import Path

from edge_fer.core.errors import BadInputError
from edge_fer.core.spec import Frozen


class LayerCost(Frozen):
    """One layer, for one sample.

    Attributes:
        macs: multiply-accumulates.
        weights: stored values, read once a call whatever the batch.
        moved: values read from and written to activations.
    """

    name: str
    op: str
    macs: int
    weights: int
    moved: int


def layer_costs(path: Path) -> tuple[LayerCost, ...]:
    """Costs of every layer that an inference library cannot hide, in order of execution.

    Convolutions, dense layers and matrix products read their input and weights and write their output. Window pooling
    reads and writes. A sum of two computed tensors is fused into the layer before it and reads the other one.
    Everything else (activations, normalisation, global pooling) counts as fused and free: these costs serve a bound.

    Raises:
        BadInputError: the file is no ONNX network, or its shapes cannot be derived for one sample.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from edge_fer.compile.graph import WEIGHTED, node_macs

    try:
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except (OSError, DecodeError, IndexError, onnx.shape_inference.InferenceError) as error:
        raise BadInputError(f"The layers of {path} cannot be read: {str(error).splitlines()[0]}.") from None
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    sizes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    stored = {tensor.name for tensor in graph.initializer}
    stored |= {output for node in graph.node if node.op_type == "Constant" for output in node.output}
    for node in graph.node:
        # A weight that is stored quantised stays a weight behind the nodes that dequantise it.
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast", "Transpose") and node.input[0] in stored:
            stored.update(node.output)
    costs = []
    for node in graph.node:
        name = node.name or node.output[0]
        if node.op_type in ("MaxPool", "AveragePool"):
            moved = math.prod(sizes[node.input[0]]) + math.prod(sizes[node.output[0]])
            costs.append(LayerCost(name=name, op=node.op_type, macs=0, weights=0, moved=moved))
        if node.op_type == "Add" and not stored & set(node.input):
            moved = min(math.prod(sizes[part]) for part in node.input)
            costs.append(LayerCost(name=name, op=node.op_type, macs=0, weights=0, moved=moved))
        if node.op_type not in WEIGHTED:
            continue
        inputs = [part for part in node.input[:2] if part not in stored]
        weights = [part for part in node.input if part in stored]
        costs.append(
            LayerCost(
                name=name,
                op=node.op_type,
                macs=node_macs(node, sizes),
                weights=sum(math.prod(sizes[part]) for part in weights),
                moved=sum(math.prod(sizes[part]) for part in (*inputs, node.output[0])),
            )
        )
    return tuple(costs)
