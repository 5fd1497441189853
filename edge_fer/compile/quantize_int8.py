"""Folded fp32 ONNX + ranges -> int8 ONNX with explicit Q/DQ pairs, in the dialect of a family of runtimes.

Both dialects are symmetric: a tensor's scale is its range's threshold over the largest integer, weights per output
channel, activations per tensor (Wu et al., "Integer Quantization for Deep Learning Inference", 2020).

=============  =====================================  ==================================================
               cpu (ONNX Runtime, OpenVINO, browser)  trt (TensorRT 8.5 to 11)
=============  =====================================  ==================================================
activations    uint8 where never negative, int8       int8
               elsewhere, with zero-point 0; but      zero-point 0
               uint8 with 128 where signed and read
               by several layers
weights        stored int8, then DQ on axis 0         stored fp32, then Q and DQ on axis 0
bias           stored int32 (scale = input's x        stored fp32
               weight's), then DQ
=============  =====================================  ==================================================

In the ``cpu`` dialect, the input channels of convolutions are a multiple of four (:mod:`edge_fer.compile.align`), and
weight scales are such that CPUs without VNNI cannot overflow (:func:`multiplied_together`), so that int8 gives the same
answer on every CPU. That costs 13 % more rounding error on the default network, where the
usual remedy, 7-bit weights, costs 60 %; without it, int8 agrees with fp32 on 89 % of faces on such a CPU, not on 99.

Scales and zero-points of activations are scalars (rank 0): ONNX Runtime fuses no ``Add`` whose scales are vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from edge_fer.compile.align import align_channels
from edge_fer.compile.gelu import fuse_gelu
from edge_fer.compile.graph import Array, Graph, attributes, rebuilt
from edge_fer.compile.plan import Dialect, Plan

WEIGHT_LIMIT = 127
"""Weights use -127..127: without -128 the grid is symmetric, and products cannot exceed what kernels assume."""
_BIAS_LIMIT = 2.0**30
_PAIR_LIMIT = 128
_SMALLEST_SCALE = np.float32(1e-10)


@dataclass
class _Writer:
    """Nodes and stored tensors of the graph under construction."""

    graph: Graph
    arrays: dict[str, Array]
    nodes: list[NodeProto] = field(default_factory=list)

    def store(self, name: str, array: Array) -> str:
        self.arrays[name] = array
        return name

    def dequantize(self, stem: str, quantized: str, scale: str, zero_point: str, axis: int | None = None) -> str:
        settings: dict[str, Any] = {} if axis is None else {"axis": axis}
        name = f"{stem}.dequantized"
        self.nodes.append(
            helper.make_node("DequantizeLinear", [quantized, scale, zero_point], [name], f"{stem}.dq", **settings)
        )
        return name

    def quantize(self, stem: str, source: str, scale: str, zero_point: str, axis: int | None = None) -> str:
        settings: dict[str, Any] = {} if axis is None else {"axis": axis}
        name = f"{stem}.quantized"
        self.nodes.append(
            helper.make_node("QuantizeLinear", [source, scale, zero_point], [name], f"{stem}.q", **settings)
        )
        return name


def activation_grid(threshold: float, *, never_negative: bool, dialect: Dialect) -> tuple[np.float32, Array]:
    """Scale and zero-point for values in ``[0, threshold]`` or ``[-threshold, threshold]``.

    Returns:
        float32 scale > 0, and the zero-point as a scalar array whose type is that of the integers.
    """
    if not np.isfinite(threshold) or threshold < 0:
        raise ValueError(f"a range must be finite and not negative, not {threshold}")
    # A tensor that is always zero has no range; any scale represents it.
    span = threshold or 1.0
    if never_negative and dialect == "cpu":
        return max(np.float32(span / 255), _SMALLEST_SCALE), np.array(0, np.uint8)
    return max(np.float32(span / 127), _SMALLEST_SCALE), np.array(0, np.int8)


def weight_axis(node: NodeProto) -> int:
    """Axis of the output channels in a layer's weight."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attributes(node).get("transB", 0)):
        return 0
    return 1


