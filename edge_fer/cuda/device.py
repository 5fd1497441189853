"""What the project needs of a CUDA device, as small protocols: memory, streams, events, kernels, graphs.

Two adapters offer it, over cuda-python and over pycuda, and the tests a third, which simulates a device. All of them
use the device's *primary* context, so that TensorRT, ONNX Runtime and torch in the same process share its addresses and
stream handles. A device belongs to one thread at a time: the one that opened it, until another calls ``take_over``.
Only that thread may queue and allocate; any thread may wait for a stream or an event. Objects free what they hold when
the last reference to them is gone; a view of pinned memory is such a reference, and the context outlives them all.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

Dim3 = tuple[int, int, int]


@dataclass(frozen=True)
class DeviceInfo:
    """Who a device is.

    Attributes:
        sm: compute capability, (6, 1) for Pascal's laptop chips.
        total_bytes: memory of the device.
        driver_version: CUDA version that the driver serves, 1000 * major + 10 * minor.
        integrated: it shares the host's memory, as on Jetson: reading a mapped buffer then copies nothing.
        async_engines: copies that it makes while it computes: 0, 1 (one direction at a time) or 2.
        can_map: it reads pinned host memory through mapped addresses.
        memory_bytes_per_s: what its memory can move at most, by clock and width; 0 where the driver does not tell.
    """

    name: str
    sm: tuple[int, int]
    total_bytes: int
    driver_version: int
    integrated: bool
    async_engines: int
    can_map: bool
    memory_bytes_per_s: float = 0.0


class KernelArguments:
    """Arguments of a kernel in memory of their own, packed once: a launch passes one address.

    Change a value between two launches through ``values[i].value``; a captured graph keeps what was there when it was
    captured, so what changes from frame to frame belongs into a mapped buffer whose address is the argument.

    Args:
        values: ctypes scalars or structures of exactly the kernel's parameter types; ``c_uint64`` for pointers.
    """

    def __init__(self, *values: Any) -> None:
        self.values: tuple[Any, ...] = values
        # A null pointer ends the array, for readers that are not told how many there are.
        self._pointers = (ctypes.c_void_p * (len(values) + 1))(*(ctypes.addressof(value) for value in values))

    @property
    def address(self) -> int:
        """Address of the ``void*`` array that ``cuLaunchKernel`` takes."""
        return ctypes.addressof(self._pointers)


@runtime_checkable
class HostBuffer(Protocol):
    """Page-locked host memory, which the device reads and writes while the host goes on."""

    @property
    def array(self) -> NDArray[Any]:
        """The memory as an array. It, and every view of it, keeps the memory alive."""
        ...

    @property
    def nbytes(self) -> int: ...

    @property
    def pointer(self) -> int:
        """Host address."""
        ...

    @property
    def device_pointer(self) -> int:
        """The same memory as the device addresses it.

        Raises:
            ValueError: it was not allocated as mapped.
        """
        ...


@runtime_checkable
class DeviceBuffer(Protocol):
    """Device memory, not initialised."""

    @property
    def pointer(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@runtime_checkable
class Stream(Protocol):
    """A queue of work that runs in order, beside those of other streams."""

    @property
    def handle(self) -> int:
        """The ``cudaStream_t``, for other libraries."""
        ...

    def synchronize(self) -> None:
        """Wait until everything in the queue is done."""
        ...

    def wait(self, event: Event) -> None:
        """What is put on this stream from now on begins after the event's latest ``record``."""
        ...


@runtime_checkable
class Event(Protocol):
    """A mark on a stream."""

    def record(self, stream: Stream) -> None: ...

    def query(self) -> bool:
        """Whether the mark was reached; also true when none was set."""
        ...

    def synchronize(self) -> None:
        """Wait until the mark is reached."""
        ...

    def elapsed_ms_since(self, earlier: Event) -> float:
        """Milliseconds of device time between two reached marks, both of events made with ``timing``."""
        ...


class Kernel(Protocol):
    """A function of a loaded module."""

    @property
    def name(self) -> str: ...


class Module(Protocol):
    """Loaded device code."""

    def kernel(self, name: str) -> Kernel:
        """A function by its unmangled name (``extern "C"``).

        Raises:
            DeviceError: there is none of this name.
        """
        ...


