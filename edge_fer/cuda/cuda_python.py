"""A CUDA device through cuda-python's bindings of the driver API.

Driver calls release the GIL and take plain integers here (addresses and handles), so that a call on the hot path makes
nothing but its own status.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
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
    peak_memory_rate,
)
from edge_fer.cuda.failures import call_failed, no_driver, no_package, no_such_device, old_driver

ADAPTER = "cuda-python"
_NAME_BYTES = 256


def _bindings() -> Any:
    try:
        from cuda.bindings import driver
    except ModuleNotFoundError:
        raise no_package("cuda-python", "cuda") from None
    return driver


def _checked(driver: Any, call: str, *arguments: Any) -> Any:
    """Call the driver; return its one result, several as a tuple, or ``None``.

    Raises:
        DeviceError: any status but success, with the call's name.
    """
    status, *results = getattr(driver, call)(*arguments)
    if int(status):
        name, text = _words(driver, status)
        raise call_failed(call, name, text)
    return results[0] if len(results) == 1 else tuple(results) or None


def _words(driver: Any, status: Any) -> tuple[str, str]:
    failed, text = driver.cuGetErrorString(status)
    words = text.decode() if not int(failed) and text else "the driver gives no reason"
    return getattr(status, "name", str(int(status))), words


def _start(index: int) -> tuple[Any, Any]:
    """(bindings, device handle).

    Raises:
        DeviceError: no package, no driver, no device.
    """
    driver = _bindings()
    # Kernels of TensorRT, cuDNN and cuBLAS then come to the GPU when they are used, not all of them at the start, for
    # which an MX250's 2 GB are little. Drivers from CUDA 12.2 on do so by themselves.
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    try:
        (status,) = driver.cuInit(0)
    except Exception as error:  # the package looks for the library at the first call, with exceptions of its own
        if "cuGetProcAddress" in str(error):  # the way into drivers from R525 on, and the only one that it takes
            raise old_driver() from None
        missing = "NotFound" in type(error).__name__
        raise no_driver("its library, libcuda, is not found" if missing else str(error).splitlines()[0]) from None
    if int(status):
        name, text = _words(driver, status)
        if name == "CUDA_ERROR_NO_DEVICE":
            raise no_such_device(index, 0)
        raise call_failed("cuInit", name, text)
    count = _checked(driver, "cuDeviceGetCount")
    if index >= count:
        raise no_such_device(index, count)
    return driver, _checked(driver, "cuDeviceGet", index)


def describe(index: int) -> DeviceInfo:
    """See :func:`edge_fer.cuda.open.describe_device`."""
    return _describe(*_start(index))


def _describe(driver: Any, handle: Any) -> DeviceInfo:
    kinds = driver.CUdevice_attribute

    def attribute(name: str) -> int:
        return int(_checked(driver, "cuDeviceGetAttribute", getattr(kinds, f"CU_DEVICE_ATTRIBUTE_{name}"), handle))

    name: bytes = _checked(driver, "cuDeviceGetName", _NAME_BYTES, handle)
    return DeviceInfo(
        name=name.split(b"\0")[0].decode(),
        sm=(attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")),
        total_bytes=int(_checked(driver, "cuDeviceTotalMem", handle)),
        driver_version=int(_checked(driver, "cuDriverGetVersion")),
        integrated=bool(attribute("INTEGRATED")),
        async_engines=attribute("ASYNC_ENGINE_COUNT"),
        can_map=bool(attribute("CAN_MAP_HOST_MEMORY")),
        memory_bytes_per_s=peak_memory_rate(attribute("MEMORY_CLOCK_RATE"), attribute("GLOBAL_MEMORY_BUS_WIDTH")),
    )


def open_device(index: int) -> CudaPythonDevice:
    """See :func:`edge_fer.cuda.open.open_device`."""
    driver, handle = _start(index)
    return CudaPythonDevice(_Context(driver, handle), _describe(driver, handle))


class _Context:
    """The retained primary context. Everything that lives in it holds a reference, and the last one gives it back."""

    def __init__(self, driver: Any, device: Any) -> None:
        self.driver = driver
        self.handle = _checked(driver, "cuDevicePrimaryCtxRetain", device)
        weakref.finalize(self, driver.cuDevicePrimaryCtxRelease, device).atexit = False
        # A thread's number is used again after its end, by a thread in which the context is not current.
        self._thread = threading.local()
        self._owner = object()
        self.take_over()

    @property
    def owned(self) -> bool:
        """Whether the device belongs to the calling thread."""
        return getattr(self._thread, "mark", None) is self._owner

    def take_over(self) -> None:
        if not self.owned:
            _checked(self.driver, "cuCtxSetCurrent", self.handle)
            self._thread.mark = self._owner = object()

    def call(self, name: str, *arguments: Any) -> Any:
        """A driver call from the thread that the device belongs to.

        Raises:
            DeviceError: the call failed.
            RuntimeError: another thread's device, which is a mistake in the program.
        """
        if not self.owned:
            raise RuntimeError(f"{name}: the CUDA device belongs to another thread; take_over() comes first")
        return _checked(self.driver, name, *arguments)

    def wait(self, name: str, handle: int) -> bool:
        """A driver call that only waits or looks, from any thread; whether what it is about was reached.

        Raises:
            DeviceError: the call, or work before it, failed.
        """
        borrowed = not self.owned
        if borrowed:
            _checked(self.driver, "cuCtxPushCurrent", self.handle)
        try:
            (status,) = getattr(self.driver, name)(handle)
        finally:
            if borrowed:
                self.driver.cuCtxPopCurrent()
        if int(status) and status != self.driver.CUresult.CUDA_ERROR_NOT_READY:
            raise call_failed(name, *_words(self.driver, status))
        return not int(status)

    def free(self, name: str, handle: Any) -> None:
        """Free something from whichever thread dropped the last reference. A failure has nobody to be told to: it
        means that the context is broken, which the next call says."""
        driver = self.driver
        driver.cuCtxPushCurrent(self.handle)
        # The garbage collector may come by while this thread captures, and freeing would break the capture off.
        _, before = driver.cuThreadExchangeStreamCaptureMode(driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
        getattr(driver, name)(handle)
        driver.cuThreadExchangeStreamCaptureMode(before)
        driver.cuCtxPopCurrent()


class _Held:
    """A handle in a context, freed with its last reference; never after the context, which it keeps alive.

    What is still in use when the process ends is left to the driver: a thread may be decoding into it, and libraries
    that were given a stream go later.
    """

    def __init__(self, context: _Context, free: str, handle: Any) -> None:
        self.context, self.raw = context, handle
        self.handle = int(handle)
        weakref.finalize(self, context.free, free, handle).atexit = False


class _PinnedMemory:
    """Page-locked memory as NumPy meets it: an array over it has this object as its base."""

    def __init__(self, context: _Context, nbytes: int, mapped: bool) -> None:
        driver = context.driver
        flags = driver.CU_MEMHOSTALLOC_PORTABLE | (driver.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0)
        held = _Held(context, "cuMemFreeHost", context.call("cuMemHostAlloc", nbytes, flags))
        self.held, self.pointer = held, held.handle
        self.device_pointer = int(context.call("cuMemHostGetDevicePointer", held.handle, 0)) if mapped else None
        self.__array_interface__ = {"data": (held.handle, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}


class CudaPythonHostBuffer:
    """See :class:`edge_fer.cuda.device.HostBuffer`."""

    def __init__(self, context: _Context, shape: Sequence[int], dtype: DTypeLike, mapped: bool) -> None:
        self.nbytes = bytes_of(shape, dtype)
        self._memory = _PinnedMemory(context, max(1, self.nbytes), mapped)
        raw = np.asarray(self._memory)
        raw[:] = 0
        self.array: NDArray[Any] = raw[: self.nbytes].view(dtype).reshape(tuple(shape))

    @property
    def pointer(self) -> int:
        return self._memory.pointer

    @property
    def device_pointer(self) -> int:
        if self._memory.device_pointer is None:
            raise ValueError("this buffer was not allocated as mapped")
        return self._memory.device_pointer


class CudaPythonDeviceBuffer:
    """See :class:`edge_fer.cuda.device.DeviceBuffer`."""

    def __init__(self, context: _Context, nbytes: int) -> None:
        self._held = _Held(context, "cuMemFree", context.call("cuMemAlloc", max(1, nbytes)))
        self.pointer, self.nbytes = self._held.handle, nbytes


class CudaPythonStream:
    """See :class:`edge_fer.cuda.device.Stream`. ``borrowed``: the handle of one that another object keeps alive."""

    def __init__(self, context: _Context, borrowed: int | None = None) -> None:
        self._context = context
        if borrowed is not None:
            self.handle = borrowed
            return
        flags = int(context.driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._held = _Held(context, "cuStreamDestroy", context.call("cuStreamCreate", flags))
        self.handle = self._held.handle

    def synchronize(self) -> None:
        self._context.wait("cuStreamSynchronize", self.handle)

    def wait(self, event: Event) -> None:
        self._context.call("cuStreamWaitEvent", self.handle, _event(event).handle, 0)


class CudaPythonEvent:
    """See :class:`edge_fer.cuda.device.Event`."""

    def __init__(self, context: _Context, timing: bool) -> None:
        # A waiting host sleeps instead of spinning: the cores belong to decoding and detection.
        flags = context.driver.CUevent_flags
        chosen = int(flags.CU_EVENT_BLOCKING_SYNC) | (0 if timing else int(flags.CU_EVENT_DISABLE_TIMING))
        self._held = _Held(context, "cuEventDestroy", context.call("cuEventCreate", chosen))
        self.handle = self._held.handle

    def record(self, stream: Stream) -> None:
        self._held.context.call("cuEventRecord", self.handle, stream.handle)

    def query(self) -> bool:
        return self._held.context.wait("cuEventQuery", self.handle)

    def synchronize(self) -> None:
        self._held.context.wait("cuEventSynchronize", self.handle)

    def elapsed_ms_since(self, earlier: Event) -> float:
        return float(self._held.context.call("cuEventElapsedTime", _event(earlier).handle, self.handle))


def _event(event: Event) -> CudaPythonEvent:
    if not isinstance(event, CudaPythonEvent):
        raise TypeError(f"an event of this adapter, not {type(event).__name__}")
    return event


class CudaPythonKernel:
    """See :class:`edge_fer.cuda.device.Kernel`. Keeps its module loaded."""

    def __init__(self, module: CudaPythonModule, name: str, handle: Any) -> None:
        self.module, self.name, self.handle = module, name, handle


class CudaPythonModule:
    """See :class:`edge_fer.cuda.device.Module`."""

    def __init__(self, context: _Context, image: bytes) -> None:
        self._context = context
        # The driver reads PTX up to a NUL.
        self._held = _Held(context, "cuModuleUnload", context.call("cuModuleLoadData", image + b"\0"))

    def kernel(self, name: str) -> CudaPythonKernel:
        handle = self._context.call("cuModuleGetFunction", self._held.raw, name.encode())
        return CudaPythonKernel(self, name, handle)


class CudaPythonGraph:
    """See :class:`edge_fer.cuda.device.Graph`. Keeps alive what the captured work uses only by the caller's care."""

    def __init__(self, context: _Context, captured: Any) -> None:
        graph = _Held(context, "cuGraphDestroy", captured)
        self._held = _Held(context, "cuGraphExecDestroy", context.call("cuGraphInstantiate", graph.raw, 0))

    def launch(self, stream: Stream) -> None:
        self._held.context.call("cuGraphLaunch", self._held.raw, stream.handle)


