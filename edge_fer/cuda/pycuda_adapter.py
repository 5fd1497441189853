"""A CUDA device through pycuda, for those who have it: everything but graphs, which pycuda does not offer.

pycuda keeps a stack of contexts per thread and aborts the process when a thread ends with something on it, so every
call here pushes the context and pops it again. What pycuda made is also let go that way: destroyed in another thread
it would be leaked.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
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
    Graph,
    HostBuffer,
    KernelArguments,
    Stream,
    address_of,
    bytes_of,
    check_copy,
    peak_memory_rate,
)
from edge_fer.cuda.failures import call_failed, no_driver, no_package, no_such_device

ADAPTER = "pycuda"
_NON_BLOCKING = 1
"""``CU_STREAM_NON_BLOCKING``, for which pycuda has no name."""
_NAMES = {
    "out of memory": "CUDA_ERROR_OUT_OF_MEMORY",
    "no CUDA-capable device is detected": "CUDA_ERROR_NO_DEVICE",
    "an illegal memory access was encountered": "CUDA_ERROR_ILLEGAL_ADDRESS",
    "unspecified launch failure": "CUDA_ERROR_LAUNCH_FAILED",
    "the launch timed out and was terminated": "CUDA_ERROR_LAUNCH_TIMEOUT",
    "no kernel image is available for execution on the device": "CUDA_ERROR_NO_BINARY_FOR_GPU",
    "unknown error": "CUDA_ERROR_UNKNOWN",
}
"""pycuda's errors carry the call and the driver's words, and not the status."""


def _bindings() -> Any:
    try:
        import pycuda.driver
    except ModuleNotFoundError:
        raise no_package("pycuda", "pycuda") from None
    except ImportError as error:  # its extension is linked to the driver's library
        raise no_driver(str(error).splitlines()[0]) from None
    return pycuda.driver


def _translated(error: Exception) -> DeviceError:
    """``cuMemAlloc failed: out of memory`` -> the error that both adapters raise."""
    call, _, text = str(error).partition(" failed: ")
    words = text.split(" - ")[0]
    return call_failed(call, _NAMES.get(words, "CUDA error"), words or str(error))


def open_device(index: int) -> PycudaDevice:
    """See :func:`edge_fer.cuda.open.open_device`."""
    driver = _bindings()
    try:
        driver.init()
        count = driver.Device.count()
    except driver.Error as error:
        told = _translated(error)
        raise no_such_device(index, 0) from None if "CUDA_ERROR_NO_DEVICE" in told.message else told
    if index >= count:
        raise no_such_device(index, count)
    try:
        device = driver.Device(index)
        return PycudaDevice(_Context(driver, device), _describe(driver, device))
    except driver.Error as error:
        raise _translated(error) from None


def _describe(driver: Any, device: Any) -> DeviceInfo:
    kinds = driver.device_attribute
    return DeviceInfo(
        name=device.name(),
        sm=device.compute_capability(),
        total_bytes=int(device.total_memory()),
        driver_version=int(driver.get_driver_version()),
        integrated=bool(device.get_attribute(kinds.INTEGRATED)),
        async_engines=int(device.get_attribute(kinds.ASYNC_ENGINE_COUNT)),
        can_map=bool(device.get_attribute(kinds.CAN_MAP_HOST_MEMORY)),
        memory_bytes_per_s=peak_memory_rate(
            device.get_attribute(kinds.MEMORY_CLOCK_RATE), device.get_attribute(kinds.GLOBAL_MEMORY_BUS_WIDTH)
        ),
    )


class _Context:
    """The retained primary context. Everything that lives in it holds a reference, and the last one gives it back."""

    def __init__(self, driver: Any, device: Any) -> None:
        self.driver, self.raw = driver, device.retain_primary_context()
        weakref.finalize(self, _detach, self.raw)
        self._thread = threading.local()
        self._owner = object()
        self.take_over()

    def take_over(self) -> None:
        if getattr(self._thread, "mark", None) is not self._owner:
            self._thread.mark = self._owner = object()

    @contextmanager
    def current(self) -> Iterator[Any]:
        """The driver module, with this context current in this thread, whichever it is; errors become ours."""
        self.raw.push()
        try:
            yield self.driver
        except self.driver.Error as error:
            raise _translated(error) from None
        finally:
            self.raw.pop()

    @contextmanager
    def owned(self, what: str) -> Iterator[Any]:
        """As ``current``, for the thread that the device belongs to.

        Raises:
            RuntimeError: another thread's device, which is a mistake in the program.
        """
        if getattr(self._thread, "mark", None) is not self._owner:
            raise RuntimeError(f"{what}: the CUDA device belongs to another thread; take_over() comes first")
        with self.current() as driver:
            yield driver


def _detach(raw: Any) -> None:
    # pycuda pops what it destroys, but a primary context it only gives back, and leaves it on the driver's stack of
    # this thread. One for each device that was opened, which does no harm.
    raw.push()
    raw.detach()


class _Held:
    """Something of pycuda's, destroyed while its context is current; never after the context, which it keeps alive.

    Nobody else may keep the thing: it would outlive the list that is emptied here, and be destroyed somewhere else.
    """

    def __init__(self, context: _Context, thing: Any) -> None:
        self.context, self._only = context, [thing]
        weakref.finalize(self, _let_go, context, self._only)

    @property
    def thing(self) -> Any:
        return self._only[0]


def _let_go(context: _Context, things: list[Any]) -> None:
    with context.current():
        things.clear()


class _PinnedMemory:
    """Page-locked memory as NumPy meets it: an array over it has this object as its base."""

    def __init__(self, context: _Context, nbytes: int, mapped: bool) -> None:
        with context.owned("cuMemHostAlloc") as driver:
            kinds = driver.host_alloc_flags
            flags = kinds.PORTABLE | (kinds.DEVICEMAP if mapped else 0)
            raw = driver.pagelocked_empty((nbytes,), np.uint8, mem_flags=flags)
            self.device_pointer = int(raw.base.get_device_pointer()) if mapped else None
        self.pointer = int(raw.ctypes.data)
        self.__array_interface__ = raw.__array_interface__
        self.held = _Held(context, raw)


class PycudaHostBuffer:
    """See :class:`edge_fer.cuda.device.HostBuffer`."""

    def __init__(self, context: _Context, shape: Sequence[int], dtype: DTypeLike, mapped: bool) -> None:
        self.nbytes = bytes_of(shape, dtype)
        self._memory = _PinnedMemory(context, max(1, self.nbytes), mapped)
        self.raw = np.asarray(self._memory)
        self.raw[:] = 0
        self.array: NDArray[Any] = self.raw[: self.nbytes].view(dtype).reshape(tuple(shape))

    @property
    def pointer(self) -> int:
        return self._memory.pointer

    @property
    def device_pointer(self) -> int:
        if self._memory.device_pointer is None:
            raise ValueError("this buffer was not allocated as mapped")
        return self._memory.device_pointer


class PycudaDeviceBuffer:
    """See :class:`edge_fer.cuda.device.DeviceBuffer`."""

    def __init__(self, context: _Context, nbytes: int) -> None:
        with context.owned("cuMemAlloc") as driver:
            self._held = _Held(context, driver.mem_alloc(max(1, nbytes)))
        self.pointer, self.nbytes = int(self._held.thing), nbytes


class PycudaStream:
    """See :class:`edge_fer.cuda.device.Stream`."""

    def __init__(self, context: _Context) -> None:
        with context.owned("cuStreamCreate") as driver:
            self._held = _Held(context, driver.Stream(_NON_BLOCKING))
        self.handle = int(self.raw.handle)

    @property
    def raw(self) -> Any:
        return self._held.thing

    def synchronize(self) -> None:
        with self._held.context.current():
            self.raw.synchronize()

    def wait(self, event: Event) -> None:
        with self._held.context.owned("cuStreamWaitEvent"):
            self.raw.wait_for_event(_event(event).raw)


class PycudaEvent:
    """See :class:`edge_fer.cuda.device.Event`."""

    def __init__(self, context: _Context, timing: bool) -> None:
        with context.owned("cuEventCreate") as driver:
            kinds = driver.event_flags
            flags = kinds.BLOCKING_SYNC | (0 if timing else kinds.DISABLE_TIMING)
            self._held = _Held(context, driver.Event(flags))

    @property
    def raw(self) -> Any:
        return self._held.thing

    def record(self, stream: Stream) -> None:
        with self._held.context.owned("cuEventRecord"):
            self.raw.record(_stream(stream).raw)

    def query(self) -> bool:
        with self._held.context.current():
            return bool(self.raw.query())

    def synchronize(self) -> None:
        with self._held.context.current():
            self.raw.synchronize()

    def elapsed_ms_since(self, earlier: Event) -> float:
        with self._held.context.owned("cuEventElapsedTime"):
            return float(self.raw.time_since(_event(earlier).raw))


def _event(event: Event) -> PycudaEvent:
    if not isinstance(event, PycudaEvent):
        raise TypeError(f"an event of this adapter, not {type(event).__name__}")
    return event


def _stream(stream: Stream) -> PycudaStream:
    if not isinstance(stream, PycudaStream):
        raise TypeError(f"a stream of this adapter, not {type(stream).__name__}")
    return stream


class PycudaKernel:
    """See :class:`edge_fer.cuda.device.Kernel`. Keeps its module loaded."""

    def __init__(self, module: PycudaModule, name: str, function: Any) -> None:
        self.module, self.name, self.function = module, name, function
        self.types = ""


class PycudaModule:
    """See :class:`edge_fer.cuda.device.Module`."""

    def __init__(self, context: _Context, image: bytes) -> None:
        with context.owned("cuModuleLoadData") as driver:
            # The driver reads PTX up to a NUL.
            self._held = _Held(context, driver.module_from_buffer(image + b"\0"))

    def kernel(self, name: str) -> PycudaKernel:
        with self._held.context.owned("cuModuleGetFunction"):
            return PycudaKernel(self, name, self._held.thing.get_function(name))


class PycudaDevice:
    """See :class:`edge_fer.cuda.device.CudaDevice`."""

    adapter = ADAPTER
    has_graphs = False

    def __init__(self, context: _Context, info: DeviceInfo) -> None:
        self._held: _Context | None = context
        self.info = info

    @property
    def _context(self) -> _Context:
        if self._held is None:
            raise DeviceError("The CUDA device is closed.")
        return self._held

    def take_over(self) -> None:
        self._context.take_over()

    def free_bytes(self) -> int:
        with self._context.owned("cuMemGetInfo") as driver:
            return int(driver.mem_get_info()[0])

    def pinned(self, shape: Sequence[int], dtype: DTypeLike, *, mapped: bool = False) -> PycudaHostBuffer:
        return PycudaHostBuffer(self._context, shape, dtype, mapped)

    def allocate(self, nbytes: int) -> PycudaDeviceBuffer:
        return PycudaDeviceBuffer(self._context, nbytes)

    def stream(self) -> PycudaStream:
        return PycudaStream(self._context)

    def borrow(self, handle: int) -> Stream:
        raise DeviceError("pycuda takes no streams but its own.", fix="Use --device cuda: cuda-python takes them.")

    def event(self, *, timing: bool = False) -> PycudaEvent:
        return PycudaEvent(self._context, timing)

    def copy_to_device(
        self, target: DeviceBuffer | int, source: HostBuffer, nbytes: int, stream: Stream, *, offset: int = 0
    ) -> None:
        check_copy(nbytes, source, target, offset)
        part = _bytes(source)[offset : offset + nbytes]
        with self._context.owned("cuMemcpyHtoDAsync") as driver:
            driver.memcpy_htod_async(address_of(target), part, _stream(stream).raw)

    def copy_to_host(self, target: HostBuffer, source: DeviceBuffer | int, nbytes: int, stream: Stream) -> None:
        check_copy(nbytes, target, source)
        part = _bytes(target)[:nbytes]
        with self._context.owned("cuMemcpyDtoHAsync") as driver:
            driver.memcpy_dtoh_async(part, address_of(source), _stream(stream).raw)

    def load_module(self, image: bytes) -> PycudaModule:
        return PycudaModule(self._context, image)

    def launch(
        self,
        kernel: PycudaKernel,
        grid: Dim3,
        block: Dim3,
        arguments: KernelArguments,
        stream: Stream,
        shared_bytes: int = 0,
    ) -> None:
        # ctypes and pycuda name scalar types by the same letters, those of ``struct``.
        types = "".join(value._type_ for value in arguments.values)
        with self._context.owned("cuLaunchKernel"):
            if types != kernel.types:
                kernel.function.prepare(types)
                kernel.types = types
            values = (value.value for value in arguments.values)
            kernel.function.prepared_async_call(grid, block, _stream(stream).raw, *values, shared_size=shared_bytes)

    def begin_capture(self, stream: Stream) -> None:
        raise DeviceError("pycuda has no CUDA graphs.", fix="Use --device cuda: cuda-python has them.")

    def end_capture(self, stream: Stream) -> Graph:
        raise DeviceError("pycuda has no CUDA graphs.", fix="Use --device cuda: cuda-python has them.")

    def synchronize(self) -> None:
        with self._context.owned("cuCtxSynchronize") as driver:
            driver.Context.synchronize()

    def close(self) -> None:
        self._held = None

    def __enter__(self) -> PycudaDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _bytes(buffer: HostBuffer) -> NDArray[np.uint8]:
    if not isinstance(buffer, PycudaHostBuffer):
        raise TypeError(f"a buffer of this adapter, not {type(buffer).__name__}")
    return buffer.raw


__all__ = ["PycudaDevice", "open_device"]
