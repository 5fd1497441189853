"""The full search for faces on a GPU: the frame goes there whole, and boxes come back.

    pinned frame --all of it--> device --letterbox--> network --copy--> pinned outputs --decode (CPU)--> boxes

Following known faces stays with the CPU.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.engine import DeviceEngine, DeviceSlot
from edge_fer.core.errors import DeviceError
from edge_fer.core.faces import Faces
from edge_fer.cuda.copies import Copies
from edge_fer.cuda.device import DeviceBuffer, HostBuffer
from edge_fer.cuda.face_kernels import CudaDetectorKernel
from edge_fer.cuda.lane import Lane
from edge_fer.cuda.pinned_pictures import PinnedPictures
from edge_fer.runtime.detectors.places import Decoder, suppress


class CudaLevel:
    """A detector's engine of one input size, fed where the data lies; a
    :class:`edge_fer.runtime.detectors.face_pyramid.Level`.

    Args:
        pictures: the memory that frames are decoded into; a frame from elsewhere is copied once more, and counted.

    Raises:
        DeviceError: no memory, or the engine takes no device addresses.
    """

    def __init__(self, lane: Lane, engine: DeviceEngine, pictures: PinnedPictures, copies: Copies) -> None:
        (slot,) = engine.slots[:1]
        if not isinstance(slot, DeviceSlot):
            raise DeviceError("The detector's engine takes no addresses on the GPU.", fix="Use --detect-on cpu.")
        self.engine, self.spec = engine, engine.manifest.detector
        self.decoder = Decoder(self.spec)
        self._lane, self._slot, self._pictures, self._copies = lane, slot, pictures, copies
        with lane as device:
            self._kernel = CudaDetectorKernel(device, self.spec)
            self._stream, self._done = device.stream(), device.event()
            self._found = device.pinned(self.spec.output_shape, np.float32)
        self._picture: DeviceBuffer | None = None
        self._staging: HostBuffer | None = None

    def look(self, image_bgr: NDArray[np.uint8], score: float, *, sampled: bool = False) -> Faces:
        """Faces of a whole frame, uint8 (H, W, 3) BGR, from ``score`` up. Every pixel is read: ``sampled`` is for
        those who count the CPU's time.

        Raises:
            DeviceError: no memory for the frame, or the device was lost.
        """
        height, width = image_bgr.shape[:2]
        with self._lane as device:
            source = self._pictures.find(image_bgr)
            if source is None:
                if self._staging is None or self._staging.array.shape != image_bgr.shape:
                    self._staging = device.pinned(image_bgr.shape, np.uint8, mapped=device.info.can_map)
                source = self._staging
                self._pictures.copy_in(source.array, image_bgr)
            if device.info.integrated:
                pointer = source.device_pointer
            else:
                if self._picture is None or self._picture.nbytes < source.nbytes:
                    self._picture = device.allocate(source.nbytes)
                device.copy_to_device(self._picture, source, source.nbytes, self._stream)
                self._copies.searched_bytes += source.nbytes
                pointer = self._picture.pointer
            self._copies.searched += 1
            scale = self._kernel.describe(pointer, (height, width))
            self._kernel.preprocess(self._slot.input_pointer, self._stream)
            self.engine.enqueue(self._slot, self._stream.handle, 1)
            device.copy_to_host(self._found, self._slot.output_pointer, self._found.nbytes, self._stream)
            self._done.record(self._stream)
        self._done.synchronize()
        found = suppress(self.decoder.decode(self._found.array, score))
        if len(found) == 0:
            return found
        back = (1 / np.array(scale)).astype(np.float32)
        landmarks = None if found.landmarks is None else found.landmarks * back
        return Faces(found.boxes_xyxy * np.tile(back, 2), found.scores, landmarks)
