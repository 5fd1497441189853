"""Write dense layers over pixels as 1x1 convolutions, and the transpositions around them away.

A network that normalises channels last (ConvNeXt) multiplies ``(N, H, W, C)`` by a matrix; the same product is a 1x1
convolution of ``(N, C, H, W)``. Runtimes have far better integer kernels for the latter: ONNX Runtime turns no such
``MatMul`` into an integer kernel at all. What lies between two of them works on single values and does not mind the
order, so that of four transpositions a block keeps two, around its normalisation.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper

from edge_fer.compile.graph import Array, Graph, attributes, rebuilt

_TO_FIRST = [0, 3, 1, 2]
_TO_LAST = [0, 2, 3, 1]
_SINGLE_VALUES = frozenset(
    {"Add", "Sub", "Mul", "Div", "Erf", "Gelu", "Relu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Clip", "Sqrt"}
)


def dense_to_pointwise(model: ModelProto) -> ModelProto:
    """Rewrite every ``MatMul`` (+ stored bias) of a channels-last picture by a stored matrix.

    A graph without any is returned as it is.
    """
    graph = Graph(model)
    ranks = _ranks(model)
    dense = [n for n in graph.nodes if n.op_type == "MatMul" and _over_pixels(graph, n, ranks)]
    if not dense:
        return model
    return _Rewriter(graph, {node.output[0] for node in dense}).run()


def _over_pixels(graph: Graph, node: NodeProto, ranks: dict[str, int]) -> bool:
    return (
        graph.is_constant(node.input[1])
        and graph.array(node.input[1]).ndim == 2
        and ranks.get(node.input[0]) == 4
        and node.output[0] not in graph.outputs
    )


def _ranks(model: ModelProto) -> dict[str, int]:
    shaped = onnx.shape_inference.infer_shapes(model).graph
    return {v.name: len(v.type.tensor_type.shape.dim) for v in (*shaped.value_info, *shaped.input, *shaped.output)}


class _Rewriter:
    """Carries pictures channels first as far as the graph allows."""

    def __init__(self, graph: Graph, dense: set[str]) -> None:
        self.graph, self.dense = graph, dense
        self.arrays: dict[str, Array] = {name: graph.array(name) for name in graph.initializers}
        self.nodes: list[NodeProto] = []
        self.first: dict[str, str] = {}
        """Tensors that lie channels last in the old graph -> the same, channels first, in the new one."""
        self.last: dict[str, str] = {name: name for name in graph.inputs}
        """Tensors of the old graph -> how they are called in the new one, in the old order."""

    def run(self) -> ModelProto:
        biases: dict[str, str] = {}
        for node in self.graph.nodes:
            output = node.output[0]
            if output in self.dense:
                add = self._bias(node)
                if add is None:
                    self._convolve(node, node.output[0], None)
                else:
                    biases[add[0]] = output
                    self._convolve(node, add[0], add[1])
            elif output in biases:
                continue
            elif self._turns_back(node):
                self.last[output] = self.first[node.input[0]]
            elif self._single_values(node):
                self._copy(node, [self._first_of(name) for name in node.input], self.first)
            else:
                self._copy(node, [self._last_of(name) for name in node.input], self.last)
        renamed = {self.last[name]: name for name in self.graph.outputs if self._last_of(name) != name}
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        return rebuilt(self.graph.model, self.nodes, self.arrays)

    def _bias(self, node: NodeProto) -> tuple[str, str] | None:
        """(output, stored bias) of the addition that is all that reads a dense layer."""
        add = self.graph.only_consumer(node.output[0])
        if add is None or add.op_type != "Add":
            return None
        stored = [n for n in add.input if self.graph.is_constant(n) and self.graph.array(n).ndim == 1]
        return (str(add.output[0]), stored[0]) if stored else None

    def _convolve(self, node: NodeProto, output: str, bias: str | None) -> None:
        weight = node.input[1]
        matrix = self.graph.array(weight)
        kernel = weight if len(self.graph.consumers[weight]) == 1 else f"{node.name}.pointwise.weight"
        self.arrays[kernel] = np.ascontiguousarray(matrix.T[:, :, None, None])
        made = f"{output}.first"
        inputs = [self._first_of(node.input[0]), kernel, *([bias] if bias is not None else [])]
        self.nodes.append(helper.make_node("Conv", inputs, [made], node.name, kernel_shape=[1, 1]))
        self.first[output] = made

    def _turns_back(self, node: NodeProto) -> bool:
        """A transposition to channels first of what is channels first already."""
        return (
            node.op_type == "Transpose"
            and list(attributes(node).get("perm", ())) == _TO_FIRST
            and node.input[0] in self.first
        )

    def _single_values(self, node: NodeProto) -> bool:
        """An operator on single values whose pictures are channels first and whose stored inputs are scalars."""
        if node.op_type not in _SINGLE_VALUES or node.output[0] in self.graph.outputs:
            return False
        pictures = self.graph.activations(node)
        stored = [name for name in node.input if name and self.graph.is_constant(name)]
        return (
            bool(pictures)
            and all(name in self.first and name not in self.last for name in pictures)
            and all(self.graph.array(name).size == 1 for name in stored)
        )

    def _first_of(self, name: str) -> str:
        if not name or self.graph.is_constant(name):
            return name
        if name not in self.first:
            self.first[name] = f"{name}.first"
            self._turn(self.last[name], self.first[name], _TO_FIRST)
        return self.first[name]

    def _last_of(self, name: str) -> str:
        if not name or self.graph.is_constant(name):
            return name
        if name not in self.last:
            self.last[name] = f"{name}.last"
            self._turn(self.first[name], self.last[name], _TO_LAST)
        return self.last[name]

    def _turn(self, source: str, made: str, perm: list[int]) -> None:
        self.nodes.append(helper.make_node("Transpose", [source], [made], f"{made}.transpose", perm=perm))

    def _copy(self, node: NodeProto, inputs: list[str], order: dict[str, str]) -> None:
        fresh = NodeProto()
        fresh.CopyFrom(node)
        outputs = [f"{name}.first" if order is self.first else name for name in node.output]
        del fresh.input[:], fresh.output[:]
        fresh.input.extend(inputs)
        fresh.output.extend(outputs)
        order.update(zip(node.output, outputs, strict=True))
        self.nodes.append(fresh)


__all__ = ["dense_to_pointwise"]