class CudaPythonDevice:
    """See :class:`edge_fer.cuda.device.CudaDevice`."""

    adapter = ADAPTER
    has_graphs = True

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
        return int(self._context.call("cuMemGetInfo")[0])

    def pinned(self, shape: Sequence[int], dtype: DTypeLike, *, mapped: bool = False) -> CudaPythonHostBuffer:
        return CudaPythonHostBuffer(self._context, shape, dtype, mapped)

    def allocate(self, nbytes: int) -> CudaPythonDeviceBuffer:
        return CudaPythonDeviceBuffer(self._context, nbytes)

    def stream(self) -> CudaPythonStream:
        return CudaPythonStream(self._context)

    def borrow(self, handle: int) -> CudaPythonStream:
        return CudaPythonStream(self._context, handle)

    def event(self, *, timing: bool = False) -> CudaPythonEvent:
        return CudaPythonEvent(self._context, timing)

    def copy_to_device(
        self, target: DeviceBuffer | int, source: HostBuffer, nbytes: int, stream: Stream, *, offset: int = 0
    ) -> None:
        check_copy(nbytes, source, target, offset)
        self._context.call("cuMemcpyHtoDAsync", address_of(target), source.pointer + offset, nbytes, stream.handle)

    def copy_to_host(self, target: HostBuffer, source: DeviceBuffer | int, nbytes: int, stream: Stream) -> None:
        check_copy(nbytes, target, source)
        self._context.call("cuMemcpyDtoHAsync", target.pointer, address_of(source), nbytes, stream.handle)

    def load_module(self, image: bytes) -> CudaPythonModule:
        return CudaPythonModule(self._context, image)

    def launch(
        self,
        kernel: CudaPythonKernel,
        grid: Dim3,
        block: Dim3,
        arguments: KernelArguments,
        stream: Stream,
        shared_bytes: int = 0,
    ) -> None:
        self._context.call(
            "cuLaunchKernel", kernel.handle, *grid, *block, shared_bytes, stream.handle, arguments.address, 0
        )

    def begin_capture(self, stream: Stream) -> None:
        # Thread-local: what other threads do with other streams neither enters the graph nor breaks the capture.
        mode = self._context.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._context.call("cuStreamBeginCapture", stream.handle, mode)

    def end_capture(self, stream: Stream) -> CudaPythonGraph:
        return CudaPythonGraph(self._context, self._context.call("cuStreamEndCapture", stream.handle))

    def synchronize(self) -> None:
        self._context.call("cuCtxSynchronize")

    def close(self) -> None:
        self._held = None

    def __enter__(self) -> CudaPythonDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


__all__ = ["CudaPythonDevice", "describe", "open_device"]
