"""Where the faces of the last picture are in this one, without searching all of it.

Between two full detections the box is carried along by the motion of the pixels inside it (:class:`FlowSearch`), and so
is the angle of the eyes where a contract levels them. That measures better than searching again around the last box,
even by a detector that can search small regions itself (:class:`NearSearch`): box and angle tremble a third as much, in
two thirds of the time (docs/decisions/0012, 0033).
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.faces import Faces, eye_angles_deg, iou

PATCH = 64
"""Side of the square, in pixels, to which the surroundings of a face are brought."""
SURROUNDINGS = 2.0
"""Side of those surroundings in box sides: the face may move by half its size from one frame to the next."""
GRID = 6
"""Points a row and a column that are followed inside a box."""
MARGIN = 0.15
"""Part of the box on each side without points: hair and background move differently."""
ROUND_TRIP_PX = 1.0
"""A point that, followed forth and back, misses its start by more pixels of the patch is not believed."""
SPREAD_PX = 2.0
"""Believed points whose motions differ more than this (median deviation, pixels of the patch) do not form one body."""
BELIEVED = GRID * GRID // 3
"""Fewer believed points mean that the face is lost."""
SMALLEST_PX = 8
NEAR_IOU = 0.1
"""A face found near a box is that box's face even after a jump that would make two faces of it in a full search."""

_GRID = np.linspace(MARGIN, 1 - MARGIN, GRID, dtype=np.float32)
_CELLS = np.stack(np.meshgrid(_GRID, _GRID), axis=-1).reshape(-1, 2)
_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.03)


