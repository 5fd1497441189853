"""No detection: the whole frame is one face, as in datasets of crops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.faces import Faces


class WholeFrame:
    name, whole_frame, landmarks = "none (the whole frame is the face)", True, False

    def detect(self, image_bgr: NDArray[np.uint8]) -> Faces:
        height, width = image_bgr.shape[:2]
        return Faces(np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32))
