"""Which of ONNX Runtime's two integer convolutions computes each layer: timed on the CPU that the engine is built for.

For a convolution with signed weights, ONNX Runtime takes its symmetric kernel wherever the channels allow it
(``QLinearConv::TryConvSymPrepack``): no copy of the windows, rescaled as it computes, but with VNNI at best. Its
general matrix product also has kernels for AMX and is up to twice as fast there, given channels enough to pay for the
copy. The symmetric kernel must know the input's zero-point when the session is made, so a layer gets the general
product by letting its zero-point be an initializer that a caller *could* override (one that is listed among the graph's
inputs, too), which nobody does. Both compute the same integers.

docs/decisions/0035-integer-convolutions-timed.md has the figures.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_fer.backends.protobuf import (
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    MODEL_GRAPH,
    NODE_INPUT,
    encode,
    fields,
    message,
    read_node,
    text,
)
from edge_fer.core.engine import INPUT

LATE = ".late"
"""Added to the name of a zero-point that could be overridden."""
MARGIN = 1.05
"""How many times as fast the general product must be; below that the layer stays with the symmetric kernel."""
MIN_ROUNDS, MAX_ROUNDS, SECONDS = 8, 40, 0.3
"""Calls of either graph: as many as fit the time, within these bounds."""

_CONVOLUTION = "QLinearConv"
_ZERO_POINT, _WEIGHT = 2, 3
# Field numbers of onnx.proto.
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME = 1, 2, 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_VALUE = 1, 1, 2, 1, 1


@dataclass(frozen=True)
class _Stored:
    """An initializer: its dimensions, its ONNX type, and the whole message."""

    dims: tuple[int, ...]
    kind: int
    data: memoryview


def convolutions(model: bytes) -> tuple[str, ...]:
    """Names of the integer convolutions that have both kernels to choose from, in the order of the graph.

    Depthwise ones have kernels of their own.

    Args:
        model: an optimised graph as ONNX Runtime stores it.

    Raises:
        ValueError, IndexError: it is no ONNX file.
    """
    nodes, stored = _parts(memoryview(model))
    found = []
    for operator, name, inputs in nodes:
        if operator != _CONVOLUTION or not name or len(inputs) <= _WEIGHT:
            continue
        weight = stored.get(inputs[_WEIGHT])
        if inputs[_ZERO_POINT] in stored and weight is not None and len(weight.dims) > 1 and weight.dims[1] > 1:
            found.append(name)
    return tuple(found)


def with_general_product(model: bytes, layers: Collection[str]) -> bytes:
    """The same graph, with these of its :func:`convolutions` computed by the general matrix product."""
    if not layers:
        return model
    data = memoryview(model)
    stored = _parts(data)[1]
    late: set[str] = set()

    def node(value: memoryview) -> bytes:
        operator, name, inputs = read_node(value)
        if operator != _CONVOLUTION or name not in layers:
            return bytes(value)
        late.add(inputs[_ZERO_POINT])
        parts, seen = [], -1
        for field in fields(value):
            seen += field.number == NODE_INPUT
            renamed = field.number == NODE_INPUT and seen == _ZERO_POINT
            parts.append(encode(NODE_INPUT, (inputs[_ZERO_POINT] + LATE).encode()) if renamed else bytes(field.raw))
        return b"".join(parts)

    def graph(value: memoryview) -> bytes:
        parts = [
            encode(GRAPH_NODE, node(message(field.value))) if field.number == GRAPH_NODE else bytes(field.raw)
            for field in fields(value)
        ]
        for name in sorted(late):
            parts.append(encode(GRAPH_INITIALIZER, _renamed(stored[name].data, name + LATE)))
            parts.append(encode(GRAPH_INPUT, _declared(stored[name], name + LATE)))
        return b"".join(parts)

    return b"".join(
        encode(MODEL_GRAPH, graph(message(field.value))) if field.number == MODEL_GRAPH else bytes(field.raw)
        for field in fields(data)
    )


def fastest_kernels(
    ort: Any, path: Path, options: Callable[[], Any], input_shape: tuple[int, int, int]
) -> tuple[str, ...]:
    """Give every integer convolution of a stored graph the kernel that is the faster one here, and rewrite the file.

    One thread computes both graphs in turn, and the smallest time of each layer counts: work beside it can only make a
    layer slower, and at worst the slower kernel is kept, which gives the same numbers.

    Args:
        ort: the ``onnxruntime`` package.
        path: a graph that it has optimised.
        options: makes session options that take a graph as it is.
        input_shape: (C, H, W) of the network's input.

    Returns:
        names of the layers that were given the general product.
    """
    model = path.read_bytes()
    if not (candidates := convolutions(model)):
        return ()
    symmetric, general = _times(ort, (model, with_general_product(model, candidates)), options, input_shape)
    chosen = tuple(
        name for name in candidates if name in symmetric and symmetric[name] > MARGIN * general.get(name, np.inf)
    )
    if chosen:
        path.write_bytes(with_general_product(model, chosen))
    return chosen


def _times(
    ort: Any, models: tuple[bytes, ...], options: Callable[[], Any], input_shape: tuple[int, int, int]
) -> list[dict[str, float]]:
    """Smallest time in microseconds of every named node, per graph."""
    batch = np.zeros((1, *input_shape), np.float32)
    with tempfile.TemporaryDirectory(prefix="edge-fer-", ignore_cleanup_errors=True) as folder:
        sessions = []
        for index, model in enumerate(models):
            settings = options()
            settings.intra_op_num_threads = 1
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder) / f"graph{index}")
            sessions.append(ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"]))
        began, rounds = time.perf_counter(), 0
        while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() - began < SECONDS):
            for session in sessions:
                session.run(None, {INPUT: batch})
            rounds += 1
        return [_smallest(json.loads(Path(s.end_profiling()).read_text(encoding="utf-8"))) for s in sessions]


def _smallest(events: list[dict[str, Any]]) -> dict[str, float]:
    suffix, found = "_kernel_time", dict[str, float]()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(suffix):
            name = event["name"].removesuffix(suffix)
            found[name] = min(found.get(name, np.inf), float(event["dur"]))
    return found


def _parts(data: memoryview) -> tuple[list[tuple[str, str, list[str]]], dict[str, _Stored]]:
    """Nodes as (operator, name, inputs), and initializers by name."""
    nodes, stored = [], {}
    for part in fields(data):
        if part.number != MODEL_GRAPH:
            continue
        for field in fields(message(part.value)):
            if field.number == GRAPH_NODE:
                nodes.append(read_node(message(field.value)))
            elif field.number == GRAPH_INITIALIZER:
                name, tensor = _tensor(message(field.value))
                stored[name] = tensor
    return nodes, stored


def _tensor(data: memoryview) -> tuple[str, _Stored]:
    name, kind, dims = "", 0, []
    for number, value, _ in fields(data):
        if number == _TENSOR_NAME:
            name = text(value)
        elif number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_DIMS:
            # One by one, or packed: small numbers, each a byte or a few.
            dims += [value] if isinstance(value, int) else _packed(value)
    return name, _Stored(tuple(dims), kind, data)


def _packed(data: memoryview) -> list[int]:
    numbers, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    return numbers


def _renamed(tensor: memoryview, name: str) -> bytes:
    kept = [bytes(field.raw) for field in fields(tensor) if field.number != _TENSOR_NAME]
    return b"".join([*kept, encode(_TENSOR_NAME, name.encode())])


def _declared(tensor: _Stored, name: str) -> bytes:
    """The ``ValueInfoProto`` of a tensor."""
    shape = b"".join(encode(_SHAPE_DIM, encode(_DIM_VALUE, length)) for length in tensor.dims)
    kind = encode(_TENSOR_ELEMENT, tensor.kind) + encode(_TENSOR_SHAPE, shape)
    return encode(_VALUE_NAME, name.encode()) + encode(_VALUE_TYPE, encode(_TYPE_TENSOR, kind))


__all__ = ["LATE", "convolutions", "fastest_kernels", "with_general_product"]
