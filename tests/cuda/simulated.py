"""A CUDA device of arrays and queues that does everything as late as CUDA allows.

Nothing that is put on a stream happens until somebody waits for it, and then only that and what it depends on: work
that nobody waited for has not happened yet, a copy reads its source when it runs, and memory that nothing was written
to holds poison. So a missing wait, an early read and a buffer that is used again too soon give wrong numbers here,
always, where a real device gives them once a day. Use after free and use by the wrong thread are errors.
"""

from __future__ import annotations

import bisect
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge_fer.core.errors import DeviceError
from edge_fer.cuda.device import (
    DeviceBuffer,
    DeviceInfo,
    Dim3,
    Event,
    HostBuffer,
    KernelArguments,
    Stream,
    address_of,
    bytes_of,
    check_copy,
)
from edge_fer.cuda.failures import call_failed

POISON = 0xFF
"""As uint8 white, as float32 not a number."""
FIRST_ADDRESS, ALIGNMENT = 0x7_0000_0000, 512
BYTES_PER_MS, LAUNCH_MS = 3_000_000, 0.01
"""Of the device's own clock: PCIe 3.0 x4, and what a kernel costs at least."""

KernelFunction = Callable[["SimulatedDevice", Dim3, Dim3, tuple[Any, ...]], None]
"""What a kernel does: (device, grid, block, the arguments' values)."""
MX250 = DeviceInfo("Simulated MX250", (6, 1), 2 << 30, 12_060, integrated=False, async_engines=1, can_map=True)


class _Memory:
    """Bytes at an address, on one side or on both."""

    def __init__(self, device: SimulatedDevice, nbytes: int, *, visible: bool) -> None:
        self.raw = np.full(max(1, nbytes), POISON, np.uint8)
        self.pointer = device._place(self.raw) if visible else 0
        self.__array_interface__ = {**self.raw.__array_interface__}
        weakref.finalize(self, _forget, device._ranges, device._freed, self.pointer, self.raw)


def _forget(ranges: dict[int, NDArray[np.uint8]], freed: list[int], pointer: int, raw: NDArray[np.uint8]) -> None:
    ranges.pop(pointer, None)
    freed.append(raw.nbytes)


class SimulatedHostBuffer:
    def __init__(self, device: SimulatedDevice, shape: Sequence[int], dtype: DTypeLike, mapped: bool) -> None:
        self.nbytes, self._mapped = bytes_of(shape, dtype), mapped
        self.memory = _Memory(device, self.nbytes, visible=mapped)
        self.memory.raw[:] = 0
        self.array: NDArray[Any] = np.asarray(self.memory)[: self.nbytes].view(dtype).reshape(tuple(shape))

    @property
    def pointer(self) -> int:
        return int(self.memory.raw.ctypes.data)

    @property
    def device_pointer(self) -> int:
        if not self._mapped:
            raise ValueError("this buffer was not allocated as mapped")
        return self.memory.pointer


class SimulatedDeviceBuffer:
    def __init__(self, device: SimulatedDevice, nbytes: int) -> None:
        self._memory = _Memory(device, nbytes, visible=True)
        self.pointer, self.nbytes = self._memory.pointer, nbytes


class SimulatedStream:
    """A queue of work; ``done`` counts what has run of it."""

    def __init__(self, device: SimulatedDevice, handle: int) -> None:
        self.device, self.handle = device, handle
        self.queue: deque[Callable[[], None]] = deque()
        self.put = self.done = 0
        self.captured: list[Callable[[], None]] | None = None

    def append(self, work: Callable[[], None]) -> None:
        if self.captured is not None:
            self.captured.append(work)
            return
        self.queue.append(work)
        self.put += 1

    def run_until(self, count: int) -> None:
        """Do the first ``count`` pieces of work that were ever put here, and what they wait for."""
        with self.device._lock:
            while self.done < count:
                self.done += 1
                self.queue.popleft()()

    def synchronize(self) -> None:
        self.device._waited("cuStreamSynchronize", self)
        self.run_until(self.put)

    def wait(self, event: Event) -> None:
        assert isinstance(event, SimulatedEvent)
        with self.device._call("cuStreamWaitEvent"):
            mark = event.mark
            if mark is not None:
                stream, count = mark
                self.append(lambda: stream.run_until(count))


