"""A closer look at what may be a face: once more, upright and of the size that the network reads best, as it is seen
and mirrored. What is no face seldom looks like one three times, and what is one does, however small or turned it was;
and the mean of three looks' landmarks is sharper than any of them.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.faces import Faces, eye_angles_deg, iou
from edge_fer.core.spec import DetectorSpec
from edge_fer.runtime.detectors.places import vote

SIDE = 128
"""Side of the picture that is looked at, in pixels."""
FACE = 80.0
"""Side of the face in it (root of its box's area); larger pictures and other shares of them gain nothing."""
LOOKS = 3
FAINTEST, POINTING = 0.05, 0.25
"""The smallest score that is not counted as none, and the smallest of a look whose landmarks count."""
SAME_FACE = 0.5
"""Overlap with the expected box below which the look found something else: the whole face around a part of it, say."""
LEAST_SCALE, MOST_SHRINK = 0.25, 8
"""A face is turned at a power of two times its size in the picture of the look, until that is this part of its own
size: turning costs by the pixel that it makes."""
_MIRRORED = np.array([1, 0, 2, 4, 3])
"""Landmarks are named by how they are seen: mirrored, left is right."""


class Reader(Protocol):
    """An engine of input size ``SIDE`` x ``SIDE``."""

    @property
    def spec(self) -> DetectorSpec: ...

    def places(self, pixels: NDArray[np.uint8], score: float) -> Faces:
        """Every place that answers from ``score`` up, best first, several to a face, in a picture of the input's size:
        uint8 (H, W) grey or (H, W, 3) BGR as the contract has it."""
        ...


class CloserLook:
    """Not safe to share between threads: pictures lie in buffers that are kept."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._gray = reader, reader.spec.colour == "gray"
        self._turned: dict[int, NDArray[np.uint8]] = {}
        self._small = np.empty((SIDE, SIDE, 3), np.uint8)
        depth = () if self._gray else (3,)
        self._seen, self._mirrored = (np.empty((SIDE, SIDE, *depth), np.uint8) for _ in range(2))
        half = FACE / 2
        self._expected = np.array([[SIDE / 2 - half, SIDE / 2 - half, SIDE / 2 + half, SIDE / 2 + half]], np.float32)

    def look(self, image_bgr: NDArray[np.uint8], faces: Faces, *, enough: float = 0.0) -> Faces:
        """The same boxes with the mean scores and landmarks of the first and the closer looks, in the same order.

        Args:
            image_bgr: uint8 (H, W, 3), the picture that the faces were found in.
            faces: with landmarks.
            enough: a mean score that matters; a face that cannot reach it any more is not looked at to the end.
        """
        if faces.landmarks is None:
            raise ValueError("a closer look needs the landmarks of a first one")
        scores, landmarks = faces.scores.copy(), faces.landmarks.copy()
        for row, angle_deg in enumerate(eye_angles_deg(faces)):
            back = self._take(image_bgr, faces.boxes_xyxy[row], float(angle_deg))
            points = [faces.landmarks[row]]
            for taken, (pixels, mirrored) in enumerate(((self._seen, False), (self._mirrored, True)), start=1):
                if scores[row] + LOOKS - taken < LOOKS * enough:
                    break
                score, seen = self._read(pixels)
                scores[row] += score
                if seen is not None and score >= POINTING:
                    if mirrored:
                        seen = seen[_MIRRORED] * (-1, 1) + (SIDE, 0)
                    # Pixels' centres lie at halves in the network's coordinates, at whole numbers in OpenCV's.
                    points.append((seen - 0.5) @ back[:, :2].T + back[:, 2] + 0.5)
            landmarks[row] = np.mean(points, axis=0)
        return Faces(faces.boxes_xyxy, scores / np.float32(LOOKS), landmarks)

    def _take(
        self, image_bgr: NDArray[np.uint8], box_xyxy: NDArray[np.float32], angle_deg: float
    ) -> NDArray[np.float64]:
        """Bring the face upright into both buffers; returns the way back, (2, 3), in OpenCV's coordinates."""
        width, height = (float(value) for value in box_xyxy[2:] - box_xyxy[:2])
        factor = FACE / max(1.0, float(np.sqrt(max(0.0, width * height))))
        # Turned at a larger scale, from which whole pixels are averaged: a much smaller picture of single pixels would
        # flicker.
        shrink = 1
        while factor * shrink < LEAST_SCALE and shrink < MOST_SHRINK:
            shrink *= 2
        x, y = ((box_xyxy[:2] + box_xyxy[2:]) / 2 - 0.5).tolist()
        turn = cv2.getRotationMatrix2D((x, y), angle_deg, factor * shrink)
        turn[:, 2] += ((SIDE * shrink - 1) / 2 - x, (SIDE * shrink - 1) / 2 - y)
        if (turned := self._turned.get(shrink)) is None:
            turned = self._turned[shrink] = np.empty((SIDE * shrink, SIDE * shrink, 3), np.uint8)
        size, border = (SIDE * shrink, SIDE * shrink), cv2.BORDER_REPLICATE
        cv2.warpAffine(image_bgr, turn, size, dst=turned, flags=cv2.INTER_LINEAR, borderMode=border)
        if shrink > 1:
            cv2.resize(turned, (SIDE, SIDE), dst=self._small, interpolation=cv2.INTER_AREA)
            turned = self._small
        if self._gray:
            cv2.cvtColor(turned, cv2.COLOR_BGR2GRAY, dst=self._seen)
        else:
            np.copyto(self._seen, turned)
        cv2.flip(self._seen, 1, dst=self._mirrored)
        # A pixel of the small picture is the mean of shrink x shrink ones.
        back = cv2.invertAffineTransform(turn)
        back[:, 2] += back[:, :2] @ np.full(2, (shrink - 1) / 2)
        back[:, :2] *= shrink
        return np.asarray(back, dtype=np.float64)

    def _read(self, pixels: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32] | None]:
        """Score and landmarks of the expected face; 0 and ``None`` where it is not seen."""
        places = self._reader.places(pixels, FAINTEST)
        if len(places) == 0:
            return 0.0, None
        overlap = iou(self._expected, places.boxes_xyxy)[0]
        best = int((overlap * places.scores).argmax())
        if overlap[best] < SAME_FACE:
            return 0.0, None
        seen = vote(places, [best], iou(places.boxes_xyxy[best : best + 1], places.boxes_xyxy))
        return float(seen.scores[0]), None if seen.landmarks is None else seen.landmarks[0]
