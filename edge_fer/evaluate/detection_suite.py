"""Detectors side by side: the same held-out pictures, the same run, one row per kind of picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.faces import Faces
from edge_fer.core.files import atomic_file
from edge_fer.data.detection.labels import Teacher
from edge_fer.data.detection.test_sets import (
    CONDITIONS,
    HeldOut,
    TestPicture,
    composites,
    empty_scenes,
    padded_faces,
    scene_pictures,
)
from edge_fer.evaluate.detection import (
    Matched,
    Truth,
    average_precision,
    false_alarms,
    match,
    mean_landmark_error,
    recall,
    score_for_alarms,
)
from edge_fer.runtime.detectors.base import FaceDetector

SCENES, EMPTY = "held-out scenes, faces of 40 px and more", "held-out scenes without a face"
PADDED = {"gray": "held-out faces, grey border", "replicated": "held-out faces, replicated border"}
EXPRESSIONS = "FER-2013 faces that no training saw, replicated border"
FULL_SCALE_FACE, SCENE_FACE = 20, 40
"""``min_face_px`` at which our detector works on the picture as it is, and what is asked of it in scenes."""
FEW_ALARMS = 0.01
"""One false alarm per 100 face-free pictures: the operating point at which recalls are compared."""
TILE = 128


@dataclass(frozen=True)
class Row:
    """One detector on one kind of picture.

    Attributes:
        faces, pictures: how many there are.
        recall: share of the faces found at the detector's own threshold, IoU 0.5; NaN without faces.
        recall_few_alarms: the same at the score that leaves one false alarm per 100 face-free scenes; NaN where those
            are not in the same run.
        average_precision: AP50; NaN without faces.
        alarms_per_100: false alarms per 100 pictures at the detector's own threshold.
        landmark_error: mean distance over the eye distance; NaN where there are none.
    """

    kind: str
    detector: str
    pictures: int
    faces: int
    recall: float
    recall_few_alarms: float
    average_precision: float
    alarms_per_100: float
    landmark_error: float


@dataclass(frozen=True)
class Contender:
    """A detector, opened so that it gives even hesitant finds, and the score that it would use by itself."""

    detector: FaceDetector
    score: float


def picture_sets(held: HeldOut, teacher: Teacher, composite_count: int) -> dict[str, list[TestPicture]]:
    """Every kind of test picture by name, in the order of the table."""
    sets = {SCENES: scene_pictures(held, teacher), EMPTY: empty_scenes(held)}
    sets |= {name: padded_faces(held, border) for border, name in PADDED.items()}
    sets |= {f"composites, {condition.name}": composites(held, condition, composite_count) for condition in CONDITIONS}
    return sets


def compare_detectors(
    contenders: Mapping[str, Contender],
    sets: Mapping[str, Sequence[TestPicture]],
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Row], dict[tuple[str, str], list[Faces]]]:
    """Run every detector over every picture.

    Returns:
        the rows, and by (kind, detector) what was found in each picture.
    """
    found: dict[tuple[str, str], list[Faces]] = {}
    matched: dict[tuple[str, str], list[Matched]] = {}
    for kind, pictures in sets.items():
        for i, picture in enumerate(pictures):
            truth = Truth(picture.boxes_xyxy, picture.landmarks, picture.ignore)
            for name, contender in contenders.items():
                faces = contender.detector.detect(picture.image_bgr)
                found.setdefault((kind, name), []).append(faces)
                matched.setdefault((kind, name), []).append(match(faces, truth))
            if progress is not None:
                progress(kind, i + 1, len(pictures))
    rows = []
    for (kind, name), results in matched.items():
        own = contenders[name].score
        few = score_for_alarms(matched[EMPTY, name], FEW_ALARMS) if (EMPTY, name) in matched else math.nan
        at_own = [_from(m, own) for m in results]
        rows.append(
            Row(
                kind=kind,
                detector=name,
                pictures=len(results),
                faces=sum(m.faces for m in results),
                recall=recall(results, own),
                recall_few_alarms=math.nan if math.isnan(few) else recall(results, few),
                average_precision=average_precision(results),
                alarms_per_100=100 * false_alarms(results, own) / max(1, len(results)),
                landmark_error=mean_landmark_error(at_own),
            )
        )
    return rows, found


def _from(matched: Matched, score: float) -> Matched:
    """The detections from a score up; landmark errors belong to hits, in order."""
    keep = matched.scores >= score
    hits = matched.hit >= 0
    errors = matched.landmark_error
    if len(errors):
        errors = errors[keep[hits]]
    return Matched(matched.scores[keep], matched.hit[keep], matched.index[keep], matched.faces, errors)


def rows_as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Rows with NaN as ``None``: JSON has no NaN."""
    return [
        {k: (None if isinstance(v, float) and math.isnan(v) else v) for k, v in asdict(row).items()} for row in rows
    ]


def draw_mistakes(
    path: Path, pictures: Sequence[TestPicture], found: Sequence[Faces], score: float, limit: int = 48
) -> tuple[int, int]:
    """Write a PNG of the misses (green: the face that was not found) and the false alarms (red), a tile each.

    Returns:
        how many misses and false alarms there are; the picture shows at most ``limit`` of each.
    """
    misses, alarms = [], []
    for picture, faces in zip(pictures, found, strict=True):
        keep = faces.scores >= score
        sure = Faces(
            faces.boxes_xyxy[keep], faces.scores[keep], None if faces.landmarks is None else faces.landmarks[keep]
        )
        result = match(sure, Truth(picture.boxes_xyxy, picture.landmarks, picture.ignore))
        hit = set(result.hit[result.hit >= 0].tolist())
        misses += [
            (picture, picture.boxes_xyxy[i], (0, 200, 0)) for i in np.flatnonzero(~picture.ignore) if int(i) not in hit
        ]
        alarms += [(picture, sure.boxes_xyxy[i], (0, 0, 220)) for i in result.index[result.hit < 0]]
    tiles = [_tile(*item) for item in (*misses[:limit], *alarms[:limit])]
    if not tiles:
        tiles = [np.full((TILE, TILE, 3), 255, np.uint8)]
    columns = 12
    tiles += [np.full((TILE, TILE, 3), 255, np.uint8)] * (-len(tiles) % columns)
    sheet = np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])
    _, raw = cv2.imencode(".png", sheet)
    with atomic_file(path) as temporary:
        temporary.write_bytes(raw.tobytes())
    return len(misses), len(alarms)


def _tile(picture: TestPicture, box: NDArray[np.float32], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The surroundings of a box, with the box drawn."""
    side = float(max(box[2] - box[0], box[3] - box[1], 8.0))
    centre = (box[:2] + box[2:]) / 2
    border = int(2 * side) + 2
    wide = cv2.copyMakeBorder(picture.image_bgr, border, border, border, border, cv2.BORDER_CONSTANT)
    x0, y0 = (int(v) for v in np.clip(centre - side + border, 0, None))
    x1, y1 = min(wide.shape[1], x0 + int(2 * side)), min(wide.shape[0], y0 + int(2 * side))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return np.zeros((TILE, TILE, 3), np.uint8)
    tile = np.ascontiguousarray(cv2.resize(wide[y0:y1, x0:x1], (TILE - 4, TILE - 4)))
    factor = (TILE - 4) / (2 * side)
    corners = [
        (round(float(x + border - x0) * factor), round(float(y + border - y0) * factor)) for x, y in (box[:2], box[2:])
    ]
    cv2.rectangle(tile, corners[0], corners[1], colour, 2)
    return np.asarray(cv2.copyMakeBorder(tile, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)), np.uint8)
