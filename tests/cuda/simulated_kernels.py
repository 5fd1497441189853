"""The Python side of the simulated driver: is it loaded, what does it hold, and kernels as functions on its memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Parameters = ctypes.POINTER(ctypes.c_void_p)
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, Parameters, ctypes.POINTER(ctypes.c_uint))
_kept: list[Any] = []


def driver() -> ctypes.CDLL | None:
    """The loaded libcuda when it is the simulated one."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
        library.simulated_alive.restype = ctypes.c_size_t
    except (OSError, AttributeError):
        return None
    library.simulated_pending.restype = ctypes.c_size_t
    library.simulated_memory.argtypes = [ctypes.c_size_t]
    return library


def register(name: str, kernel: Callable[[Any, tuple[int, ...]], None]) -> None:
    """Let a Python function be the kernel of this name.

    Args:
        kernel: takes the parameters (:func:`value` reads them) and (grid x, y, z, block x, y, z). What it raises fails
            the launch.
    """
    library = driver()
    assert library is not None

    @_CALLBACK
    def called(parameters: Any, geometry: Any) -> int:
        try:
            kernel(parameters, tuple(geometry[i] for i in range(6)))
        except Exception as error:
            print(f"kernel {name}: {type(error).__name__}: {error}")  # noqa: T201 (pytest shows it with the failure)
            return 1
        return 0

    _kept.append(called)
    library.simulated_kernel(name.encode(), called)


def value(parameters: Any, index: int, kind: Any) -> Any:
    """One parameter of a kernel, by its ctypes type."""
    return kind.from_address(parameters[index]).value


def array_at(address: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Simulated device memory as an array; no copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)