class SimulatedEvent:
    def __init__(self, device: SimulatedDevice, timing: bool) -> None:
        self.device, self._timing = device, timing
        self.mark: tuple[SimulatedStream, int] | None = None
        self.at_ms: float | None = None

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, SimulatedStream)
        with self.device._call("cuEventRecord"):
            assert stream.captured is None, "events inside of graphs are not simulated"

            def reach() -> None:
                self.at_ms = self.device.clock_ms

            self.at_ms = None
            stream.append(reach)
            self.mark = (stream, stream.put)

    def query(self) -> bool:
        """Every question lets the device do one piece of work, so that polling ends."""
        if self.mark is None:
            return True
        stream, count = self.mark
        self.device._waited("cuEventQuery", stream)
        if stream.done < count:
            stream.run_until(stream.done + 1)
            return False
        return True

    def synchronize(self) -> None:
        if self.mark is not None:
            stream, count = self.mark
            self.device._waited("cuEventSynchronize", stream)
            stream.run_until(count)

    def elapsed_ms_since(self, earlier: Event) -> float:
        assert isinstance(earlier, SimulatedEvent)
        with self.device._call("cuEventElapsedTime"):
            if not (self._timing and earlier._timing):
                raise call_failed("cuEventElapsedTime", "CUDA_ERROR_INVALID_HANDLE", "an event without timing")
            if self.at_ms is None or earlier.at_ms is None:
                raise call_failed("cuEventElapsedTime", "CUDA_ERROR_NOT_READY", "not reached yet")
            return self.at_ms - earlier.at_ms


class SimulatedKernel:
    def __init__(self, name: str, function: KernelFunction) -> None:
        self.name, self.function = name, function


class SimulatedModule:
    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device

    def kernel(self, name: str) -> SimulatedKernel:
        with self._device._call("cuModuleGetFunction"):
            if name not in self._device.kernels:
                raise call_failed("cuModuleGetFunction", "CUDA_ERROR_NOT_FOUND", f"no kernel {name!r}")
            return SimulatedKernel(name, self._device.kernels[name])


class SimulatedGraph:
    def __init__(self, device: SimulatedDevice, work: list[Callable[[], None]]) -> None:
        self._device, self._work = device, work

    def launch(self, stream: Stream) -> None:
        assert isinstance(stream, SimulatedStream)
        with self._device._call("cuGraphLaunch"):
            self._device.launched_graphs += 1
            for work in self._work:
                stream.append(work)


