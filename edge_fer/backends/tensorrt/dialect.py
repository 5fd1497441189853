"""What an ONNX file computes in, and in which dialect it is quantised. Neither ``onnx`` nor TensorRT is needed for it.

TensorRT's parsers accept the ``cpu`` dialect with a warning that uint8 zero-points "default to INT8", and then compute
something else. So a file is looked at before any of them sees it. What is read here are four ONNX messages
(:mod:`edge_fer.backends.protobuf`); ``compile/lint_trt.py`` checks more rules, where the ``onnx`` package is at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_fer.backends.protobuf import GRAPH_INITIALIZER, GRAPH_NODE, MODEL_GRAPH, fields, message, read_node, text
from edge_fer.core.errors import BadInputError

# Field numbers of onnx.proto.
_TENSOR_TYPE, _TENSOR_INT32_DATA, _TENSOR_NAME, _TENSOR_RAW_DATA = 2, 5, 8, 9
_INT8, _FLOAT16 = 3, 10
_TYPES = {1: "float32", 2: "uint8", _INT8: "int8", 4: "uint16", 5: "int16", 6: "int32", _FLOAT16: "float16"}
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Dialect:
    """What the Q/DQ nodes of a file look like.

    Attributes:
        nodes: how many there are; 0 means that the file is not quantised.
        violations: where it breaks TensorRT's rule that all zero-points are stored, int8 and 0; sentences.
        half: whether it holds weights in float16.
    """

    nodes: int
    violations: tuple[str, ...]
    half: bool

    @property
    def is_trt(self) -> bool:
        return self.nodes > 0 and not self.violations


def read_dialect(onnx: Path) -> Dialect:
    """Look at every QuantizeLinear and DequantizeLinear of a file.

    Raises:
        BadInputError: it cannot be read, or is no ONNX file.
    """
    try:
        data = memoryview(onnx.read_bytes())
    except OSError as error:
        raise BadInputError(f"Cannot read {onnx}: {error.strerror}.") from None
    try:
        return _examine(data)
    except (IndexError, ValueError):
        raise BadInputError(f"{onnx} is not an ONNX file, or it is damaged.") from None


def _examine(data: memoryview) -> Dialect:
    graphs = [field.value for field in fields(data) if field.number == MODEL_GRAPH]
    if not graphs:
        raise ValueError("no graph")
    stored: dict[str, tuple[int, list[memoryview | int]]] = {}
    pairs: list[tuple[str, list[str]]] = []
    for graph in graphs:
        for number, value, _ in fields(message(graph)):
            if number == GRAPH_INITIALIZER:
                name, kind, values = _tensor(message(value))
                stored[name] = kind, values
            elif number == GRAPH_NODE:
                operator, name, inputs = read_node(message(value))
                if operator in _PAIR:
                    pairs.append((f"{operator} {name or inputs[0]}", inputs))
    violations = []
    for who, inputs in pairs:
        if len(inputs) < 3 or not inputs[2]:
            violations.append(f"{who} has no zero-point, which means uint8")
        elif inputs[2] not in stored:
            violations.append(f"{who} has a zero-point that is not stored")
        else:
            kind, values = stored[inputs[2]]
            if kind != _INT8:
                violations.append(f"{who} is {_TYPES.get(kind, f'of type {kind}')}, not int8")
            elif not _is_zero(values):
                violations.append(f"{who} has a zero-point other than 0")
    return Dialect(len(pairs), tuple(violations), any(kind == _FLOAT16 for kind, _ in stored.values()))


def _tensor(data: memoryview) -> tuple[str, int, list[memoryview | int]]:
    """(name, type, what holds the values)."""
    name, kind = "", 0
    values: list[memoryview | int] = []
    for number, value, _ in fields(data):
        if number == _TENSOR_NAME:
            name = text(value)
        elif number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number in (_TENSOR_RAW_DATA, _TENSOR_INT32_DATA):
            values.append(value)
    return name, kind, values


def _is_zero(values: list[memoryview | int]) -> bool:
    """Raw, packed or one by one: the number 0 is the byte 0 in all three."""
    return all(value == 0 if isinstance(value, int) else not any(value) for value in values)