class Follower(Protocol):
    """Carries boxes from frame to frame. ``see`` and ``follow`` get the frames in order, from one thread.

    Attributes:
        angles_deg: float32 (n,), how far the eyes are off level where the last ``follow`` found the faces; ``None`` of
            a follower that sees no eyes.
        turned_deg: float32 (n,), how far each face has turned since the picture before, clockwise; ``None`` of a
            follower that cannot tell.
    """

    angles_deg: NDArray[np.float32] | None
    turned_deg: NDArray[np.float32] | None

    def see(self, image_bgr: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> None:
        """A full detection has placed these boxes, float32 (n, 4), in this picture: go on from here."""
        ...

    def follow(self, image_bgr: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Where the boxes are in the next picture: float32 (n, 4) in the order of ``see``, and bool (n,) found.

        A box that was not found stays where it was.
        """
        ...


@runtime_checkable
class RegionDetector(Protocol):
    """A detector that can also search small regions."""

    def detect_near(self, image_bgr: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> Faces:
        """Faces around the boxes, float32 (n, 4), in the frame's pixels; in any order, fewer where faces are lost."""
        ...


class NearSearch:
    """Asks the detector for faces around the last boxes and gives each box the face that overlaps it best."""

    def __init__(self, detector: RegionDetector) -> None:
        self._detector = detector
        self._boxes = np.zeros((0, 4), np.float32)
        self.angles_deg: NDArray[np.float32] | None = None
        self.turned_deg: NDArray[np.float32] | None = None

    def see(self, image_bgr: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> None:
        self._boxes = boxes_xyxy

    def follow(self, image_bgr: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        boxes, found = self._boxes.copy(), np.zeros(len(self._boxes), bool)
        self.angles_deg = None
        if len(boxes):
            faces = self._detector.detect_near(image_bgr, self._boxes)
            near, angles = faces.boxes_xyxy, eye_angles_deg(faces)
            if faces.landmarks is not None:
                self.angles_deg = np.zeros(len(boxes), np.float32)
            overlaps = iou(near, self._boxes)
            taken = np.zeros(len(near), bool)
            for flat in np.argsort(-overlaps, axis=None, kind="stable"):
                face, place = divmod(int(flat), len(boxes))
                if overlaps[face, place] < NEAR_IOU:
                    break
                if not taken[face] and not found[place]:
                    boxes[place], taken[face], found[place] = near[face], True, True
                    if self.angles_deg is not None:
                        self.angles_deg[place] = angles[face]
        self._boxes = boxes
        return boxes, found


class FlowSearch:
    """Median flow: a grid of points in each box is followed forth and back, and the points that return to where they
    came from move and scale the box by the medians of what they did.

    The surroundings of all faces are brought to one small size and stacked, so that one call of Lucas-Kanade serves all
    of them and its cost does not depend on how large the faces are. They are sampled, not averaged: averaging costs
    four times as much and changes the boxes by less than a tenth of the detector's own noise.

    Source: Kalal, Mikolajczyk & Matas, "Forward-Backward Error", ICPR 2010; Bouguet's pyramidal Lucas-Kanade. The turn
    is the rotation of least squares, as in Umeyama, IEEE PAMI 13 (4), 1991.

    Args:
        turns: tell how far the faces turn, too.
    """

    def __init__(self, *, turns: bool = False) -> None:
        self._turns = turns
        self._boxes = np.zeros((0, 4), np.float32)
        self._origins = self._scales = np.zeros((0, 2), np.float32)
        self._shape: tuple[int, ...] = ()
        self._colour = np.empty((0, PATCH, 3), np.uint8)
        self._before = self._now = np.empty((0, PATCH), np.uint8)
        self.angles_deg: NDArray[np.float32] | None = None
        self.turned_deg: NDArray[np.float32] | None = None

    def see(self, image_bgr: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> None:
        self._boxes, self._shape = boxes_xyxy, image_bgr.shape
        self._reserve(len(boxes_xyxy))
        self._place(image_bgr.shape)
        self._sample(image_bgr, self._before)

    def follow(self, image_bgr: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        count = len(self._boxes)
        self.turned_deg = np.zeros(count, np.float32) if self._turns else None
        if not count or image_bgr.shape != self._shape:
            return self._boxes.copy(), np.zeros(count, bool)
        self._sample(image_bgr, self._now)
        rows = count * PATCH
        # Points of the stacked picture: within their patch, plus the patch's place in the stack.
        low, size = self._boxes[:, None, :2], (self._boxes[:, 2:] - self._boxes[:, :2])[:, None]
        start = (low + _CELLS * size - self._origins[:, None]) * self._scales[:, None]
        inside = ((start >= 0) & (start <= PATCH - 1)).all(axis=2)
        start[..., 1] += PATCH * np.arange(count, dtype=np.float32)[:, None]
        there, forth = _lucas_kanade(self._before[:rows], self._now[:rows], start)
        back, home = _lucas_kanade(self._now[:rows], self._before[:rows], there)
        believed = inside & forth & home & (np.abs(back - start).max(axis=2) < ROUND_TRIP_PX)
        boxes, found = self._moved(start, there, believed)
        if self._turns:
            self.turned_deg = np.where(found, self._turned(start, there, believed), np.float32(0))
        self._boxes = boxes
        self._place(image_bgr.shape)
        self._sample(image_bgr, self._before)
        return boxes, found

    def _moved(
        self, start: NDArray[np.float32], there: NDArray[np.float32], believed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Boxes after the median shift and the median growth of their believed points."""
        motion = there - start
        shift = np.stack([_median(motion[..., axis], believed) for axis in (0, 1)], axis=1)
        spread = _median(np.abs(motion - shift[:, None]).max(axis=2), believed)
        before, after = (np.linalg.norm(self._about_centre(p, believed), axis=2) for p in (start, there))
        growth = _median(after / np.maximum(before, 1e-3), believed)
        found = (believed.sum(axis=1) >= BELIEVED) & (spread < SPREAD_PX) & (growth > 0.5) & (growth < 2)
        centre = (self._boxes[:, :2] + self._boxes[:, 2:]) / 2 + np.where(found[:, None], shift, 0) / self._scales
        half = (self._boxes[:, 2:] - self._boxes[:, :2]) / 2 * np.where(found, growth, 1)[:, None]
        return np.concatenate([centre - half, centre + half], axis=1, dtype=np.float32), found

    def _turned(
        self, start: NDArray[np.float32], there: NDArray[np.float32], believed: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Degrees (n,), clockwise: the rotation that takes the believed points, as they lie about their centre, to
        where they went with the least squares."""
        before, after = (self._about_centre(points, believed) for points in (start, there))
        cross = (before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]) * believed
        dot = (before * after).sum(axis=2) * believed
        return np.asarray(np.degrees(np.arctan2(cross.sum(axis=1), dot.sum(axis=1))), dtype=np.float32)

    def _about_centre(self, points: NDArray[np.float32], believed: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Points (n, p, 2) as they lie about the centre of the believed ones, in pixels of the frame: a patch is
        squeezed where the surroundings reach over the frame."""
        weight = believed[..., None] / np.maximum(1, believed.sum(axis=1))[:, None, None]
        centre = (points * weight).sum(axis=1, keepdims=True)
        return np.asarray((points - centre) / self._scales[:, None], dtype=np.float32)

    def _reserve(self, count: int) -> None:
        if len(self._colour) < count * PATCH:
            self._colour = np.empty((count * PATCH, PATCH, 3), np.uint8)
            self._before, self._now = (np.empty((count * PATCH, PATCH), np.uint8) for _ in range(2))

    def _place(self, shape: tuple[int, ...]) -> None:
        """Choose the rectangle of the frame that each patch shows: whole pixels, inside the frame."""
        height, width = shape[:2]
        sides = (self._boxes[:, 2:] - self._boxes[:, :2]).max(axis=1, keepdims=True) * (SURROUNDINGS / 2)
        centres = (self._boxes[:, :2] + self._boxes[:, 2:]) / 2
        limit = np.array([width, height], np.float32)
        low = np.clip(np.round(centres - sides), 0, limit)
        high = np.clip(np.round(centres + sides), 0, limit)
        self._origins = np.asarray(low, dtype=np.float32)
        self._scales = np.asarray(PATCH / np.maximum(high - low, 1), dtype=np.float32)

    def _sample(self, image_bgr: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Fill the stack's patches, grey, from the rectangles chosen before."""
        count = len(self._boxes)
        if not count:
            return
        for place in range(count):
            left, top = (int(value) for value in self._origins[place])
            wide, high = (round(PATCH / float(value)) for value in self._scales[place])
            rows = self._colour[place * PATCH : (place + 1) * PATCH]
            part = image_bgr[top : top + high, left : left + wide]
            if min(part.shape[:2]) < SMALLEST_PX:
                rows[:] = 0  # a flat patch has nothing to follow: the face has left the frame
            else:
                cv2.resize(part, (PATCH, PATCH), dst=rows, interpolation=cv2.INTER_LINEAR)
        cv2.cvtColor(self._colour[: count * PATCH], cv2.COLOR_BGR2GRAY, dst=out[: count * PATCH])


def _lucas_kanade(
    before: NDArray[np.uint8], now: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(n, p, 2) points of one picture -> the same points in the other, and bool (n, p) followed."""
    flat = np.ascontiguousarray(points, dtype=np.float32).reshape(-1, 1, 2)
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        before, now, flat, flat.copy(), winSize=(9, 9), maxLevel=2, criteria=_CRITERIA
    )
    return np.asarray(moved, dtype=np.float32).reshape(points.shape), status.reshape(points.shape[:2]) == 1


def _median(values: NDArray[np.floating[Any]], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Upper median over the valid values of each row: (n, p) -> (n,); infinite where there is none."""
    ordered = np.sort(np.where(valid, values, np.inf), axis=1)
    return np.asarray(ordered[np.arange(len(values)), np.minimum(valid.sum(axis=1) // 2, values.shape[1] - 1)])
