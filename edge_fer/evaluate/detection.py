"""How well a face detector finds faces: matching, recall, precision, landmarks. Pure arithmetic on boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.faces import Faces, iou

MATCH_IOU = 0.5


@dataclass(frozen=True)
class Truth:
    """The faces of one picture.

    Attributes:
        boxes_xyxy: float32 (n, 4).
        landmarks: float32 (n, 5, 2), NaN for faces whose landmarks are not known, or ``None`` when none are.
        ignore: bool (n,): neither a miss when not found nor a false alarm when found.
    """

    boxes_xyxy: NDArray[np.float32]
    landmarks: NDArray[np.float32] | None
    ignore: NDArray[np.bool_]

    @staticmethod
    def nothing() -> Truth:
        return Truth(np.zeros((0, 4), np.float32), None, np.zeros(0, np.bool_))


@dataclass(frozen=True)
class Matched:
    """One picture's detections against its truth.

    Attributes:
        scores: float32 (d,), of detections that count, best first.
        hit: int64 (d,): row of the face that each found, or -1 for a false alarm.
        index: int64 (d,): row of each among the picture's detections.
        faces: how many faces were to be found.
        landmark_error: float32 (h,): for each hit with landmarks, in order, the mean distance over the eye distance;
            NaN where the face's are not known.
    """

    scores: NDArray[np.float32]
    hit: NDArray[np.int64]
    index: NDArray[np.int64]
    faces: int
    landmark_error: NDArray[np.float32]


def match(found: Faces, truth: Truth, threshold: float = MATCH_IOU) -> Matched:
    """Give each detection, best score first, the free face that it overlaps most, if it does so by ``threshold``.

    A detection that finds only an ignored place, or lies mostly inside one, is not counted at all.
    """
    order = np.argsort(-found.scores, kind="stable")
    overlap = iou(found.boxes_xyxy, truth.boxes_xyxy)
    free = ~truth.ignore
    scores, hit, index, errors = [], [], [], []
    for i in order:
        candidates = np.where(free, overlap[i], 0.0)
        best = int(candidates.argmax()) if len(candidates) else -1
        if best >= 0 and candidates[best] >= threshold:
            free[best] = False
            scores.append(found.scores[i])
            hit.append(best)
            index.append(int(i))
            if found.landmarks is not None and truth.landmarks is not None:
                errors.append(landmark_error(found.landmarks[i], truth.landmarks[best]))
        elif not _in_ignored(found.boxes_xyxy[i], truth):
            scores.append(found.scores[i])
            hit.append(-1)
            index.append(int(i))
    return Matched(
        np.asarray(scores, np.float32),
        np.asarray(hit, np.int64),
        np.asarray(index, np.int64),
        int((~truth.ignore).sum()),
        np.asarray(errors, np.float32),
    )


def _in_ignored(box: NDArray[np.float32], truth: Truth) -> bool:
    """Whether at least half of the box lies in an ignored place, or covers half of one."""
    for other in truth.boxes_xyxy[truth.ignore]:
        overlap = np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0, None).prod()
        smaller = min(float((box[2:] - box[:2]).prod()), float((other[2:] - other[:2]).prod()))
        if overlap >= 0.5 * max(smaller, 1e-6):
            return True
    return False


def landmark_error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Mean distance of five landmarks (5, 2) over the wanted distance between the eyes."""
    eyes = max(1e-6, float(np.linalg.norm(wanted[1] - wanted[0])))
    return float(np.linalg.norm(found - wanted, axis=1).mean() / eyes)


def recall(matched: Sequence[Matched], score: float) -> float:
    """Share of the faces found with at least that score; NaN when there is none to find."""
    faces = sum(m.faces for m in matched)
    hits = sum(int(((m.hit >= 0) & (m.scores >= score)).sum()) for m in matched)
    return hits / faces if faces else float("nan")


def false_alarms(matched: Sequence[Matched], score: float) -> int:
    """Detections with at least that score that find nothing."""
    return sum(int(((m.hit < 0) & (m.scores >= score)).sum()) for m in matched)


def score_for_alarms(matched: Sequence[Matched], per_picture: float) -> float:
    """The smallest score at which there are at most ``per_picture`` false alarms a picture, on these pictures."""
    alarms = np.sort(np.concatenate([m.scores[m.hit < 0] for m in matched] or [np.zeros(0, np.float32)]))[::-1]
    allowed = int(per_picture * len(matched) + 1e-9)
    return float(np.nextafter(alarms[allowed], np.float32(2))) if len(alarms) > allowed else 0.0


def average_precision(matched: Sequence[Matched]) -> float:
    """Area under the precision-recall curve, precision made monotone (the VOC 2010 and COCO definition); NaN without
    faces."""
    faces = sum(m.faces for m in matched)
    if not faces:
        return float("nan")
    scores = np.concatenate([m.scores for m in matched] or [np.zeros(0, np.float32)])
    hits = np.concatenate([m.hit >= 0 for m in matched] or [np.zeros(0, np.bool_)])
    order = np.argsort(-scores, kind="stable")
    hits = hits[order]
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * hits).sum() / faces)


def mean_landmark_error(matched: Sequence[Matched]) -> float:
    """Mean over all hits that had landmarks; NaN when none had."""
    errors = np.concatenate([m.landmark_error for m in matched] or [np.zeros(0, np.float32)])
    errors = errors[np.isfinite(errors)]
    return float(errors.mean()) if len(errors) else float("nan")
