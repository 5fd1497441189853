"""Rearrange the first convolution for integer kernels: the same sums over more channels at fewer places.

A network's input has one or three channels, and the integer kernels that are worth having step over four at once: ONNX
Runtime's symmetric convolution, which rescales as it computes and needs no copy of the input's windows, takes multiples
of four only (``MlasConvSymPackWSize`` in its ``core/mlas/lib/convsym.cpp``); what it falls back to spends a fifth of an
int8 ResNet-18 in its first layer. Two rearrangements change nothing that is computed:

* with a stride of s, blocks of s x s pixels become channels (``SpaceToDepth``), and the convolution over them has
  stride 1 and a kernel of 1/s the sides; its sides are first filled up with zeros to whole blocks;
* otherwise channels of zeros are added, with weights of zero.

What it is worth is in docs/decisions/0024-int8-kernels.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from edge_fer.compile.graph import Array, Graph, attributes, rebuilt
from edge_fer.compile.plan import Plan
from edge_fer.core.engine import HEIGHT, WIDTH

STEP = 4
_ANY_SIDE = 1024


@dataclass(frozen=True)
class _Folded:
    """A convolution over blocks of pixels. ``pads`` is (top, left, bottom, right), in blocks."""

    weight: NDArray[np.float32]
    block: int
    pads: tuple[int, int, int, int]


def align_channels(model: ModelProto, plan: Plan) -> tuple[ModelProto, Plan]:
    """Rearrange the quantised convolutions that read the network's input.

    Args:
        model: folded fp32 graph with canonical names.
        plan: of this graph.

    Returns:
        the graph with the rearranged input, and the plan for it: what was rearranged is quantised in place of the
        input, which keeps its own pair where other layers read it as integers. Both are as they were where nothing is
        to be done.
    """
    graph = Graph(model)
    arrays = {name: graph.array(name) for name in graph.initializers}
    made: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        if node.name not in plan.layers or not _wants(graph, node):
            nodes.append(node)
            continue
        source, weight = str(node.input[0]), str(node.input[1])
        own = weight if len(graph.consumers[weight]) == 1 else f"{node.name}.aligned.weight"
        fresh = NodeProto()
        fresh.CopyFrom(node)
        folded = _fold(graph, node, _size_hw(model, source))
        if folded is not None:
            output = f"{source}.blocks{folded.block}"
            before = helper.make_node("SpaceToDepth", [source], [output], output, blocksize=folded.block)
            arrays[own] = folded.weight
            settings: dict[str, Any] = {
                "kernel_shape": list(folded.weight.shape[2:]),
                "strides": [1, 1],
                "dilations": [1, 1],
                "pads": list(folded.pads),
                "group": 1,
            }
            fresh = helper.make_node("Conv", node.input, node.output, node.name, **settings)
        else:
            missing = -graph.array(weight).shape[1] % STEP
            output = f"{source}.padded"
            arrays[f"{output}.by"] = np.array([0, 0, 0, 0, 0, missing, 0, 0], np.int64)
            before = helper.make_node("Pad", [source, f"{output}.by"], [output], output)
            arrays[own] = np.pad(graph.array(weight), ((0, 0), (0, missing), (0, 0), (0, 0)))
        if output not in made:
            made[output] = source
            nodes.append(before)
        del fresh.input[:]
        fresh.input.extend([output, own, *node.input[2:]])
        nodes.append(fresh)
    if not made:
        return model, plan
    aligned = rebuilt(model, nodes, arrays)
    return aligned, _replanned(Graph(aligned), plan, made)


def _wants(graph: Graph, node: NodeProto) -> bool:
    """A convolution of the network's input over too few channels. One of 1x1 copies no windows anyway."""
    if node.op_type != "Conv" or node.input[0] not in graph.inputs or attributes(node).get("group", 1) != 1:
        return False
    shape = graph.array(node.input[1]).shape
    return len(shape) == 4 and shape[2:] != (1, 1) and shape[1] % STEP != 0


def _size_hw(model: ModelProto, name: str) -> tuple[int, int] | None:
    """Height and width of an input; ``None`` where the file leaves them open.

    A detector's are open, but always multiples of 32, which is all that matters here; any such size will do.
    """
    shape = next(v.type.tensor_type.shape for v in model.graph.input if v.name == name)
    height, width = shape.dim[2:4]
    if (height.dim_param, width.dim_param) == (HEIGHT, WIDTH):
        return _ANY_SIDE, _ANY_SIDE
    return (height.dim_value, width.dim_value) if height.dim_value and width.dim_value else None


def _fold(graph: Graph, node: NodeProto, size_hw: tuple[int, int] | None) -> _Folded | None:
    """The convolution over blocks of its stride, where whole blocks make up the input and enough channels."""
    settings, weight = attributes(node), graph.array(node.input[1])
    strides, pads = settings.get("strides", [1, 1]), settings.get("pads", [0, 0, 0, 0])
    block, channels = strides[0], weight.shape[1]
    if (
        size_hw is None
        or strides[1] != block
        or block < 2
        or list(settings.get("dilations", [1, 1])) != [1, 1]
        or settings.get("auto_pad", b"NOTSET") != b"NOTSET"
        or any(side % block for side in size_hw)
        or channels * block * block % STEP
    ):
        return None
    before = [-(-pad // block) for pad in pads[:2]]
    after = []
    wide: Array = weight
    for axis in (0, 1):
        side, kernel = size_hw[axis], weight.shape[2 + axis]
        lead = before[axis] * block - pads[axis]
        blocks = -(-(kernel + lead) // block)
        outputs = (side + pads[axis] + pads[2 + axis] - kernel) // block + 1
        after.append(outputs - 1 + blocks - before[axis] - side // block)
        filling = [(0, 0)] * 4
        filling[2 + axis] = (lead, blocks * block - kernel - lead)
        wide = np.pad(wide, filling)
    if min(after) < 0:
        return None
    rows, columns = (length // block for length in wide.shape[2:])
    # SpaceToDepth numbers its channels by row in the block, column in the block, channel.
    split = wide.reshape(len(wide), channels, rows, block, columns, block).transpose(0, 3, 5, 1, 2, 4)
    folded = np.ascontiguousarray(split.reshape(len(wide), block * block * channels, rows, columns))
    return _Folded(folded, block, (before[0], before[1], after[0], after[1]))


def _replanned(graph: Graph, plan: Plan, made: dict[str, str]) -> Plan:
    points: list[str] = []
    for name in plan.points["cpu"]:
        fresh = [output for output, source in made.items() if source == name]
        others = [node for node in graph.consumers[name] if node.output[0] not in made]
        points += [*([name] if others or not fresh else []), *fresh]
    shares = plan.shares | {output: plan.shares[source] for output, source in made.items()}
    signs = plan.never_negative | {output for output, source in made.items() if source in plan.never_negative}
    return replace(plan, points={**plan.points, "cpu": tuple(points)}, shares=shares, never_negative=signs)


__all__ = ["STEP", "align_channels"]
