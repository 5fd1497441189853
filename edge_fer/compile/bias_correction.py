"""Bias correction: rounding shifts the mean of a layer's outputs, and its bias can take that back.

After Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2, with
the expectation taken over the calibration set, as they do where data is at hand: for every quantised convolution and
dense layer ``E[W x + b] - E[W_q x_q + b]`` per output channel, with ``x`` from the fp32 network, so that corrections
do not depend on each other and one pass finds all of them. What it is worth: docs/decisions/0015-bias-correction.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from edge_fer.compile.align import align_channels
from edge_fer.compile.calibrate import Batches, open_session
from edge_fer.compile.graph import Array, Graph, rebuilt
from edge_fer.compile.plan import Dialect, Plan
from edge_fer.compile.quantize_int8 import activation_grid, is_depthwise, quantize_weight, weight_axis
from edge_fer.core.engine import INPUT
from edge_fer.core.errors import CalibrationError

Shifts = dict[str, NDArray[np.float64]]
"""By layer: what to add to the bias of each output channel."""


def measure_shifts(
    model: ModelProto,
    plan: Plan,
    thresholds: Mapping[str, float],
    batches: Batches,
    *,
    dialect: Dialect = "cpu",
    threads: int = 1,
) -> Shifts:
    """How far quantisation shifts the mean output of every layer of the plan, with the sign that mends it.

    Args:
        model: folded fp32 graph with canonical names.
        thresholds: as for :func:`edge_fer.compile.quantize_int8.quantize_int8`.
        batches: float32 (n, C, H, W) of the calibration set.

    Raises:
        CalibrationError: there are no batches.
    """
    if dialect == "cpu":
        model, plan = align_channels(model, plan)  # as quantize_int8 does: it changes the scales of such weights
    graph = Graph(model)
    layers = [node for node in graph.nodes if node.name in plan.layers and node.op_type in ("Conv", "Gemm")]
    watched = _with_twins(graph, layers, plan, thresholds, dialect)
    session = open_session(watched, threads)
    names = [_shift_name(node) for node in layers]
    sums = {node.name: np.zeros(0) for node in layers}
    samples = 0
    for inputs in batches():
        for node, shift in zip(layers, session.run(names, {INPUT: inputs}), strict=True):
            # Batches of unequal size: the mean of each counts as often as it has samples.
            weighted = shift.astype(np.float64).ravel() * len(inputs)
            sums[node.name] = weighted if not samples else sums[node.name] + weighted
        samples += len(inputs)
    if not samples:
        raise CalibrationError("The calibration set is empty.")
    return {name: total / samples for name, total in sums.items()}


def correct_biases(model: ModelProto, shifts: Mapping[str, NDArray[np.float64]]) -> ModelProto:
    """The network with the shifts added to its biases; to be quantised, not to be run in fp32."""
    graph = Graph(model)
    arrays: dict[str, Array] = {name: graph.array(name) for name in graph.initializers}
    nodes = []
    for node in graph.nodes:
        if node.name not in shifts:
            nodes.append(node)
            continue
        stored = node.input[2] if len(node.input) > 2 and node.input[2] else None
        bias = arrays[stored].astype(np.float64) if stored is not None else np.zeros_like(shifts[node.name])
        name = f"{node.name}.corrected.bias"
        arrays[name] = np.asarray(bias + shifts[node.name], np.float32)
        fresh = NodeProto()
        fresh.CopyFrom(node)
        del fresh.input[:]
        fresh.input.extend([*node.input[:2], name])
        nodes.append(fresh)
    return rebuilt(model, nodes, arrays)


def _shift_name(node: NodeProto) -> str:
    return f"{node.name}.shift"


def _with_twins(
    graph: Graph, layers: list[NodeProto], plan: Plan, thresholds: Mapping[str, float], dialect: Dialect
) -> ModelProto:
    """The fp32 graph with, beside every layer, what int8 makes of it, and the mean difference as an output."""
    arrays: dict[str, Array] = {name: graph.array(name) for name in graph.initializers}
    nodes: list[NodeProto] = []
    grids: dict[str, tuple[str, np.float32]] = {}

    def rounded_input(tensor: str) -> tuple[str, np.float32]:
        if tensor not in grids:
            scale, zero = activation_grid(
                thresholds[plan.shares[tensor]], never_negative=tensor in plan.never_negative, dialect=dialect
            )
            arrays[f"{tensor}.twin.scale"], arrays[f"{tensor}.twin.zero"] = np.array(scale, np.float32), zero
            grid = [f"{tensor}.twin.scale", f"{tensor}.twin.zero"]
            nodes.append(helper.make_node("QuantizeLinear", [tensor, *grid], [f"{tensor}.twin.q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}.twin.q", *grid], [f"{tensor}.twin"]))
            grids[tensor] = (f"{tensor}.twin", scale)
        return grids[tensor]

    selected = {node.name for node in layers}
    for node in graph.nodes:
        nodes.append(node)
        if node.name not in selected:
            continue
        source, input_scale = rounded_input(node.input[0])
        weight, axis = arrays[node.input[1]], weight_axis(node)
        bias = arrays[node.input[2]] if len(node.input) > 2 and node.input[2] else None
        integers, scales = quantize_weight(
            weight,
            axis,
            bias=bias,
            input_scale=float(input_scale),
            pair_safe=dialect == "cpu" and not is_depthwise(node, weight),
        )
        shape = [1] * weight.ndim
        shape[axis] = -1
        arrays[f"{node.name}.twin.weight"] = integers.astype(np.float32) * scales.reshape(shape)
        twin = NodeProto()
        twin.CopyFrom(node)
        del twin.input[:], twin.output[:]
        twin.input.extend([source, f"{node.name}.twin.weight", *node.input[2:]])
        twin.output.append(f"{node.name}.twin")
        twin.name = f"{node.name}.twin"
        nodes.append(twin)
        nodes.append(helper.make_node("Sub", [node.output[0], twin.output[0]], [f"{node.name}.difference"]))
        axes = [0, *range(2, weight.ndim)] if node.op_type == "Conv" else [0]
        nodes.append(
            helper.make_node("ReduceMean", [f"{node.name}.difference"], [_shift_name(node)], axes=axes, keepdims=0)
        )
    watched = rebuilt(graph.model, nodes, arrays)
    watched.graph.output.extend(
        helper.make_tensor_value_info(_shift_name(node), TensorProto.FLOAT, None) for node in layers
    )
    return watched


__all__ = ["Shifts", "correct_biases", "measure_shifts"]
