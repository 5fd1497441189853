"""Which face is which from frame to frame, and a label that does not flicker."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.faces import Faces, eye_angles_deg, iou

MATCH_IOU = 0.3
UNCERTAIN_BELOW, CERTAIN_FROM = 0.40, 0.45
"""A label turns uncertain below the one and certain again from the other: a score in between changes nothing."""
HYSTERESIS = 0.10
FINISHED_KEPT = 1000
"""Faces that have left and are still listed in the summary; a camera in a lobby would otherwise fill the memory."""


@dataclass
class Track:
    """One face over time.

    Attributes:
        track: number that stays with the face, from 1.
        box_xyxy: float32 (4,), where it was last seen.
        angle_deg: how far its eyes are off level, clockwise; 0 where the detector tells no landmarks.
        scores: float32 (classes,), smoothed.
        label: index of the shown class.
        uncertain: the shown class has less than the threshold.
        missed: detections in a row that did not find it.
        detections: detections that found it.
        frames: how often it was classified.
        changes: how often the shown label changed, for the flicker rate.
        first_ms, last_ms: when it was classified first and last, in the source's time.
    """

    track: int
    box_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    label: int = -1
    uncertain: bool = True
    missed: int = 0
    detections: int = 0
    frames: int = 0
    changes: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0
    score_sum: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    angle_deg: float = 0.0


class Tracker:
    """Matches detections to tracks by overlap, greedily from the best pair on, and smooths their scores.

    Args:
        classes: number of classes.
        smooth: weight of the past in the exponential moving average, 0 (off) to below 1.
        patience: detections that a face may be missing before its number is given up.
    """

    def __init__(self, classes: int, *, smooth: float = 0.6, patience: int = 8) -> None:
        if not 0 <= smooth < 1:
            raise ValueError("smooth must lie in [0, 1)")
        self._classes, self._smooth, self._patience = classes, smooth, patience
        self._next = 1
        self.tracks: list[Track] = []
        self.finished: deque[Track] = deque(maxlen=FINISHED_KEPT)
        self.score_sum = np.zeros(classes)
        self.faces = 0

    def associate(self, faces: Faces, *, settle: float = 1.0) -> list[Track]:
        """Assign every detected face to a track, old or new; the result is in the faces' order.

        ``settle``: how far a known face's box and its eyes' angle go from what they were to what was detected, above 0
        to 1.
        """
        assigned: list[Track | None] = [None] * len(faces)
        overlaps = iou(faces.boxes_xyxy, np.array([t.box_xyxy for t in self.tracks], np.float32).reshape(-1, 4))
        free = np.ones(len(self.tracks), bool)
        for flat in np.argsort(-overlaps, axis=None, kind="stable"):
            face, place = divmod(int(flat), max(1, len(self.tracks)))
            if overlaps[face, place] < MATCH_IOU:
                break
            if assigned[face] is None and free[place]:
                assigned[face], free[place] = self.tracks[place], False
        for track, unmatched in zip(self.tracks, free, strict=True):
            track.missed += int(unmatched)
        result, angles = [], eye_angles_deg(faces)
        for face, found in enumerate(assigned):
            track, box = found or self._new(), faces.boxes_xyxy[face]
            # Always an array of its own: a frame that is still being labelled keeps the box that it was given.
            track.box_xyxy = np.array(track.box_xyxy * (1 - settle) + box * settle if found else box, np.float32)
            # The short way round: from 170 to -170 degrees it is 20.
            way = (float(angles[face]) - track.angle_deg + 180) % 360 - 180
            track.angle_deg += (settle if found else 1.0) * way
            track.missed = 0
            track.detections += 1
            result.append(track)
        self.finished.extend(t for t in self.tracks if t.missed > self._patience)
        self.tracks = [t for t in self.tracks if t.missed <= self._patience]
        return result

    def _new(self) -> Track:
        track = Track(
            self._next,
            np.zeros(4, np.float32),
            np.zeros(self._classes, np.float32),
            score_sum=np.zeros(self._classes),
        )
        self._next += 1
        self.tracks.append(track)
        return track

    def forget(self) -> None:
        """Give up all numbers: the next frame shows something else."""
        self.finished.extend(self.tracks)
        self.tracks = []

    def update(self, track: Track, scores: NDArray[np.float32], time_ms: float = 0.0) -> None:
        """Blend new softmax scores (classes,) into a track and decide its label.

        A rival replaces the shown label only when it leads by the hysteresis, so that two nearly equal classes do not
        alternate; without smoothing the best class is always shown, and is uncertain below ``UNCERTAIN_BELOW``.
        """
        weight = self._smooth if track.frames else 0.0
        track.scores *= weight
        track.scores += (1 - weight) * scores
        track.first_ms = track.first_ms if track.frames else time_ms
        track.last_ms = time_ms
        track.frames += 1
        track.score_sum += scores
        self.score_sum += scores
        self.faces += 1
        best = int(track.scores.argmax())
        lead = track.scores[best] - (track.scores[track.label] if track.label >= 0 else -1.0)
        if best != track.label and (lead > HYSTERESIS or not self._smooth):
            track.changes += track.label >= 0
            track.label = best
        doubted = self._smooth and track.uncertain and track.frames > 1
        track.uncertain = bool(track.scores[track.label] < (CERTAIN_FROM if doubted else UNCERTAIN_BELOW))

    def all_tracks(self) -> list[Track]:
        """Every face that was ever classified, in the order of appearance."""
        return sorted((t for t in (*self.finished, *self.tracks) if t.frames), key=lambda t: t.track)

    def flicker_per_minute(self) -> float | None:
        """How often a shown label changes in a minute of one face, over all faces; ``None`` below a second in sight.

        Times are the source's own: a file that is read at ten times its rate does not flicker ten times as much.
        """
        tracks = self.all_tracks()
        minutes = sum(track.last_ms - track.first_ms for track in tracks) / 60_000
        return sum(track.changes for track in tracks) / minutes if minutes >= 1 / 60 else None
