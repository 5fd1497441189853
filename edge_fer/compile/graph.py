"""Reading and rewriting an ONNX graph: who makes a tensor, who reads it, and what values it can take."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge_fer import __version__
from edge_fer.core.engine import INPUT, OUTPUT

Array = NDArray[Any]

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that multiply by stored weights: where the arithmetic is."""

_RANGE_ONLY = frozenset(
    {
        "MaxPool",
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Slice",
        "Gather",
        "Concat",
        "Resize",
    }
)
"""Operators that move values without computing new ones."""
_MONOTONE = _RANGE_ONLY | {"Add", "Mul", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"}
"""Operators that turn non-negative inputs into non-negative outputs."""
_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Exp", "Abs", "Sqrt"})


class Graph:
    """Lookups over a model's graph. Valid until the graph is changed."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.initializers: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input if value.name not in self.initializers]
        self.outputs = [value.name for value in model.graph.output]
        self.producer: dict[str, NodeProto] = {name: node for node in self.nodes for name in node.output}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                if name:
                    self.consumers[name].append(node)

    def array(self, name: str) -> Array:
        """Values of an initializer."""
        return np.asarray(numpy_helper.to_array(self.initializers[name]))

    def is_constant(self, name: str) -> bool:
        return name in self.initializers

    def only_consumer(self, tensor: str) -> NodeProto | None:
        """The one node that reads a tensor, or ``None`` when there are several or it is an output of the graph."""
        readers = self.consumers[tensor]
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def activations(self, node: NodeProto) -> list[str]:
        """Inputs of a node that are computed, not stored."""
        return [name for name in node.input if name and not self.is_constant(name)]

    def weighted_nodes(self) -> list[NodeProto]:
        """Convolutions and dense layers whose second input is stored, in order of execution."""
        return [n for n in self.nodes if n.op_type in WEIGHTED and len(n.input) > 1 and self.is_constant(n.input[1])]

    def never_negative(self) -> set[str]:
        """Tensors that cannot hold a negative value whatever the input is.

        This follows from the operators alone; that no negative value was *seen* during calibration would prove nothing.
        """
        proved: set[str] = set()
        for node in self.nodes:
            if node.op_type in _NEVER_NEGATIVE or (node.op_type == "Clip" and self._clips_at_zero(node)):
                proved.update(node.output)
            elif node.op_type in _MONOTONE and not overshoots(node):
                values = [node.input[0]] if node.op_type in _RANGE_ONLY - {"Concat"} else list(node.input)
                if all(name in proved or self._stored_non_negative(name) for name in values):
                    proved.update(node.output)
        return proved

    def _clips_at_zero(self, node: NodeProto) -> bool:
        if len(node.input) > 1 and node.input[1] in self.initializers:
            return bool(self.array(node.input[1]) >= 0)
        return False

    def _stored_non_negative(self, name: str) -> bool:
        return name in self.initializers and bool((self.array(name) >= 0).all())


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes of a node as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def overshoots(node: NodeProto) -> bool:
    """Whether an operator interpolates beyond the values that it moves, as a cubic ``Resize`` does."""
    return node.op_type == "Resize" and attributes(node).get("mode", b"nearest") == b"cubic"


def rebuilt(
    model: ModelProto, nodes: Iterable[NodeProto], arrays: dict[str, Array], *, opset: int | None = None
) -> ModelProto:
    """The same inputs and outputs over other nodes and stored tensors; tensors that nothing reads are dropped.

    The result carries no doc strings, no value infos and none of the exporter's metadata, so that equal networks give
    equal bytes wherever they were exported.
    """
    kept = list(nodes)
    read = {name for node in kept for name in node.input}
    # np.ascontiguousarray would make vectors of scalars, and ONNX Runtime fuses no Add whose scales are vectors.
    stored = {name: np.asarray(array, order="C") for name, array in arrays.items() if name in read}
    graph = helper.make_graph(
        kept,
        "edge_fer",
        list(model.graph.input),
        list(model.graph.output),
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset or opset_of(model))],
        ir_version=8,
        producer_name="edge-fer",
        producer_version=__version__,
    )


def opset_of(model: ModelProto) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def canonical_names(model: ModelProto) -> ModelProto:
    """Name nodes and tensors after the weights they use, whatever the exporter called them.

    A convolution with the weight ``layer1.0.conv1.weight`` becomes the node ``layer1.0.conv1``, its output the tensor
    of the same name; other operators are called after what they read (``layer1.0.conv1.relu``). Ranges found on one
    machine then fit the graph that another version of torch exports on the next.
    """
    graph = Graph(model)
    taken: set[str] = {INPUT, OUTPUT, *graph.initializers}
    renamed = {INPUT: INPUT, OUTPUT: OUTPUT} | {name: name for name in graph.initializers}
    nodes = []
    for node in graph.nodes:
        stem = _stem(node, graph, renamed)
        name, count = stem, 2
        while name in taken:
            name, count = f"{stem}.{count}", count + 1
        taken.add(name)
        outputs = []
        for index, output in enumerate(node.output):
            renamed[output] = OUTPUT if output in graph.outputs else (name if index == 0 else f"{name}:{index}")
            outputs.append(renamed[output])
        fresh = NodeProto()
        fresh.CopyFrom(node)
        del fresh.input[:], fresh.output[:]
        fresh.input.extend(renamed[i] if i else "" for i in node.input)
        fresh.output.extend(outputs)
        fresh.name, fresh.doc_string = name, ""
        nodes.append(fresh)
    return rebuilt(model, nodes, {name: graph.array(name) for name in graph.initializers})


def _stem(node: NodeProto, graph: Graph, renamed: dict[str, str]) -> str:
    stored = next(
        (name for name in node.input if name.endswith((".weight", ".bias")) and graph.is_constant(name)), None
    )
    if stored is not None:
        return str(stored).rpartition(".")[0]
    source = next((renamed[name] for name in node.input if name and not graph.is_constant(name)), "constant")
    return f"{source}.{node.op_type.lower()}"


def model_hash(model: ModelProto) -> str:
    """SHA-256 over operators, attributes, names and stored values: what is computed, not how the file was written."""
    digest = hashlib.sha256()
    for node in model.graph.node:
        settings = {name: repr(value) for name, value in sorted(attributes(node).items())}
        digest.update(repr((node.op_type, list(node.input), list(node.output), settings)).encode())
    for tensor in sorted(model.graph.initializer, key=lambda t: t.name):
        array = np.ascontiguousarray(numpy_helper.to_array(tensor))
        digest.update(repr((tensor.name, str(array.dtype), array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def count_macs(model: ModelProto) -> int:
    """Multiply-accumulates of one sample in convolutions and dense layers."""
    sample = ModelProto()
    sample.CopyFrom(model)
    for value in (*sample.graph.input, *sample.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    shaped = onnx.shape_inference.infer_shapes(sample, strict_mode=True, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*shaped.value_info, *shaped.input, *shaped.output)
    }
    graph = Graph(model)
    shapes |= {name: list(tensor.dims) for name, tensor in graph.initializers.items()}
    return sum(node_macs(node, shapes) for node in graph.weighted_nodes())


def node_macs(node: NodeProto, shapes: Mapping[str, Sequence[int]]) -> int:
    """Multiply-accumulates of one of :data:`WEIGHTED`, whose second input may be computed.

    Args:
        shapes: of its first two inputs and its output.
    """
    first, second, made = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    transposed = node.op_type == "Gemm" and attributes(node).get("transA", 0)
    return math.prod(made) * first[-2 if transposed else -1]
