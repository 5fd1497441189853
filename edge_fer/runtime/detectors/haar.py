"""OpenCV's Haar cascade: needs no download, finds upright frontal faces."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import DeviceError
from edge_fer.core.faces import Faces
from edge_fer.runtime.detectors.smallest_face import min_face_in, told

CASCADE = "haarcascade_frontalface_default.xml"
WINDOW = 24
"""Side of the cascade's own window in pixels: nothing smaller can be found."""
WORKING_FACE = 30
"""The smallest wanted face is brought to this size. The cost of the scan grows with the square of it."""
SCALE_FACTOR, NEIGHBOURS = 1.2, 5


class HaarDetector:
    """The picture is made smaller until the smallest wanted face is 30 pixels, searched, and the boxes mapped back.

    Full-frame search of a 720p picture costs ten times as much and finds, beside faces too small to classify, patterns
    that are none. Source: Viola & Jones 2001; Lienhart & Maydt 2002.
    """

    whole_frame = False
    landmarks = False

    def __init__(self, *, min_face_px: int | None = 60) -> None:
        path = Path(cv2.__file__).parent / "data" / CASCADE
        self._cascade = cv2.CascadeClassifier(str(path))
        if self._cascade.empty():
            raise DeviceError(
                f"This OpenCV has no Haar cascade ({path}).", fix="pip install 'opencv-python-headless<5'"
            )
        self._min_face_px = min_face_px
        self._gray = self._small = np.empty((0, 0), np.uint8)
        self.name = f"haar, {told(min_face_px)}"

    def detect(self, image_bgr: NDArray[np.uint8]) -> Faces:
        height, width = image_bgr.shape[:2]
        wanted = min_face_in(height, self._min_face_px)
        scale = min(1.0, WORKING_FACE / wanted)
        if self._gray.shape != (height, width):
            small = (max(1, round(height * scale)), max(1, round(width * scale)))
            self._gray, self._small = np.empty((height, width), np.uint8), np.empty(small, np.uint8)
        cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY, dst=self._gray)
        working = self._gray
        if scale < 1.0:
            working = self._small
            cv2.resize(self._gray, working.shape[::-1], dst=working, interpolation=cv2.INTER_AREA)
        least = max(WINDOW, round(wanted * scale))
        if min(working.shape) < least:
            return Faces.empty()
        found = self._cascade.detectMultiScale(working, SCALE_FACTOR, NEIGHBOURS, minSize=(least, least))
        if len(found) == 0:
            return Faces.empty()
        boxes = np.asarray(found, dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]
        # Each axis by its own factor: rounding the small picture's sides makes them differ a little.
        boxes *= np.array([width / working.shape[1], height / working.shape[0]] * 2, np.float32)
        return Faces(boxes, np.ones(len(boxes), np.float32))