class Graph(Protocol):
    """Captured work, launched again and again for the price of one call."""

    def launch(self, stream: Stream) -> None: ...


@runtime_checkable
class CudaDevice(Protocol):
    """An opened device. A context manager; every failing call raises :class:`edge_fer.core.errors.DeviceError` with
    the call's name."""

    @property
    def info(self) -> DeviceInfo: ...

    @property
    def adapter(self) -> str:
        """``cuda-python``, ``pycuda``, or what the tests simulate."""
        ...

    @property
    def has_graphs(self) -> bool:
        """Whether ``begin_capture`` works."""
        ...

    def take_over(self) -> None:
        """Make the calling thread the one that the device belongs to. Costs next to nothing when it is already."""
        ...

    def free_bytes(self) -> int:
        """Device memory that nobody uses now."""
        ...

    def pinned(self, shape: Sequence[int], dtype: DTypeLike, *, mapped: bool = False) -> HostBuffer:
        """Page-locked memory, zeroed; ``mapped``: the device addresses it too."""
        ...

    def allocate(self, nbytes: int) -> DeviceBuffer: ...

    def stream(self) -> Stream:
        """A new stream, independent of the default stream."""
        ...

    def borrow(self, handle: int) -> Stream:
        """A stream that somebody else made in the same primary context and keeps alive.

        Raises:
            DeviceError: the adapter takes no streams but its own (pycuda).
        """
        ...

    def event(self, *, timing: bool = False) -> Event: ...

    def copy_to_device(
        self, target: DeviceBuffer | int, source: HostBuffer, nbytes: int, stream: Stream, *, offset: int = 0
    ) -> None:
        """Queue a copy of ``nbytes`` from ``offset`` bytes into the source to the start of the target. The source must
        stay as it is until it is done."""
        ...

    def copy_to_host(self, target: HostBuffer, source: DeviceBuffer | int, nbytes: int, stream: Stream) -> None:
        """Queue a copy of the first ``nbytes``. The target holds them once it is done."""
        ...

    def load_module(self, image: bytes) -> Module:
        """Load PTX (which the driver compiles for this device) or a cubin."""
        ...

    def launch(
        self, kernel: Kernel, grid: Dim3, block: Dim3, arguments: KernelArguments, stream: Stream, shared_bytes: int = 0
    ) -> None: ...

    def begin_capture(self, stream: Stream) -> None:
        """Record what is put on the stream instead of running it.

        Raises:
            DeviceError: the adapter has no graphs (pycuda).
        """
        ...

    def end_capture(self, stream: Stream) -> Graph: ...

    def synchronize(self) -> None:
        """Wait for all streams."""
        ...

    def close(self) -> None:
        """Give the context back. Buffers and views that are still alive stay valid."""
        ...

    def __enter__(self) -> CudaDevice: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def peak_memory_rate(clock_khz: int, bus_bits: int) -> float:
    """Bytes a second of memory that moves data twice a clock, as all of a GPU's does."""
    return 2 * 1e3 * clock_khz * bus_bits / 8


def bytes_of(shape: Sequence[int], dtype: DTypeLike) -> int:
    """Size of a contiguous array."""
    return int(np.prod(tuple(shape), dtype=np.int64)) * np.dtype(dtype).itemsize


def address_of(memory: DeviceBuffer | int) -> int:
    """The device address of a buffer, or the address itself."""
    return memory if isinstance(memory, int) else memory.pointer


def check_copy(nbytes: int, host: HostBuffer, device: DeviceBuffer | int, offset: int = 0) -> None:
    """The driver would read or write beyond a buffer without a word.

    Raises:
        ValueError: the copy does not fit the buffers.
    """
    fits = offset >= 0 and nbytes >= 0 and offset + nbytes <= host.nbytes
    if not fits or (not isinstance(device, int) and nbytes > device.nbytes):
        raise ValueError(f"a copy of {nbytes} bytes from {offset} does not fit the buffers")


__all__ = [
    "CudaDevice",
    "DeviceBuffer",
    "DeviceInfo",
    "Dim3",
    "Event",
    "Graph",
    "HostBuffer",
    "Kernel",
    "KernelArguments",
    "Module",
    "Stream",
    "address_of",
    "bytes_of",
    "check_copy",
    "peak_memory_rate",
]
