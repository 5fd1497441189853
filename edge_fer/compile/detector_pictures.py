"""Pictures for a detector's calibration and canary, as the network's input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.compile.canary_faces import canary_images
from edge_fer.core.spec import DetectorSpec
from edge_fer.data.calibration_set import CalibrationSet
from edge_fer.data.samples import Image
from edge_fer.runtime.detectors.pyramid_input import picture_into
from edge_fer.runtime.preprocess import to_bgr

BATCH = 4


def canary_picture(size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The shipped faces at several sizes on a grey ramp: uint8 (1, H, W, 3) BGR, always the same."""
    height, width = size_hw
    ramp = np.linspace(40, 200, width, dtype=np.float32).astype(np.uint8)
    canvas = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (height, width, 3)))
    faces = canary_images()
    x = y = row = 0
    for face, side in zip(faces, (96, 72, 48, 32, 24, 64, 40, 20, 56, 28, 80, 36, 16, 44, 60, 52), strict=True):
        if x + side > width:
            x, y, row = 0, y + row + 8, 0
        if y + side > height:
            break
        canvas[y : y + side, x : x + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
        x, row = x + side + 12, max(row, side)
    return canvas[None]


def picture_batch(images: Sequence[Image], spec: DetectorSpec) -> NDArray[np.float32]:
    """Pictures of any size -> float32 (n, 1, H, W), letterboxed as the loop does it."""
    batch = np.empty((len(images), *spec.input_shape), np.float32)
    for row, image in zip(batch, images, strict=True):
        picture_into(row, to_bgr(image), spec)
    return batch


def calibration_batches(pictures: CalibrationSet, spec: DetectorSpec) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(pictures), BATCH):
        yield picture_batch(pictures.images[start : start + BATCH], spec)
