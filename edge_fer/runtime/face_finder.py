"""Which faces are in a frame: full detection when it is due, following in between, numbers that stay."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from edge_fer.runtime.detection_schedule import DetectionSchedule
from edge_fer.runtime.detectors.base import DetectsAgain, FaceDetector
from edge_fer.runtime.frames import Frame
from edge_fer.runtime.region_search import Follower
from edge_fer.runtime.timing import Reservoir
from edge_fer.runtime.tracking import Track, Tracker

SETTLE = 0.5
"""How far a detection pulls a followed box towards itself: the box corrects its drift and does not jump."""
CARRIED = 1
"""Detections that may miss a face while its motion is still followed, before it is taken as gone."""


class FaceFinder:
    """Not safe to share between threads.

    Args:
        continuous: frames follow each other in time; otherwise every frame is searched and numbers are never kept.
        detect_ms, follow_ms: where the times go.

    Attributes:
        searched: the last frame was searched as a whole.
        following: the faces of the last frame will be followed into the next one.
    """

    def __init__(
        self,
        detector: FaceDetector,
        tracker: Tracker,
        follower: Follower,
        schedule: DetectionSchedule,
        *,
        continuous: bool,
        detect_ms: Reservoir,
        follow_ms: Reservoir,
    ) -> None:
        self._detector, self._tracker, self._follower, self.schedule = detector, tracker, follower, schedule
        self._continuous = continuous
        self._detect_ms, self._follow_ms = detect_ms, follow_ms
        self._shown: list[Track] = []
        self.following = self.searched = False
        self._shape: tuple[int, ...] | None = None
        self.detections = 0

    def find(self, frame: Frame) -> list[Track]:
        """Tracks of the faces in the frame; their boxes are up to date.

        Raises:
            EdgeFerError: the detector failed; the tracks are as they were.
        """
        image = frame.image_bgr
        if not self._continuous or image.shape != self._shape:
            # Another picture, or a camera that changed its mode: boxes of the old one mean nothing here.
            self._tracker.forget()
            self._shown, self.following, self._shape = [], False, image.shape
        missed = [track.missed for track in self._tracker.tracks if track.missed]
        due = self.schedule.due(
            frame.time_ms,
            faces=len(self._shown),
            missed=min(missed, default=0),
            unconfirmed=any(track.detections == 1 for track in self._shown),
        )
        found = self._follow(image) if self.following else None
        lost = bool(self._shown) and (found is None or not found.all())
        self.searched = due or lost
        if self.searched:
            self._detect(frame, found)
        return self._shown

    def _follow(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        began = time.perf_counter()
        boxes, found = self._follower.follow(image)
        motion = 0.0
        for track, box in zip(self._shown, boxes, strict=True):
            way = np.abs(box - track.box_xyxy).max() / max(1.0, float(box[2] - box[0]))
            motion, track.box_xyxy = max(motion, float(way)), box
        if (angles := self._follower.angles_deg) is not None:
            for track, seen, angle in zip(self._shown, found, angles, strict=True):
                if seen:
                    track.angle_deg = float(angle)
        elif (turns := self._follower.turned_deg) is not None:
            for track, turn in zip(self._shown, turns, strict=True):
                track.angle_deg += float(turn)
        cost_ms = 1e3 * (time.perf_counter() - began)
        self._follow_ms.add(cost_ms)
        self.schedule.followed(cost_ms, len(boxes), motion)
        return found

    def _detect(self, frame: Frame, followed: NDArray[np.bool_] | None) -> None:
        began = time.perf_counter()
        known = np.array([track.box_xyxy for track in self._shown], np.float32).reshape(-1, 4)
        if isinstance(self._detector, DetectsAgain):
            faces = self._detector.detect_again(frame.image_bgr, known)
        else:
            faces = self._detector.detect(frame.image_bgr)
        cost_ms = 1e3 * (time.perf_counter() - began)
        self._detect_ms.add(cost_ms)
        self.schedule.detected(frame.time_ms, cost_ms)
        self.detections += 1
        before = self._shown
        self._shown = self._tracker.associate(faces, settle=1.0 if followed is None else SETTLE)
        if followed is not None:
            self._shown += [
                track
                for track, found in zip(before, followed, strict=True)
                if found and 0 < track.missed <= CARRIED and track.detections > 1
            ]
        self.following = bool(self._shown) and self._continuous and self.schedule.interval > 1
        if self.following:
            self._follower.see(frame.image_bgr, np.array([t.box_xyxy for t in self._shown], np.float32))
