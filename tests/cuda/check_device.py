"""What every adapter promises of a CUDA device, on whichever driver this process finds.

Collected by test_over_simulated_driver.py in a process with the simulated driver; on a machine with a GPU:
``pytest tests/cuda/check_device.py -o python_files='check_*.py'``.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from simulated_kernels import array_at, driver, register, value

from edge_fer.core.errors import DeviceError, EdgeFerError, MissingDependencyError, UsageError
from edge_fer.cuda.device import CudaDevice, HostBuffer, KernelArguments
from edge_fer.cuda.open import ADAPTERS, describe_device, open_device

N = 1000
SCALE_PTX = b"""
.version 6.0
.target sm_61
.address_size 64
.visible .entry scale(.param .u64 data, .param .f32 factor, .param .u32 count)
{
  .reg .pred %p<2>; .reg .f32 %f<4>; .reg .b32 %r<6>; .reg .b64 %d<5>;
  ld.param.u64 %d1, [data]; ld.param.f32 %f1, [factor]; ld.param.u32 %r1, [count];
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %p1, %r5, %r1;
  @%p1 bra done;
  cvta.to.global.u64 %d2, %d1; mul.wide.u32 %d3, %r5, 4; add.s64 %d4, %d2, %d3;
  ld.global.f32 %f2, [%d4]; mul.f32 %f3, %f2, %f1; st.global.f32 [%d4], %f3;
done: ret;
}
"""


def scale(parameters: Any, geometry: tuple[int, ...]) -> None:
    """The kernel above, for the simulated driver."""
    count = value(parameters, 2, ctypes.c_uint32)
    assert geometry[0] * geometry[3] >= count
    array_at(value(parameters, 0, ctypes.c_uint64), (count,), np.float32)[:] *= value(parameters, 1, ctypes.c_float)


@pytest.fixture(params=sorted(ADAPTERS))
def device(request: pytest.FixtureRequest) -> Iterator[CudaDevice]:
    simulated = driver()
    if simulated is not None:
        register("scale", scale)
        if request.param == "pycuda":
            pytest.skip("pycuda is built against a real driver")
    try:
        opened = open_device(adapter=request.param)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()
    del opened
    gc.collect()
    if simulated is not None:
        assert simulated.simulated_contexts() == 0, "something still holds the context"
        assert simulated.simulated_alive() == 0


def filled(device: CudaDevice, *, mapped: bool = False) -> HostBuffer:
    buffer = device.pinned((N,), np.float32, mapped=mapped)
    buffer.array[:] = np.arange(N)
    return buffer


def test_a_device_says_who_it_is_without_being_opened() -> None:
    found = describe_device()
    assert found.name
    assert found.sm >= (5, 0)
    assert found.total_bytes > 1 << 28
    assert found.driver_version >= 12000
    assert os.environ["CUDA_MODULE_LOADING"], "LAZY, unless somebody wants it otherwise"
    with pytest.raises(DeviceError, match="no CUDA device 99"):
        describe_device(99)
    with pytest.raises(UsageError):
        open_device(adapter="opencl")


def test_copies_arrive_in_order_and_no_sooner_than_the_wait(device: CudaDevice) -> None:
    source, target, memory, stream = (
        filled(device),
        device.pinned((N,), np.float32),
        device.allocate(4 * N),
        device.stream(),
    )
    assert not target.array.any()
    device.copy_to_device(memory, source, 4 * N, stream)
    device.copy_to_host(target, memory, 4 * N, stream)
    stream.synchronize()
    np.testing.assert_array_equal(target.array, np.arange(N))
    with pytest.raises(ValueError, match="does not fit"):
        device.copy_to_host(target, memory, 4 * N + 1, stream)


def test_a_kernel_computes_with_the_arguments_of_its_launch(device: CudaDevice) -> None:
    buffer, stream = filled(device, mapped=True), device.stream()
    kernel = device.load_module(SCALE_PTX).kernel("scale")
    arguments = KernelArguments(ctypes.c_uint64(buffer.device_pointer), ctypes.c_float(2), ctypes.c_uint32(N))
    device.launch(kernel, (4, 1, 1), (256, 1, 1), arguments, stream)
    arguments.values[1].value = 5.0
    device.launch(kernel, (4, 1, 1), (256, 1, 1), arguments, stream)
    stream.synchronize()
    np.testing.assert_array_equal(buffer.array, np.arange(N, dtype=np.float32) * 10)


def test_a_graph_repeats_the_work_with_what_lies_in_the_buffers_then(device: CudaDevice) -> None:
    source, target, memory, stream = (
        filled(device),
        device.pinned((N,), np.float32),
        device.allocate(4 * N),
        device.stream(),
    )
    kernel = device.load_module(SCALE_PTX).kernel("scale")
    arguments = KernelArguments(ctypes.c_uint64(memory.pointer), ctypes.c_float(3), ctypes.c_uint32(N))

    def work() -> None:
        device.copy_to_device(memory, source, 4 * N, stream)
        device.launch(kernel, (4, 1, 1), (256, 1, 1), arguments, stream)
        device.copy_to_host(target, memory, 4 * N, stream)

    if device.adapter == "pycuda":
        with pytest.raises(DeviceError, match="graphs"):
            device.begin_capture(stream)
        return
    device.begin_capture(stream)
    work()
    graph = device.end_capture(stream)
    stream.synchronize()
    assert not target.array.any(), "capturing is not running"
    for factor in (1, 7):
        source.array[:] = factor
        graph.launch(stream)
        stream.synchronize()
        assert (target.array == 3 * factor).all()


def test_what_is_dropped_while_a_graph_is_captured_breaks_nothing_off(device: CudaDevice) -> None:
    """The garbage collector chooses its moment: between the first captured call and the last, if it likes."""
    source, memory, stream = filled(device), device.allocate(4 * N), device.stream()
    if device.adapter == "pycuda":
        return
    dropped: list[Any] = [device.allocate(4 * N), filled(device), device.event(), device.stream()]
    dropped.append(device.load_module(SCALE_PTX))
    device.begin_capture(stream)
    device.copy_to_device(memory, source, 4 * N, stream)
    dropped.clear()
    gc.collect()
    graph = device.end_capture(stream)
    graph.launch(stream)
    target = device.pinned((N,), np.float32)
    device.copy_to_host(target, memory, 4 * N, stream)
    stream.synchronize()
    np.testing.assert_array_equal(target.array, np.arange(N))


def test_a_stream_waits_for_an_event_of_another(device: CudaDevice) -> None:
    source, target, memory = filled(device), device.pinned((N,), np.float32), device.allocate(4 * N)
    first, second, copied = device.stream(), device.stream(), device.event()
    device.copy_to_device(memory, source, 4 * N, first)
    copied.record(first)
    second.wait(copied)
    device.copy_to_host(target, memory, 4 * N, second)
    second.synchronize()
    np.testing.assert_array_equal(target.array, np.arange(N))
    assert copied.query()


def test_a_borrowed_stream_is_the_queue_that_its_handle_names(device: CudaDevice) -> None:
    source, target, memory = filled(device), device.pinned((N,), np.float32), device.allocate(4 * N)
    lent, own, copied = device.stream(), device.stream(), device.event()
    if device.adapter == "pycuda":
        with pytest.raises(DeviceError, match="no streams but its own"):
            device.borrow(lent.handle)
        return
    borrowed = device.borrow(lent.handle)
    assert borrowed.handle == lent.handle
    device.copy_to_device(memory, source, 4 * N, lent)
    copied.record(borrowed)
    own.wait(copied)
    device.copy_to_host(target, memory, 4 * N, own)
    del borrowed
    gc.collect()
    own.synchronize()
    np.testing.assert_array_equal(target.array, np.arange(N))
    device.borrow(lent.handle).synchronize()


def test_events_measure_the_device_s_time(device: CudaDevice) -> None:
    stream, began, ended = device.stream(), device.event(timing=True), device.event(timing=True)
    source, memory = filled(device), device.allocate(4 * N)
    began.record(stream)
    device.copy_to_device(memory, source, 4 * N, stream)
    ended.record(stream)
    ended.synchronize()
    assert 0 <= ended.elapsed_ms_since(began) < 10_000


def test_a_view_keeps_pinned_memory_even_after_the_device_is_closed(device: CudaDevice) -> None:
    view = filled(device).array[10:20].reshape(2, 5)
    device.close()
    gc.collect()
    np.testing.assert_array_equal(view.ravel(), np.arange(10, 20))
    view += 1
    with pytest.raises(DeviceError, match="closed"):
        device.stream()


def test_memory_comes_back(device: CudaDevice) -> None:
    before = device.free_bytes()
    memory = device.allocate(64 << 20)
    assert device.free_bytes() <= before - (64 << 20)
    del memory
    gc.collect()
    assert device.free_bytes() >= before - (1 << 20)


def test_too_much_memory_is_one_sentence_with_the_call(device: CudaDevice) -> None:
    with pytest.raises(DeviceError, match=r"cuMemAlloc.* memory is full") as caught:
        device.allocate(1 << 45)
    assert "\n" not in str(caught.value)


def test_only_the_thread_that_owns_the_device_may_queue_work(device: CudaDevice) -> None:
    source, memory, stream = filled(device), device.allocate(4 * N), device.stream()
    found: list[BaseException | None] = []

    def use(take_over: bool) -> None:
        try:
            if take_over:
                device.take_over()
            device.copy_to_device(memory, source, 4 * N, stream)
            found.append(None)
        except RuntimeError as error:
            found.append(error)

    for take_over in (False, True):
        thread = threading.Thread(target=use, args=(take_over,))
        thread.start()
        thread.join()
    assert isinstance(found[0], RuntimeError)
    assert "take_over" in str(found[0])
    assert found[1] is None
    device.take_over()
    stream.synchronize()


def test_any_thread_may_wait(device: CudaDevice) -> None:
    source, target, memory = filled(device), device.pinned((N,), np.float32), device.allocate(4 * N)
    stream, done = device.stream(), device.event()
    device.copy_to_device(memory, source, 4 * N, stream)
    device.copy_to_host(target, memory, 4 * N, stream)
    done.record(stream)
    found: list[bool] = []

    def wait() -> None:
        done.synchronize()
        stream.synchronize()
        found.append(done.query() and bool((target.array == np.arange(N)).all()))

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert found == [True]
    assert device.stream().handle, "waiting has not taken the device away"


def test_a_copy_may_begin_inside_of_its_source(device: CudaDevice) -> None:
    source, target, memory, stream = (
        filled(device),
        device.pinned((2,), np.float32),
        device.allocate(8),
        device.stream(),
    )
    device.copy_to_device(memory, source, 8, stream, offset=4 * 40)
    device.copy_to_host(target, memory.pointer, 8, stream)
    stream.synchronize()
    assert target.array.tolist() == [40, 41]
    with pytest.raises(ValueError, match="does not fit"):
        device.copy_to_device(memory, source, 8, stream, offset=4 * N - 4)


def test_a_missing_function_and_foreign_code_are_refused(device: CudaDevice) -> None:
    with pytest.raises(DeviceError, match="cuModuleGetFunction"):
        device.load_module(SCALE_PTX).kernel("no_such_function")
    with pytest.raises(DeviceError, match="cuModuleLoadData"):
        device.load_module(b"this is not device code")


def test_an_unmapped_buffer_has_no_device_address(device: CudaDevice) -> None:
    with pytest.raises(ValueError, match="mapped"):
        _ = device.pinned((4,), np.uint8).device_pointer


@pytest.mark.skipif(driver() is None, reason="a real driver cannot be told to fail")
def test_work_runs_late_on_the_simulated_driver_and_a_lost_gpu_is_one_sentence(device: CudaDevice) -> None:
    simulated = driver()
    assert simulated is not None
    source, memory, target, stream = (
        filled(device),
        device.allocate(4 * N),
        device.pinned((N,), np.float32),
        device.stream(),
    )
    device.copy_to_device(memory, source, 4 * N, stream)
    device.copy_to_host(target, memory, 4 * N, stream)
    assert simulated.simulated_pending() == 2
    assert not target.array.any()
    simulated.simulated_fail_after(0)
    with pytest.raises(EdgeFerError, match=r"cuStreamSynchronize failed: the GPU was lost"):
        stream.synchronize()
    simulated.simulated_fail_after(-1)
    stream.synchronize()


@pytest.mark.skipif(driver() is None, reason="a real driver cannot be told to have no devices")
def test_a_driver_without_devices_is_one_sentence() -> None:
    simulated = driver()
    assert simulated is not None
    simulated.simulated_devices(0)
    try:
        with pytest.raises(DeviceError, match=r"no CUDA device 0: the driver shows none"):
            open_device()
    finally:
        simulated.simulated_devices(1)
