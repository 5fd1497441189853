"""The promises of check_device.py over every device of this process: the simulated one, and real ones with a driver.

The cuda-python adapter goes through them on machines without a driver too: see test_over_simulated_driver.py.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from simulated import SimulatedDevice

from edge_fer.core.errors import DeviceError
from edge_fer.cuda.device import CudaDevice, Dim3, Event, HostBuffer, Stream
from edge_fer.cuda.open import ADAPTERS, open_device

pytest.register_assert_rewrite("check_device")

import check_device  # noqa: E402

for _name, _promise in vars(check_device).items():
    if _name.startswith("test_") and "device" in inspect.signature(_promise).parameters:
        globals()[_name] = _promise
# It is about the driver of that process.
del globals()["test_work_runs_late_on_the_simulated_driver_and_a_lost_gpu_is_one_sentence"]


def scale(device: SimulatedDevice, grid: Dim3, block: Dim3, values: tuple[Any, ...]) -> None:
    """``check_device.SCALE_PTX`` for the simulated device."""
    pointer, factor, count = (value.value for value in values)
    assert grid[0] * block[0] >= count
    device.view(pointer, 4 * count).view(np.float32)[:] *= factor


def why_closed(adapter: str) -> str:
    """What keeps an adapter's device closed on this machine; nothing where it opens."""
    try:
        open_device(adapter=adapter).close()
    except DeviceError as error:
        return str(error)
    return ""


CLOSED = {adapter: why for adapter in sorted(ADAPTERS) if (why := why_closed(adapter))}


@pytest.fixture(params=["simulated", *sorted(set(ADAPTERS) - set(CLOSED))])
def device(request: pytest.FixtureRequest) -> Iterator[CudaDevice]:
    simulated = request.param == "simulated"
    opened: CudaDevice = SimulatedDevice({"scale": scale}) if simulated else open_device(adapter=request.param)
    yield opened
    opened.close()
    gc.collect()


@pytest.mark.parametrize("adapter", sorted(CLOSED))
def test_an_adapter_whose_device_does_not_open_here_is_named_once(adapter: str) -> None:
    pytest.skip(f"{adapter}: {CLOSED[adapter]}")


def test_every_part_is_what_the_protocols_say(device: CudaDevice) -> None:
    assert isinstance(device, CudaDevice)
    assert isinstance(device.pinned((2, 3), np.float32, mapped=True), HostBuffer)
    assert isinstance(device.stream(), Stream)
    assert isinstance(device.event(), Event)


def test_simulated_memory_that_nobody_wrote_is_poison_and_freed_memory_is_lost() -> None:
    device = SimulatedDevice()
    memory, target, stream = device.allocate(4), device.pinned((1,), np.float32), device.stream()
    device.copy_to_host(target, memory, 4, stream)
    stream.synchronize()
    assert np.isnan(target.array[0])
    address = memory.pointer
    del memory
    gc.collect()
    device.copy_to_host(target, address, 4, stream)
    with pytest.raises(DeviceError, match="lost"):
        stream.synchronize()


def test_simulated_streams_run_only_what_was_waited_for() -> None:
    device = SimulatedDevice()
    first, second, done = device.stream(), device.stream(), device.event()
    ran: list[str] = []
    device.enqueue(first.handle, lambda: ran.append("first"))
    done.record(first)
    device.enqueue(first.handle, lambda: ran.append("after"))
    device.enqueue(second.handle, lambda: ran.append("second"))
    assert ran == []
    second.synchronize()
    assert ran == ["second"]
    second.wait(done)
    second.synchronize()
    assert ran == ["second", "first"]
    assert device.pending == 1


def test_nothing_may_be_allocated_or_waited_for_in_a_simulated_capture() -> None:
    device = SimulatedDevice()
    stream = device.stream()
    device.begin_capture(stream)
    for forbidden in (lambda: device.allocate(4), lambda: device.pinned((1,), np.uint8), stream.synchronize):
        with pytest.raises(DeviceError, match="CAPTURE"):
            forbidden()
    device.end_capture(stream).launch(stream)
    stream.synchronize()
