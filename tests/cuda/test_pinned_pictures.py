"""Pinned pictures are found by their array, and gone with it; the lane lets one thread in at a time."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from simulated import SimulatedDevice

from edge_fer.core.errors import DeviceError
from edge_fer.cuda.copies import Copies
from edge_fer.cuda.lane import Lane
from edge_fer.cuda.pinned_pictures import PinnedPictures

SHAPE = (4, 6, 3)


def test_a_picture_is_found_whole_and_only_while_it_lives() -> None:
    device = SimulatedDevice()
    pictures = PinnedPictures(Lane(device), Copies())
    picture = pictures.allocate(SHAPE)
    found = pictures.find(picture)
    assert found is not None
    assert found.pointer == picture.ctypes.data
    assert found.device_pointer
    assert pictures.find(picture[:2]) is None, "a part of a picture is not the picture"
    assert pictures.find(np.zeros(SHAPE, np.uint8)) is None
    del found
    row = picture[1]
    del picture
    gc.collect()
    row[:] = 5
    assert device.freed_bytes == 0, "a view still reads it"
    del row
    gc.collect()
    assert device.freed_bytes == 4 * 6 * 3


def test_a_copied_picture_is_counted() -> None:
    copies = Copies()
    pictures = PinnedPictures(Lane(SimulatedDevice()), copies)
    picture = pictures.allocate(SHAPE)
    pictures.copy_in(picture, np.full(SHAPE, 9, np.uint8))
    assert (picture == 9).all()
    assert (copies.on_host, copies.on_host_bytes) == (1, 72)


def test_threads_take_turns_and_each_owns_the_device_in_its_own() -> None:
    device = SimulatedDevice()
    lane, busy, faults = Lane(device), threading.Lock(), []

    def work() -> None:
        for _ in range(50):
            try:
                with lane as owned:
                    assert busy.acquire(blocking=False), "two threads inside"
                    owned.stream()
                    busy.release()
            except Exception as error:
                faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with pytest.raises(RuntimeError, match="belongs to another thread"):
        device.stream()


def test_a_closed_device_gives_no_pictures_and_does_not_jam_the_lane() -> None:
    device = SimulatedDevice()
    lane = Lane(device)
    pictures = PinnedPictures(lane, Copies())
    device.close()
    for _ in range(2):
        with pytest.raises(DeviceError, match="closed"):
            pictures.allocate(SHAPE)
