"""The detector that ships, on a real photograph: NASA's portrait of Eileen Collins, as scikit-image carries it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.backends.registry import installed_backends
from edge_fer.core.bundle import DEFAULT_DETECTOR, find_bundle, open_bundle
from edge_fer.core.faces import Faces, iou

PAIRS = [(status.name, precision) for status in installed_backends() for precision in status.precisions]
BOX = np.array([[179.1, 61.3, 270.9, 176.4]], np.float32)
LANDMARKS = np.array([[202.3, 102.7], [246.1, 103.9], [222.8, 127.6], [203.3, 143.4], [242.1, 144.4]], np.float32)
"""What YuNet finds in the same photograph, mean of six views; the points were looked at."""


@pytest.fixture(scope="module")
def portrait() -> NDArray[np.uint8]:
    return cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)


def find(portrait: NDArray[np.uint8], backend: str, precision: str, min_face_px: int) -> Faces:
    return open_face_detector(DEFAULT_DETECTOR, backend=backend, precision=precision, min_face_px=min_face_px).detect(
        portrait
    )


@pytest.mark.parametrize(("backend", "precision"), PAIRS)
@pytest.mark.parametrize("min_face_px", [30, 60])
def test_the_one_face_is_found_with_its_landmarks(
    portrait: NDArray[np.uint8], backend: str, precision: str, min_face_px: int
) -> None:
    form = "int8" if precision == "int8" else "fp32"
    assert any(v.precision == form for v in open_bundle(find_bundle(DEFAULT_DETECTOR)).manifest.variants)
    faces = find(portrait, backend, precision, min_face_px)
    # At 60 pixels a badge on the suit is a second find; the surest one is the face.
    assert len(faces) == 1 if min_face_px == 30 else faces.scores[0] > faces.scores[1:].max(initial=0.0) + 0.1
    assert iou(faces.boxes_xyxy, BOX)[0, 0] > 0.7
    assert faces.landmarks is not None
    eyes = np.linalg.norm(LANDMARKS[1] - LANDMARKS[0])
    gaps = np.linalg.norm(faces.landmarks[0] - LANDMARKS, axis=1)
    assert gaps.mean() / eyes < 0.08
    assert gaps.max() / eyes < 0.16


def test_turning_the_camera_does_not_lose_the_face(portrait: NDArray[np.uint8]) -> None:
    for degrees in (-30, -15, 15, 30):
        turn = cv2.getRotationMatrix2D((224, 115), degrees, 1.0)
        turned = cv2.warpAffine(portrait, turn, (512, 512), borderMode=cv2.BORDER_REPLICATE)
        faces = find(turned, "onnxruntime", "fp32", 40)
        assert len(faces) >= 1
        assert faces.landmarks is not None
        best = int(faces.scores.argmax())
        wanted = LANDMARKS @ turn[:, :2].T + turn[:, 2]
        eyes = np.linalg.norm(LANDMARKS[1] - LANDMARKS[0])
        assert np.linalg.norm(faces.landmarks[best] - wanted, axis=1).mean() / eyes < 0.15


def test_pictures_without_a_face_have_none(portrait: NDArray[np.uint8]) -> None:
    for picture in (data.coffee(), data.chelsea(), data.rocket()):
        faces = find(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), "onnxruntime", "fp32", 30)
        assert len(faces) == 0


def test_the_search_near_the_face_follows_a_moving_camera(portrait: NDArray[np.uint8]) -> None:
    detector = open_face_detector(DEFAULT_DETECTOR, backend="onnxruntime", precision="fp32", min_face_px=40)
    boxes = detector.detect(portrait).boxes_xyxy
    for step in range(1, 11):
        moved = np.roll(portrait, (3 * step, 6 * step), axis=(0, 1))
        found = detector.detect_near(moved, boxes)
        assert len(found) == 1
        boxes = found.boxes_xyxy
    assert iou(boxes, BOX + np.array([60, 30, 60, 30], np.float32))[0, 0] > 0.6
