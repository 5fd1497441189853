"""The protobuf wire format, as far as ONNX files are looked at and touched up without the ``onnx`` package.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Field numbers of onnx.proto.
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT = 1, 5, 11
NODE_INPUT, _NODE_NAME, _NODE_OPERATOR = 1, 3, 4


class Field(NamedTuple):
    """One field of a message: its number, its value, and all of its bytes.

    ``value`` is a number for the variable-length ones; of everything else it is the bytes, nested messages included.
    """

    number: int
    value: memoryview | int
    raw: memoryview


def fields(data: memoryview) -> Iterator[Field]:
    """Fields of a message in their order.

    Raises:
        ValueError, IndexError: the bytes are no message.
    """
    position = 0
    while position < len(data):
        start = position
        tag, position = _read_varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _read_varint(data, position)
            yield Field(number, value, data[start:position])
            continue
        if wire == _BYTES:
            length, position = _read_varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > len(data):
            raise ValueError("truncated")
        yield Field(number, data[position : position + length], data[start : position + length])
        position += length


def message(value: memoryview | int) -> memoryview:
    """A value that must be bytes.

    Raises:
        ValueError: it is a number.
    """
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def text(value: memoryview | int) -> str:
    return bytes(message(value)).decode("utf-8")


def read_node(data: memoryview) -> tuple[str, str, list[str]]:
    """(operator, name, inputs) of a ``NodeProto``."""
    operator = name = ""
    inputs = []
    for number, value, _ in fields(data):
        if number == NODE_INPUT:
            inputs.append(text(value))
        elif number == _NODE_NAME:
            name = text(value)
        elif number == _NODE_OPERATOR:
            operator = text(value)
    return operator, name, inputs


def encode(number: int, value: bytes | int) -> bytes:
    """A field's bytes: a number that is not negative, or a string or nested message."""
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
