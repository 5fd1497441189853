"""From pixels to the network's input: one implementation for training, calibration, evaluation and the loop."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.faces import square_around
from edge_fer.core.spec import PreprocessSpec
from edge_fer.runtime.scratch import Scratch

__all__ = [
    "FaceCropper",
    "face_pixels",
    "levelling",
    "normalise_into",
    "resize",
    "square_around",
    "to_bgr",
    "to_colour",
]


def to_colour(image: NDArray[np.uint8], colour: str) -> NDArray[np.uint8]:
    """Convert (H, W) grey or (H, W, 3) BGR to (H, W) grey or (H, W, 3) RGB."""
    if colour == "gray":
        return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    code = cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(image, code), dtype=np.uint8)


def to_bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) grey or (H, W, 3) BGR -> (H, W, 3) BGR, as frames are."""
    return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), dtype=np.uint8)


def resize(image: NDArray[np.uint8], size_hw: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    """Resize to (height, width); ``area`` means linear when enlarging, because OpenCV's area filter only shrinks."""
    height, width = size_hw
    if image.shape[:2] == (height, width):
        return image
    shrinking = image.shape[0] >= height and image.shape[1] >= width
    method = cv2.INTER_AREA if interpolation == "area" and shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def face_pixels(image: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.uint8]:
    """A whole image that *is* a face crop -> uint8 (H, W) or (H, W, 3) RGB of the contract's size, not normalised."""
    return resize(to_colour(image, spec.colour), spec.size_hw, spec.interpolation)


def normalise_into(out: NDArray[np.float32], pixels: NDArray[np.uint8], spec: PreprocessSpec) -> None:
    """Write ``(pixels / 255 - mean) / std`` as float32 (C, H, W) into ``out``; allocates nothing."""
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    for channel in range(spec.channels):
        scale = 1.0 / (255.0 * spec.std[channel])
        np.multiply(planes[channel], np.float32(scale), out=out[channel], casting="unsafe")
        out[channel] -= np.float32(spec.mean[channel] / spec.std[channel])


def levelling(box_xyxy: NDArray[np.float32], margin: float, angle_deg: float) -> tuple[NDArray[np.float64], int]:
    """How a face whose eyes are ``angle_deg`` off level, clockwise, is cut: its square turned back about its centre.

    Returns:
        float64 (2, 3), which takes a picture's pixels to the square's (for ``cv2.warpAffine``, linear, the border
        repeated), and the square's side. At 0 degrees this copies the square that :func:`square_around` gives.
    """
    left, top, side = square_around(box_xyxy, margin)
    turn = cv2.getRotationMatrix2D((left + (side - 1) / 2, top + (side - 1) / 2), angle_deg, 1.0)
    turn[:, 2] -= (left, top)
    return np.asarray(turn, dtype=np.float64), side


class FaceCropper:
    """Box -> square with the contract's margin -> resize, colour, normalise, straight into a row of an engine's slot.
    Under a contract that wants level eyes the square is turned by the angle that comes with the box.

    Parts of the square outside the frame repeat its border. A square inside the frame is a view of it: nothing is
    copied before the resize. Everything in between lives in buffers that are kept and only grow with the largest face,
    so one cropper belongs to one thread. The pixels are those of :func:`face_pixels` and :func:`normalise_into`, bit by
    bit; normalisation is a table of their 256 results.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        self._spec = spec
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
        table = np.empty((spec.channels, 16, 16), np.float32)
        normalise_into(table, ramp if spec.colour == "gray" else np.repeat(ramp[..., None], 3, axis=2), spec)
        self._table = table.reshape(spec.channels, 256)
        depth = () if spec.colour == "gray" else (3,)
        self._pixels, self._plane = np.empty((*spec.size_hw, *depth), np.uint8), np.empty(spec.size_hw, np.uint8)
        self._bordered, self._coloured = Scratch(), Scratch()

    def whole_into(self, out: NDArray[np.float32], image_bgr: NDArray[np.uint8]) -> None:
        """Write a frame that *is* a face crop, as evaluation does: no margin, no square."""
        self._finish(out, image_bgr)

    def crop_into(
        self,
        out: NDArray[np.float32],
        image_bgr: NDArray[np.uint8],
        box_xyxy: NDArray[np.float32],
        angle_deg: float = 0.0,
    ) -> None:
        """Write float32 (C, H, W) for one box of a uint8 (H, W, 3) BGR frame.

        Args:
            angle_deg: how far the eyes are off level, clockwise (:func:`edge_fer.core.faces.eye_angles_deg`). The face
                is turned at the picture's own scale, so that shrinking it averages over its pixels.

        Raises:
            ValueError: an angle for a contract that does not align faces.
        """
        if angle_deg:
            if self._spec.alignment != "eyes":
                raise ValueError("this contract does not level the eyes")
            turn, side = levelling(box_xyxy, self._spec.margin, angle_deg)
            turned = self._bordered.take(side, side, 3)
            border = cv2.BORDER_REPLICATE
            cv2.warpAffine(image_bgr, turn, (side, side), dst=turned, flags=cv2.INTER_LINEAR, borderMode=border)
            self._finish(out, turned)
            return
        left, top, side = square_around(box_xyxy, self._spec.margin)
        height, width = image_bgr.shape[:2]
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
        if x1 >= x2 or y1 >= y2:
            # Nothing of the square is in the frame (a track that left it): repeat the border; every box is defined.
            rows = np.clip(np.arange(top, top + side), 0, height - 1)
            columns = np.clip(np.arange(left, left + side), 0, width - 1)
            self._finish(out, np.ascontiguousarray(image_bgr[rows][:, columns]))
            return
        crop = image_bgr[y1:y2, x1:x2]
        if crop.shape[:2] != (side, side):
            borders = (y1 - top, top + side - y2, x1 - left, left + side - x2)
            whole = self._bordered.take(side, side, 3)
            cv2.copyMakeBorder(crop, *borders, cv2.BORDER_REPLICATE, dst=whole)
            crop = whole
        self._finish(out, crop)

    def _finish(self, out: NDArray[np.float32], image_bgr: NDArray[np.uint8]) -> None:
        """:func:`face_pixels` and :func:`normalise_into` without a new array."""
        height, width = image_bgr.shape[:2]
        gray = self._spec.colour == "gray"
        pixels, (to_height, to_width) = self._pixels, self._spec.size_hw
        code = cv2.COLOR_BGR2GRAY if gray else cv2.COLOR_BGR2RGB
        if (height, width) == self._spec.size_hw:
            cv2.cvtColor(image_bgr, code, dst=pixels)
        else:
            coloured = self._coloured.take(height, width, 1 if gray else 3)
            cv2.cvtColor(image_bgr, code, dst=coloured)
            shrinking = height >= to_height and width >= to_width
            method = cv2.INTER_AREA if self._spec.interpolation == "area" and shrinking else cv2.INTER_LINEAR
            cv2.resize(coloured, (to_width, to_height), dst=pixels, interpolation=method)
        for channel, table in enumerate(self._table):
            plane = pixels if gray else cv2.extractChannel(pixels, channel, dst=self._plane)
            cv2.LUT(plane, table, dst=out[channel])
