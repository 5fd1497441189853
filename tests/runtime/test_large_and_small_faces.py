"""One search finds faces of every size: the shipped detector, asked for small ones, on a portrait at several scales."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from edge_fer.backends.face_detector import open_face_detector


@pytest.mark.parametrize("face_px", [24, 90, 260, 420])
def test_a_face_is_found_once_whatever_its_size_beside_the_smallest_wanted(face_px: int) -> None:
    portrait = data.astronaut()[:256, 96:352, ::-1]  # the face is about 100 pixels of these 256
    factor = face_px / 100
    side = round(256 * factor)
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    scene = np.full((720, 1280, 3), 128, np.uint8)
    face = cv2.resize(np.ascontiguousarray(portrait), (side, side), interpolation=kind)[:720, :1280]
    top, left = (720 - face.shape[0]) // 2, (1280 - face.shape[1]) // 2
    scene[top : top + face.shape[0], left : left + face.shape[1]] = face
    found = open_face_detector("edge-fer-face", min_face_px=20, backend="onnxruntime", precision="fp32").detect(scene)
    assert len(found) == 1
    x0, y0, x1, y1 = found.boxes_xyxy[0]
    assert np.sqrt((x1 - x0) * (y1 - y0)) == pytest.approx(face_px, rel=0.3)
