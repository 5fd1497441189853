"""Where a network is quantised: which layers, which tensors between them, and which of those share one range.

The plan depends on the graph alone. The two dialects place their Q/DQ pairs differently, because the runtimes fuse
differently, but both draw on the same ranges:

* ``cpu``: ONNX Runtime runs a layer in int8 only when everything that enters *and* leaves it is quantised, so outputs
  and both inputs of an ``Add`` are quantised too.
* ``trt``: TensorRT wants the inputs of the weighted layers quantised, and of an ``Add`` only the branch that is not the
  convolution it fuses with; more pairs would cut its fusions apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx import NodeProto

from edge_fer.compile.graph import Graph, overshoots

Dialect = Literal["cpu", "trt"]

QUANTISED_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
_ACTIVATIONS = frozenset({"Relu", "Clip"})
_SAME_RANGE = frozenset({"MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Resize"})
"""Operators whose output stays within their input's range, so that it can keep the input's scale; of ``Resize`` all but
the cubic one."""


@dataclass(frozen=True)
class Plan:
    """What to quantise.

    Attributes:
        layers: names of the weighted nodes that compute in int8.
        points: per dialect, the tensors that get a Q/DQ pair, in order of execution.
        shares: tensor -> the tensor whose range it uses (itself, unless it only rearranges another one).
        never_negative: those points whose values cannot be negative; they use all of uint8 in the ``cpu`` dialect.
    """

    layers: tuple[str, ...]
    points: dict[Dialect, tuple[str, ...]]
    shares: dict[str, str]
    never_negative: frozenset[str]

    @property
    def measured(self) -> tuple[str, ...]:
        """Tensors whose range has to be known."""
        every = [self.shares[name] for dialect in ("cpu", "trt") for name in self.points[dialect]]
        return tuple(dict.fromkeys(every))


def plan_quantisation(graph: Graph, keep_float: frozenset[str] = frozenset()) -> Plan:
    """Decide what to quantise. Layers in ``keep_float``, and the one that makes the logits, stay in floating point.

    The last layer is left out because it is a thousandth of the arithmetic and its output is the answer: rounding the
    logits to 8 bits costs more agreement than all the layers before it.
    """
    layers = [
        node
        for node in graph.weighted_nodes()
        if node.op_type in QUANTISED_LAYERS and node.name not in keep_float and not _makes_output(graph, node)
    ]
    selected = {node.name for node in layers}
    cpu: set[str] = set()
    quantised_adds: list[NodeProto] = []
    for node in graph.nodes:
        if node.name in selected:
            cpu.add(node.input[0])
            cpu.add(fused_output(graph, node))
        elif node.op_type == "Add" and len(graph.activations(node)) == 2 and all(n in cpu for n in node.input):
            quantised_adds.append(node)
            cpu.add(fused_output(graph, node))
        elif node.op_type in ("MaxPool", "Resize") and node.input[0] in cpu:
            cpu.add(node.output[0])
    cpu -= set(graph.outputs)
    order = {name: index for index, name in enumerate((*graph.inputs, *(o for n in graph.nodes for o in n.output)))}
    trt = {node.input[0] for node in layers}
    for node in quantised_adds:
        trt |= set(node.input) - _fused_branch(graph, node, selected, order)
    shares = {name: _range_source(graph, name) for name in sorted(cpu | trt, key=order.__getitem__)}
    return Plan(
        layers=tuple(node.name for node in layers),
        points={
            "cpu": tuple(sorted(cpu, key=order.__getitem__)),
            "trt": tuple(sorted(trt, key=order.__getitem__)),
        },
        shares=shares,
        never_negative=frozenset({*shares, *shares.values()} & graph.never_negative()),
    )


def fused_output(graph: Graph, node: NodeProto) -> str:
    """The tensor that leaves a layer together with the bias and activation that every runtime fuses into it."""
    tensor = str(node.output[0])
    while (reader := graph.only_consumer(tensor)) is not None:
        stored_bias = node.op_type == "MatMul" and reader.op_type == "Add" and len(graph.activations(reader)) == 1
        if reader.op_type not in _ACTIVATIONS and not stored_bias:
            break
        tensor = str(reader.output[0])
    return tensor


def _makes_output(graph: Graph, node: NodeProto) -> bool:
    return fused_output(graph, node) in graph.outputs


def _range_source(graph: Graph, name: str) -> str:
    """The tensor whose range another one uses: where its values were computed, before they were picked or reordered.

    This does not depend on which layers are quantised, so one set of ranges serves every mixture.
    """
    while (maker := graph.producer.get(name)) is not None and maker.op_type in _SAME_RANGE and not overshoots(maker):
        name = maker.input[0]
    return name


def _fused_branch(graph: Graph, add: NodeProto, selected: set[str], order: dict[str, int]) -> set[str]:
    """The input of an ``Add`` that TensorRT computes in one kernel with it: the last convolution only the Add reads."""
    candidates = [
        name
        for name in add.input
        if name in graph.producer
        and graph.producer[name].name in selected
        and graph.producer[name].op_type == "Conv"
        and graph.only_consumer(name) is not None
    ]
    return {max(candidates, key=order.__getitem__)} if candidates else set()
