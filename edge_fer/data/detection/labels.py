"""A teacher's boxes and landmarks for unlabelled pictures.

The teacher sees every picture at several sizes and mirrored; what it finds again and again is a face, what it finds
once and hesitantly is neither a face to learn nor background to learn, so it is kept as *uncertain* and ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError
from edge_fer.core.faces import Faces, iou
from edge_fer.core.files import atomic_file, sha256_file
from edge_fer.data.detection.folder import PictureList, read_bgr

SURE, UNSURE, FLOOR = 0.75, 0.45, 0.21
"""Mean scores over the views: a face from ``SURE`` up, background below ``UNSURE`` (above it YuNet's finds are dogs and
masks as often as people), not even stored below ``FLOOR``."""
SAME = 0.45
"""IoU from which two views' boxes are the same face."""
MIRRORED = (1, 0, 2, 4, 3)
"""Landmark order of a mirrored picture: eyes and mouth corners change places."""
_VERSION = "1"


@dataclass(frozen=True)
class FaceLabels:
    """What the teacher says of one picture; ``scores`` are means over the views, 0..1. Landmarks that nobody knows are
    NaN."""

    boxes_xyxy: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)


class Teacher:
    """YuNet from a file, through OpenCV, over several views of each picture."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise BadInputError(
                f"There is no teacher model {path}.", fix="edge-fer fetch yunet gets one and says where it lies."
            )
        try:
            self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), FLOOR, 0.3, 500)
        except cv2.error as error:
            raise BadInputError(
                f"{path} is not a YuNet model that OpenCV can read: {error.err}.",
                fix="edge-fer fetch yunet gets one and says where it lies.",
            ) from None
        self.sha256 = sha256_file(path)

    def look(self, image_bgr: NDArray[np.uint8], scale: float = 1.0, mirrored: bool = False) -> Faces:
        """One view: boxes and landmarks in the pixels of ``image_bgr``."""
        height, width = image_bgr.shape[:2]
        view = image_bgr[:, ::-1] if mirrored else image_bgr
        if scale != 1.0:
            kind = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
            view = np.asarray(
                cv2.resize(view, (round(width * scale), round(height * scale)), interpolation=kind), dtype=np.uint8
            )
        view = np.ascontiguousarray(view)
        self._net.setInputSize((view.shape[1], view.shape[0]))
        found: NDArray[np.float32] | None = self._net.detect(view)[1]  # type: ignore[assignment]
        if found is None:
            return Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))
        boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], axis=1) / scale
        landmarks = found[:, 4:14].reshape(-1, 5, 2) / scale
        if mirrored:
            boxes = boxes[:, [2, 1, 0, 3]]
            boxes[:, [0, 2]] = width - boxes[:, [0, 2]]
            landmarks = landmarks[:, MIRRORED]
            landmarks[..., 0] = width - landmarks[..., 0]
        return Faces(boxes.astype(np.float32), found[:, 14].astype(np.float32), landmarks.astype(np.float32))

    def label(self, image_bgr: NDArray[np.uint8], scales: Sequence[float] = (0.6, 1.0, 1.7)) -> FaceLabels:
        """Merge the views: mean box, mean landmarks, and the mean score with zero for a view that missed the face.

        A face is not expected in views where it would be smaller than 14 pixels or larger than 400.
        """
        views = [(scale, self.look(image_bgr, scale, mirrored)) for scale in scales for mirrored in (False, True)]
        boxes = np.concatenate([view.boxes_xyxy for _, view in views])
        scores = np.concatenate([view.scores for _, view in views])
        landmarks = np.concatenate([np.asarray(view.landmarks) for _, view in views])
        left = list(np.argsort(-scores))
        merged: list[tuple[NDArray[np.float32], NDArray[np.float32], float]] = []
        while left:
            overlap = iou(boxes[left[:1]], boxes[left])[0]
            group = [index for index, same in zip(left, overlap, strict=True) if same >= SAME]
            left = [index for index in left if index not in set(group)]
            weight = scores[group] / scores[group].sum()
            box = (boxes[group] * weight[:, None]).sum(axis=0)
            side = float(np.sqrt(max(1.0, (box[2] - box[0]) * (box[3] - box[1]))))
            able = max(1, sum(14 <= side * scale <= 400 for scale, _ in views))
            score = min(1.0, float(np.sort(scores[group])[::-1][:able].sum()) / able)
            merged.append((box, (landmarks[group] * weight[:, None, None]).sum(axis=0), score))
        if not merged:
            return FaceLabels(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))
        result = FaceLabels(
            np.stack([m[0] for m in merged]).astype(np.float32),
            np.stack([m[1] for m in merged]).astype(np.float32),
            np.array([m[2] for m in merged], np.float32),
        )
        keep = result.scores >= FLOOR
        return FaceLabels(result.boxes_xyxy[keep], result.landmarks[keep], result.scores[keep])


PAD = 0.5
"""How much of a face crop's side is added around it, as blurred border, before the teacher looks: it was trained on
faces with surroundings."""


def padded(image_bgr: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], float, int]:
    """A tight crop resized to ``side``, bordered: (picture, factor, border); a point x becomes x * factor + border."""
    factor = side / max(image_bgr.shape[:2])
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    size = (round(image_bgr.shape[1] * factor), round(image_bgr.shape[0] * factor))
    small = cv2.resize(image_bgr, size, interpolation=kind)
    border = round(side * PAD)
    wide = cv2.copyMakeBorder(small, border, border, border, border, cv2.BORDER_REFLECT_101)
    soft = cv2.blur(wide, (2 * (side // 8) + 1, 2 * (side // 8) + 1))
    soft[border : border + size[1], border : border + size[0]] = small
    return np.asarray(soft, dtype=np.uint8), factor, border


def label_crop(teacher: Teacher, image_bgr: NDArray[np.uint8]) -> FaceLabels:
    """Labels of a tight face crop, in its own pixels."""
    wide, factor, border = padded(image_bgr, 160)
    found = teacher.label(wide, scales=(0.75, 1.0, 1.4))
    return FaceLabels((found.boxes_xyxy - border) / factor, (found.landmarks - border) / factor, found.scores)


def typical_box(labels: Sequence[FaceLabels]) -> NDArray[np.float32]:
    """Where the face of a crop usually lies, float32 (4,) in the crops' pixels: the median of the teacher's sure finds.

    Raises:
        BadInputError: the teacher is sure of none of them.
    """
    boxes = [item.boxes_xyxy[item.scores.argmax()] for item in labels if len(item) and item.scores.max() >= SURE]
    if not boxes:
        raise BadInputError(
            "The teacher finds no face in the crops of low resolution.", fix="--small-faces FER2013/train"
        )
    return np.asarray(np.median(boxes, axis=0), dtype=np.float32)


def shows_a_face(labels: FaceLabels, typical: NDArray[np.float32]) -> FaceLabels:
    """The labels of a crop that shows a face for certain, because its data set says so, whatever the teacher thinks.

    A teacher that has seen few screaming, crying and covered faces must not decide that they are none. What it is sure
    of stays. A hesitant find in about the right place is taken as sure; where there is none, the face is the
    ``typical`` box, float32 (4,), and its landmarks are NaN: unknown.
    """
    if len(labels) and labels.scores.max() >= SURE:
        return labels
    fits = (labels.scores >= FLOOR) & (iou(labels.boxes_xyxy, typical[None])[:, 0] >= SAME)
    if fits.any():
        best = int(np.where(fits, labels.scores, 0).argmax())
        box, points = labels.boxes_xyxy[best], labels.landmarks[best]
    else:
        box, points = typical, np.full((5, 2), np.nan, np.float32)
    return FaceLabels(box[None], points[None], np.array([SURE], np.float32))


def label_all(
    teacher: Teacher,
    pictures: PictureList,
    label: Callable[[Teacher, NDArray[np.uint8]], FaceLabels],
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> list[FaceLabels]:
    """Label every picture, or read what an earlier call with the same pictures and teacher left in ``cache``."""
    digest = hashlib.sha256(f"{_VERSION}:{teacher.sha256}:{label.__name__}".encode())
    for path in pictures.paths:
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
    key = digest.hexdigest()
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                ends = np.cumsum(stored["counts"])
                return [
                    FaceLabels(stored_boxes, stored_landmarks, stored_scores)
                    for stored_boxes, stored_landmarks, stored_scores in zip(
                        np.split(stored["boxes"], ends[:-1]),
                        np.split(stored["landmarks"], ends[:-1]),
                        np.split(stored["scores"], ends[:-1]),
                        strict=True,
                    )
                ]
    labels = []
    for i, path in enumerate(pictures.paths):
        labels.append(label(teacher, read_bgr(path)))
        if progress is not None:
            progress(i + 1, len(pictures))
    with atomic_file(cache) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            key=np.array(key),
            counts=np.array([len(item) for item in labels]),
            boxes=np.concatenate([item.boxes_xyxy for item in labels]),
            landmarks=np.concatenate([item.landmarks for item in labels]),
            scores=np.concatenate([item.scores for item in labels]),
        )
    return labels


def label_scene(teacher: Teacher, image_bgr: NDArray[np.uint8]) -> FaceLabels:
    """Labels of a whole photograph."""
    return teacher.label(image_bgr)