class SimulatedDevice:
    """See the module. ``kernels``: what a loaded module holds, by name.

    Attributes:
        to_device, to_host: (bytes) of every copy that ran.
        launched: names of the kernels that were launched one by one; ``launched_graphs`` counts graphs.
    """

    adapter = "simulated"
    has_graphs = True

    def __init__(self, kernels: Mapping[str, KernelFunction] | None = None, *, info: DeviceInfo = MX250) -> None:
        self.info, self.kernels = info, dict(kernels or {})
        self._lock = threading.RLock()
        self._ranges: dict[int, NDArray[np.uint8]] = {}
        self._freed: list[int] = []
        self._next_address = FIRST_ADDRESS
        self._streams: weakref.WeakValueDictionary[int, SimulatedStream] = weakref.WeakValueDictionary()
        self._handles = itertools.count(0x5EED_0001)
        self._failures: dict[str, str] = {}
        self._lost = ""
        self._thread, self._owner = threading.local(), object()
        self._closed = False
        self.clock_ms = 0.0
        self.to_device: list[int] = []
        self.to_host: list[int] = []
        self.launched: list[str] = []
        self.launched_graphs = 0
        self.take_over()

    # For tests.

    def view(self, pointer: int, nbytes: int) -> NDArray[np.uint8]:
        """Device-visible memory at an address, as the device sees it now.

        Raises:
            DeviceError: it was never allocated there, or is free again.
        """
        starts = sorted(self._ranges)
        place = bisect.bisect_right(starts, pointer) - 1
        if place >= 0:
            raw = self._ranges[starts[place]]
            offset = pointer - starts[place]
            if offset + nbytes <= raw.nbytes:
                return raw[offset : offset + nbytes]
        raise call_failed("cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS", f"{nbytes} bytes at {pointer:#x}")

    def enqueue(self, handle: int, work: Callable[[], None]) -> None:
        """Put a Python function on a stream, as a library does that is given the stream's handle."""
        with self._call("cuLaunchKernel"):
            self._streams[handle].append(work)

    def is_capturing(self, handle: int) -> bool:
        return self._streams[handle].captured is not None

    def fail_next(self, call: str, name: str) -> None:
        """Let the next driver call of this name end with ``name``, as ``CUDA_ERROR_OUT_OF_MEMORY``."""
        self._failures[call] = name

    def lose(self, name: str) -> None:
        """From now on every call ends with ``name``, as ``CUDA_ERROR_LAUNCH_FAILED``: a broken context stays broken."""
        self._lost = name

    @property
    def freed_bytes(self) -> int:
        return sum(self._freed)

    @property
    def pending(self) -> int:
        """Pieces of work that nobody has waited for."""
        return sum(len(stream.queue) for stream in self._streams.values())

    # What the parts above share.

    def _place(self, raw: NDArray[np.uint8]) -> int:
        pointer = self._next_address
        # A gap behind every range: what runs over its end meets no neighbour.
        self._next_address += (raw.nbytes // ALIGNMENT + 2) * ALIGNMENT
        self._ranges[pointer] = raw
        return pointer

    def _injected(self, call: str) -> None:
        if name := self._failures.pop(call, self._lost):
            raise call_failed(call, name, "injected by a test")

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        if self._closed:
            raise DeviceError("The CUDA device is closed.")
        if getattr(self._thread, "mark", None) is not self._owner:
            raise RuntimeError(f"{name}: the CUDA device belongs to another thread; take_over() comes first")
        with self._lock:
            self._injected(name)
            yield

    def _waited(self, name: str, stream: SimulatedStream) -> None:
        self._injected(name)
        if stream.captured is not None:
            raise call_failed(name, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "the stream is being captured")

    def _no_capture(self, call: str) -> None:
        if any(stream.captured is not None for stream in self._streams.values()):
            raise call_failed(call, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "a stream is being captured")

    # The protocol.

    def take_over(self) -> None:
        self._thread.mark = self._owner = object()

    def free_bytes(self) -> int:
        with self._call("cuMemGetInfo"):
            return self.info.total_bytes - sum(raw.nbytes for raw in self._ranges.values())

    def pinned(self, shape: Sequence[int], dtype: DTypeLike, *, mapped: bool = False) -> SimulatedHostBuffer:
        with self._call("cuMemHostAlloc"):
            self._no_capture("cuMemHostAlloc")
            return SimulatedHostBuffer(self, shape, dtype, mapped)

    def allocate(self, nbytes: int) -> SimulatedDeviceBuffer:
        with self._call("cuMemAlloc"):
            self._no_capture("cuMemAlloc")
            if nbytes > self.free_bytes():
                raise call_failed("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY", "out of memory")
            return SimulatedDeviceBuffer(self, nbytes)

    def stream(self) -> SimulatedStream:
        with self._call("cuStreamCreate"):
            stream = SimulatedStream(self, next(self._handles))
            self._streams[stream.handle] = stream
            return stream

    def borrow(self, handle: int) -> SimulatedStream:
        with self._call("borrow"):
            return self._streams[handle]

    def event(self, *, timing: bool = False) -> SimulatedEvent:
        with self._call("cuEventCreate"):
            return SimulatedEvent(self, timing)

    def copy_to_device(
        self, target: DeviceBuffer | int, source: HostBuffer, nbytes: int, stream: Stream, *, offset: int = 0
    ) -> None:
        assert isinstance(source, SimulatedHostBuffer)
        assert isinstance(stream, SimulatedStream)
        check_copy(nbytes, source, target, offset)
        pointer, memory = address_of(target), source.memory

        def run() -> None:
            self.view(pointer, nbytes)[:] = memory.raw[offset : offset + nbytes]
            self.to_device.append(nbytes)
            self.clock_ms += nbytes / BYTES_PER_MS

        with self._call("cuMemcpyHtoDAsync"):
            stream.append(run)

    def copy_to_host(self, target: HostBuffer, source: DeviceBuffer | int, nbytes: int, stream: Stream) -> None:
        assert isinstance(target, SimulatedHostBuffer)
        assert isinstance(stream, SimulatedStream)
        check_copy(nbytes, target, source)
        pointer, memory = address_of(source), target.memory

        def run() -> None:
            memory.raw[:nbytes] = self.view(pointer, nbytes)
            self.to_host.append(nbytes)
            self.clock_ms += nbytes / BYTES_PER_MS

        with self._call("cuMemcpyDtoHAsync"):
            stream.append(run)

    def load_module(self, image: bytes) -> SimulatedModule:
        with self._call("cuModuleLoadData"):
            if b".version" not in image:
                raise call_failed("cuModuleLoadData", "CUDA_ERROR_INVALID_IMAGE", "not PTX")
            return SimulatedModule(self)

    def launch(
        self,
        kernel: SimulatedKernel,
        grid: Dim3,
        block: Dim3,
        arguments: KernelArguments,
        stream: Stream,
        shared_bytes: int = 0,
    ) -> None:
        assert isinstance(stream, SimulatedStream)
        # The driver copies the arguments' values when it is called.
        values = tuple(type(value).from_buffer_copy(value) for value in arguments.values)

        def run() -> None:
            kernel.function(self, grid, block, values)
            self.clock_ms += LAUNCH_MS

        with self._call("cuLaunchKernel"):
            if min(*grid, *block) < 1 or block[0] * block[1] * block[2] > 1024:
                raise call_failed("cuLaunchKernel", "CUDA_ERROR_INVALID_VALUE", f"grid {grid}, block {block}")
            self.launched.append(kernel.name)
            stream.append(run)

    def begin_capture(self, stream: Stream) -> None:
        assert isinstance(stream, SimulatedStream)
        with self._call("cuStreamBeginCapture"):
            stream.captured = []

    def end_capture(self, stream: Stream) -> SimulatedGraph:
        assert isinstance(stream, SimulatedStream)
        with self._call("cuStreamEndCapture"):
            work, stream.captured = stream.captured, None
            if work is None:
                raise call_failed("cuStreamEndCapture", "CUDA_ERROR_ILLEGAL_STATE", "nothing is being captured")
            return SimulatedGraph(self, work)

    def synchronize(self) -> None:
        with self._call("cuCtxSynchronize"):
            for stream in list(self._streams.values()):
                stream.synchronize()

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> SimulatedDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