def is_depthwise(node: NodeProto, weight: Array) -> bool:
    """Whether each output channel reads one input channel; such kernels widen before they add."""
    return node.op_type == "Conv" and attributes(node).get("group", 1) > 1 and weight.shape[1] == 1


def quantize_weight(
    weight: NDArray[np.float32],
    axis: int,
    *,
    bias: NDArray[np.float32] | None = None,
    input_scale: float = 1.0,
    pair_safe: bool = False,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round weights to -127..127 with one scale per channel of ``axis``.

    A channel whose weights are tiny next to its bias gets a larger scale than they need, so that the bias still fits
    32 bits at ``input_scale * scale``. With ``pair_safe`` so does one in which two weights that
    :func:`multiplied_together` could overflow 16 bits.

    Returns:
        int8 weights of the same shape, float32 scales (channels,), all positive.
    """
    by_channel = np.moveaxis(weight, axis, 0).astype(np.float64)
    peak = np.abs(by_channel).reshape(len(by_channel), -1).max(axis=1)
    scale = peak / WEIGHT_LIMIT
    if pair_safe:
        for pairs in multiplied_together(by_channel):
            sums = np.stack([np.maximum(pairs, 0).sum(axis=2), np.maximum(-pairs, 0).sum(axis=2)])
            # Rounding may add half a step to each of the two: 127 leaves room for a sum of 128, and 255 * 128 < 2**15.
            scale = np.maximum(scale, sums.max(axis=(0, 2), initial=0.0) / (_PAIR_LIMIT - 1))
    if bias is not None:
        scale = np.maximum(scale, np.abs(bias.astype(np.float64)) / (_BIAS_LIMIT * input_scale))
    scales = np.maximum(scale, _SMALLEST_SCALE).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    rounded = np.rint(weight / scales.reshape(shape))
    return np.clip(rounded, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8), scales


def multiplied_together(by_channel: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Pairs of weights (channels, n, 2) whose products x86 CPUs without VNNI add in 16 saturating bits.

    ``vpmaddubsw`` multiplies unsigned activations by signed weights and adds neighbours: 255 * 127 * 2 does not fit.
    The neighbours are consecutive input channels at one position, or, where their number is odd, consecutive weights in
    the order in which a kernel flattens the window: rows first in ONNX Runtime, columns first in OpenVINO.
    Found by trying every pair with OpenVINO under ``ONEDNN_MAX_CPU_ISA``; depthwise kernels widen before they add.

    Args:
        by_channel: weights with the output channel first: (O, I, kh, kw), or (O, I) for a dense layer.
    """
    channels = len(by_channel)
    if by_channel.ndim == 2:
        return [_neighbours(by_channel)]
    if by_channel.ndim != 4:
        return []
    rows_first = by_channel.transpose(0, 2, 3, 1)
    inputs = rows_first.shape[-1]
    at_one_position = _neighbours(rows_first.reshape(-1, inputs)).reshape(channels, -1, 2)
    if inputs % 2 == 0:
        return [at_one_position]
    columns_first = by_channel.transpose(0, 3, 2, 1)
    return [
        at_one_position,
        _neighbours(rows_first.reshape(channels, -1)),
        _neighbours(columns_first.reshape(channels, -1)),
    ]


def _neighbours(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r, n) -> (r, ceil(n / 2), 2): elements 0 and 1, 2 and 3, ...; an odd one is paired with zero."""
    padded = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    return padded.reshape(len(rows), -1, 2)


def quantize_int8(
    model: ModelProto,
    plan: Plan,
    thresholds: Mapping[str, float],
    dialect: Dialect,
) -> ModelProto:
    """Write the int8 form of a folded network.

    Args:
        model: folded fp32 graph with canonical names.
        plan: from :func:`edge_fer.compile.plan.plan_quantisation` on this graph.
        thresholds: largest magnitude to represent, for each of ``plan.measured``.
        dialect: see the table above.

    Raises:
        KeyError: a range is missing.
        onnx.checker.ValidationError: the written graph is not valid ONNX.
    """
    if dialect == "cpu":
        model, plan = align_channels(fuse_gelu(model), plan)
    graph = Graph(model)
    writer = _Writer(graph, {name: graph.array(name) for name in graph.initializers})
    points = set(plan.points[dialect])
    layers = set(plan.layers)
    scales: dict[str, np.float32] = {}
    replaced: dict[str, str] = {}

    def pair(tensor: str) -> None:
        scale, zero = activation_grid(
            thresholds[plan.shares[tensor]], never_negative=tensor in plan.never_negative, dialect=dialect
        )
        if dialect == "cpu" and zero.dtype == np.int8 and len(graph.consumers[tensor]) > 1:
            # The same grid, shifted: ONNX Runtime's x86 kernels take unsigned activations, and it shifts by itself only
            # tensors that one layer reads. What stays signed, it computes in floating point.
            zero = np.array(128, np.uint8)
        scales[tensor] = scale
        scale_name = writer.store(f"{tensor}.scale", np.array(scale, np.float32))
        zero_name = writer.store(f"{tensor}.zero_point", zero)
        quantized = writer.quantize(tensor, tensor, scale_name, zero_name)
        replaced[tensor] = writer.dequantize(tensor, quantized, scale_name, zero_name)

    for name in graph.inputs:
        if name in points:
            pair(name)
    for node in graph.nodes:
        fresh = NodeProto()
        fresh.CopyFrom(node)
        inputs = [replaced.get(name, name) for name in node.input]
        if node.name in layers:
            inputs[1:] = _weights(writer, node, float(scales[node.input[0]]), dialect)
        del fresh.input[:]
        fresh.input.extend(inputs)
        writer.nodes.append(fresh)
        for name in node.output:
            if name in points:
                pair(name)
    quantized_model = rebuilt(model, writer.nodes, writer.arrays)
    onnx.checker.check_model(quantized_model, full_check=True)
    return quantized_model


def _weights(writer: _Writer, node: NodeProto, input_scale: float, dialect: Dialect) -> list[str]:
    """Quantise a layer's weight and bias; returns the names that replace its second and further inputs."""
    graph, axis = writer.graph, weight_axis(node)
    source = node.input[1]
    # A weight that several layers share gets a scale for each of them, because their inputs and biases differ.
    stem = source if len(graph.consumers[source]) == 1 else f"{node.name}.weight"
    weight = graph.array(source)
    bias = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    pair_safe = dialect == "cpu" and not is_depthwise(node, weight)
    integers, scales = quantize_weight(weight, axis, bias=bias, input_scale=input_scale, pair_safe=pair_safe)
    scale_name = writer.store(f"{stem}.scale", scales)
    zero_name = writer.store(f"{stem}.zero_point", np.zeros(len(scales), np.int8))
    if dialect == "trt":
        quantized = writer.quantize(stem, source, scale_name, zero_name, axis)
    else:
        quantized = writer.store(f"{stem}.quantized", integers)
    names = [writer.dequantize(stem, quantized, scale_name, zero_name, axis)]
    if bias is None:
        return names
    bias_stem = f"{node.name}.bias"
    if dialect == "trt":
        return [*names, writer.store(bias_stem, bias)]
    bias_scales = scales * np.float32(input_scale)
    stored = np.rint(bias.astype(np.float64) / bias_scales.astype(np.float64)).astype(np.int32)
    bias_quantized = writer.store(f"{bias_stem}.quantized", stored)
    bias_scale = writer.store(f"{bias_stem}.scale", bias_scales)
    bias_zero = writer.store(f"{bias_stem}.zero_point", np.zeros(len(stored), np.int32))
    return [*names, writer.dequantize(bias_stem, bias_quantized, bias_scale, bias_zero, 0)]
