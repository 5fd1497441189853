"""Picture memory that decoders write into and the device reads: the ring of frames lies in it."""

from __future__ import annotations

import threading
import weakref

import numpy as np
from numpy.typing import NDArray

from edge_fer.cuda.copies import Copies
from edge_fer.cuda.device import HostBuffer
from edge_fer.cuda.lane import Lane


class PinnedPictures:
    """Pinned pictures that are found again by their array; a ``PictureMemory`` for :mod:`edge_fer.runtime.frames`.

    Args:
        copies: where the pictures are counted that a decoder had put elsewhere.
    """

    def __init__(self, lane: Lane, copies: Copies) -> None:
        self._lane, self._copies = lane, copies
        self._buffers: dict[int, HostBuffer] = {}
        self._lock = threading.Lock()

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A picture in pinned memory, which lives as long as the array that is returned.

        Raises:
            DeviceError: no memory for it, or the device is gone.
        """
        with self._lane as device:
            buffer = device.pinned(shape, np.uint8, mapped=device.info.can_map)
        # A view of its own: the buffer holds the array that it was made from, and would never go.
        picture: NDArray[np.uint8] = buffer.array.view()
        self._buffers[buffer.pointer] = buffer
        weakref.finalize(picture, self._buffers.pop, buffer.pointer, None)
        return picture

    def find(self, picture: NDArray[np.uint8]) -> HostBuffer | None:
        """The memory that holds this whole picture, or ``None`` for one from elsewhere, or a part of one."""
        buffer = self._buffers.get(picture.__array_interface__["data"][0])
        return buffer if buffer is not None and buffer.nbytes == picture.nbytes else None

    def copy_in(self, target: NDArray[np.uint8], image_bgr: NDArray[np.uint8]) -> None:
        """Copy a picture into pinned memory with the CPU, and count that."""
        np.copyto(target, image_bgr)
        with self._lock:
            self._copies.on_host += 1
            self._copies.on_host_bytes += image_bgr.nbytes


__all__ = ["PinnedPictures"]
