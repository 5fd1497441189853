"""Detected faces of one frame as a struct of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EYES_APART = 0.15
"""Eyes nearer than this share of the box's width are a profile, and turning by them would turn it anyhow."""


@dataclass(frozen=True)
class Faces:
    """Boxes in pixels of the frame they were found in; they may reach over its edges.

    Attributes:
        boxes_xyxy: float32 (n, 4): left, top, right, bottom.
        scores: float32 (n,), 0..1; 1 where the detector gives none.
        landmarks: float32 (n, 5, 2) x, y of left eye, right eye, nose, left and right mouth corner as seen in the
            picture (the smaller x first), or ``None``.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.boxes_xyxy.shape != (n, 4):
            raise ValueError(f"boxes_xyxy must be ({n}, 4), not {self.boxes_xyxy.shape}")
        if self.landmarks is not None and self.landmarks.shape != (n, 5, 2):
            raise ValueError(f"landmarks must be ({n}, 5, 2), not {self.landmarks.shape}")

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def empty() -> Faces:
        return Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def iou(a_xyxy: NDArray[np.float32], b_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of every pair: (n, 4), (m, 4) -> (n, m) in 0..1; empty boxes give 0."""
    top_left = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    bottom_right = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    overlap = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    area_a = np.clip(a_xyxy[:, 2:] - a_xyxy[:, :2], 0, None).prod(axis=1)
    area_b = np.clip(b_xyxy[:, 2:] - b_xyxy[:, :2], 0, None).prod(axis=1)
    union = area_a[:, None] + area_b[None, :] - overlap
    ratio = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return np.asarray(ratio, dtype=np.float32)


def most_prominent(faces: Faces) -> int | None:
    """Row of the face that a picture is most likely of, large and sure at once; ``None`` without faces."""
    if len(faces) == 0:
        return None
    areas = (faces.boxes_xyxy[:, 2:] - faces.boxes_xyxy[:, :2]).prod(axis=1)
    return int((areas * faces.scores).argmax())


def eye_angles_deg(faces: Faces) -> NDArray[np.float32]:
    """How far the line through each face's eyes is off level: float32 (n,), degrees, clockwise in the picture.

    0 without landmarks and for a profile (:data:`EYES_APART`).
    """
    if faces.landmarks is None:
        return np.zeros(len(faces), np.float32)
    right = faces.landmarks[:, 1] - faces.landmarks[:, 0]
    apart = np.hypot(right[:, 0], right[:, 1]) >= EYES_APART * (faces.boxes_xyxy[:, 2] - faces.boxes_xyxy[:, 0])
    return np.where(apart, np.degrees(np.arctan2(right[:, 1], right[:, 0])), 0).astype(np.float32)


def square_around(box_xyxy: NDArray[np.float32], margin: float) -> tuple[int, int, int]:
    """The square that is cropped for a box: (left, top, side) in whole pixels, possibly reaching over the frame.

    Its side is the box's longer one plus ``margin`` of it on each side; its centre is the box's.
    """
    left, top, right, bottom = (float(value) for value in box_xyxy)
    side = max(1, round(max(right - left, bottom - top) * (1 + 2 * margin)))
    return round((left + right - side) / 2), round((top + bottom - side) / 2), side
