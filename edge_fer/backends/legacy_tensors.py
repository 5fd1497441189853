"""Tensors from a file that ``torch.save`` wrote before torch 1.6, without torch and without running what it asks for.

Such a file is five pickles (a magic number, a protocol, the writer's machine, the object, the storages' keys) and then
the storages' bytes. A pickle is a program: here its instructions are only read, one by one, and the few that a
dictionary of float32 tensors needs are understood. Nothing is imported, looked up or called; all others are refused.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
_DICT, _TENSOR, _FLOATS = "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage"


class _Mark:
    """Where a tuple, a list or a dictionary's items begin on the stack."""


class _Global(NamedTuple):
    """A name that the pickle would look up."""

    name: str


class _Storage(NamedTuple):
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a state dict, by name.

    Raises:
        ValueError: the file has another format, is damaged, or holds anything else.
    """
    file = io.BytesIO(data)
    try:
        if _read(file) != MAGIC or _read(file) != PROTOCOL:
            raise ValueError("it does not begin as such a file does")
        machine, named, keys = _read(file), _read(file), _read(file)
        if not machine["little_endian"]:
            raise ValueError("it was written on a big-endian machine")
        storages = {}
        for key in keys:
            (length,) = struct.unpack("<q", file.read(8))
            storages[key] = np.frombuffer(data, "<f4", length, file.tell())
            file.seek(4 * length, io.SEEK_CUR)
        return {name: _view(tensor, storages) for name, tensor in named.items()}
    except (IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from None


def _view(tensor: Any, storages: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    if not isinstance(tensor, _Tensor):
        raise ValueError("it holds something else than tensors")
    values, shape, strides = storages[tensor.storage.key], tensor.shape, tensor.strides
    if len(shape) != len(strides) or min((*shape, 1)) < 1 or min((*strides, tensor.offset)) < 0:
        raise ValueError("a tensor has no sound shape")
    last = tensor.offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if last >= len(values) or math.prod(shape) > len(values):
        raise ValueError("a tensor reaches over its storage")
    steps = [stride * values.itemsize for stride in strides]
    return as_strided(values[tensor.offset :], shape, steps).astype(np.float32, order="C")


def _read(file: io.BytesIO) -> Any:
    """The value of one pickle; ``file`` is left behind it."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in _VALUES:
            stack.append(_VALUES[name](argument))
        elif name in _TUPLES:
            stack[len(stack) - _TUPLES[name] :] = [tuple(stack[len(stack) - _TUPLES[name] :])]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(_since_mark(stack)))
        elif name == "APPENDS":
            items = _since_mark(stack)
            stack[-1].extend(items)
        elif name == "APPEND":
            stack[-2].append(stack.pop())
        elif name == "SETITEMS":
            items = _since_mark(stack)
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_made(called, arguments))
        elif name == "BUILD":
            stack.pop()  # a state dict's own attributes: its modules' version numbers
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise ValueError(f"it holds something else than tensors ({name})")
    raise ValueError("it ends too early")


_VALUES: dict[str, Any] = {
    "MARK": lambda _: _Mark(),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "BININT": int,
    "BININT1": int,
    "BININT2": int,
    "LONG1": int,
    "BINUNICODE": str,
    "GLOBAL": _Global,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _since_mark(stack: list[Any]) -> list[Any]:
    """Take everything above the last mark, and the mark, off the stack."""
    items: list[Any] = []
    while not isinstance(top := stack.pop(), _Mark):
        items.append(top)
    return items[::-1]


def _storage(identity: Any) -> _Storage:
    kind, type_, key, _, length, *_ = identity
    if kind != "storage" or type_ != _Global(_FLOATS):
        raise ValueError(f"it holds a storage of {getattr(type_, 'name', type_)}, not of float32")
    return _Storage(key, length)


def _made(called: Any, arguments: Any) -> Any:
    if called == _Global(_DICT) and arguments == ():
        return {}
    if called == _Global(_TENSOR):
        storage, offset, shape, strides, *_ = arguments
        return _Tensor(storage, offset, shape, strides)
    raise ValueError(f"it asks for {getattr(called, 'name', called)}")
