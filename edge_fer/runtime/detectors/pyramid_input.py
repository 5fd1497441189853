"""How a picture becomes the input of the project's own detector: made to fit, from the upper left, normalised."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.spec import DetectorSpec
from edge_fer.runtime.scratch import Scratch

MOST_HALVINGS = 6


@dataclass(frozen=True)
class Geometry:
    """How a picture was laid into the network's input: ``x * scale_x``, from the upper left corner."""

    scale_x: float
    scale_y: float


def picture_into(row: NDArray[np.float32], image_bgr: NDArray[np.uint8], spec: DetectorSpec) -> Geometry:
    """Write a picture, made smaller or larger to fit and kept in shape, into an input row (C, H, W) of a network.

    It begins at the upper left corner; what it leaves free is mid-grey.

    Args:
        image_bgr: uint8 (h, w, 3).
    """
    height, width = spec.size_hw
    factor = min(height / image_bgr.shape[0], width / image_bgr.shape[1])
    size = (max(1, round(image_bgr.shape[1] * factor)), max(1, round(image_bgr.shape[0] * factor)))
    small = image_bgr
    if size != image_bgr.shape[1::-1]:
        kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        small = np.asarray(cv2.resize(image_bgr, size, interpolation=kind), dtype=np.uint8)
    if spec.colour == "gray":
        small = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    pixels_into(row, small, spec)
    return Geometry(size[0] / image_bgr.shape[1], size[1] / image_bgr.shape[0])


def pixels_into(row: NDArray[np.float32], pixels: NDArray[np.uint8], spec: DetectorSpec) -> None:
    """Normalise pixels, (h, w) grey or (h, w, 3) BGR, into the upper left corner of an input row (C, H, W); the rest
    becomes mid-grey."""
    height, width = pixels.shape[:2]
    scale, offset = np.float32(1 / (255 * spec.std)), np.float32(spec.mean / spec.std)
    middle = np.float32((128 / 255 - spec.mean) / spec.std)
    for channel, plane in enumerate(row):
        place = plane[:height, :width]
        np.multiply(pixels if pixels.ndim == 2 else pixels[..., channel], scale, out=place, casting="unsafe")
        np.subtract(place, offset, out=place)
        plane[height:] = middle
        plane[:height, width:] = middle


class Shrinker:
    """Pictures of one size after the other, resized into buffers that are kept; grey where the contract has it.

    Halves are taken as long as they come out even and large enough, grey from the first one on: OpenCV averages 2x2
    pixels five to ten times as fast as any other number. What is left is averaged over parts of pixels as always.
    """

    def __init__(self, colour: str) -> None:
        self._gray = colour == "gray"
        self._halves, self._grays, self._whole = [Scratch() for _ in range(MOST_HALVINGS)], Scratch(), Scratch()

    def __call__(self, image_bgr: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) BGR -> uint8 (h, w) grey or (h, w, 3) BGR, valid until the next call; ``size``: (w, h)."""
        picture = image_bgr
        for scratch in self._halves:
            if (half := _half(picture.shape, size)) is None:
                break
            picture = self._to_gray(_resized(picture, half, scratch, cv2.INTER_AREA))
        if picture.shape[1::-1] != size:
            shrinks = picture.shape[0] >= size[1] and picture.shape[1] >= size[0]
            picture = _resized(picture, size, self._whole, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return self._to_gray(picture)

    def _to_gray(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if not self._gray or picture.ndim == 2:
            return picture
        gray = self._grays.take(picture.shape[0], picture.shape[1], 1)
        cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY, dst=gray)
        return gray


def _resized(picture: NDArray[np.uint8], size: tuple[int, int], into: Scratch, how: int) -> NDArray[np.uint8]:
    result = into.take(size[1], size[0], 1 if picture.ndim == 2 else 3)
    cv2.resize(picture, size, dst=result, interpolation=how)
    return result


def _half(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int] | None:
    """Half of a picture's size, (w, h); ``None`` where it is no whole number or smaller than ``size``."""
    height, width = shape[:2]
    if height % 2 or width % 2 or height // 2 < size[1] or width // 2 < size[0]:
        return None
    return width // 2, height // 2
