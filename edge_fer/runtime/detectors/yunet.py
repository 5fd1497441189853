"""YuNet (Wu et al. 2023) from the user's own ONNX file, as OpenCV runs it: a teacher and a yardstick.

`--detector yunet` runs the same file on the engines of this project."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError
from edge_fer.core.faces import Faces
from edge_fer.runtime.detectors.smallest_face import min_face_in, told

WORKING_FACE = 20
"""The smallest wanted face is brought to about this size, where the network still finds it reliably."""
NMS = 0.3


class YunetDetector:
    """Boxes, scores and five landmarks; the working size follows from the smallest face wanted."""

    whole_frame = False
    landmarks = True

    def __init__(self, path: str, *, min_face_px: int | None = 60, score: float = 0.6) -> None:
        if not Path(path).is_file():
            raise BadInputError(
                f"There is no YuNet model {path}.", fix="edge-fer fetch yunet gets one and says where it lies."
            )
        try:
            self._net = cv2.FaceDetectorYN.create(path, "", (320, 320), score, NMS)
        except cv2.error as error:
            raise BadInputError(
                f"{path} is not a YuNet model that OpenCV can read: {error.err}.",
                fix="edge-fer fetch yunet gets one and says where it lies.",
            ) from None
        self._min_face_px = min_face_px
        self._small = np.empty((0, 0, 3), np.uint8)
        self.name = f"yunet-opencv, {told(min_face_px)}"

    def detect(self, image_bgr: NDArray[np.uint8]) -> Faces:
        height, width = image_bgr.shape[:2]
        scale = min(1.0, WORKING_FACE / min_face_in(height, self._min_face_px))
        size = (max(32, round(height * scale)), max(32, round(width * scale)))
        if self._small.shape[:2] != size:
            self._small = np.empty((*size, 3), np.uint8)
            self._net.setInputSize((size[1], size[0]))
        cv2.resize(image_bgr, (size[1], size[0]), dst=self._small, interpolation=cv2.INTER_AREA)
        # OpenCV's stub forgets that there is None when there is no face.
        found: NDArray[np.float32] | None = self._net.detect(self._small)[1]  # type: ignore[assignment]
        if found is None:
            return Faces.empty()
        factor = np.array([width / size[1], height / size[0]], np.float32)
        boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], axis=1) * np.tile(factor, 2)
        landmarks = found[:, 4:14].reshape(-1, 5, 2) * factor
        return Faces(boxes.astype(np.float32), found[:, 14].astype(np.float32), landmarks.astype(np.float32))
