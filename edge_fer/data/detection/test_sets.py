"""The pictures that detectors are compared on: scenes and faces that no training saw, plain and under conditions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.data.detection.compose import ComposeSpec, Compositor, Picture
from edge_fer.data.detection.folder import PictureList, list_pictures, read_bgr, to_gray
from edge_fer.data.detection.labels import (
    SURE,
    UNSURE,
    FaceLabels,
    Teacher,
    label_all,
    label_crop,
    label_scene,
    shows_a_face,
    typical_box,
)

CANVAS = 320
FACE_ON_CANVAS = 192
SMALLEST_SCENE_FACE = 40.0
TEACHER_SCORE = 0.6
"""What counts as the teacher's face: found in the picture as it is, mirrored or not, with this mean score."""


NOT_PEOPLE = frozenset({"7af077edda11", "60c1004283e0", "029020c7c8ca", "3b1d97243665", "860bbdcd4248", "dddb71a50bda"})
"""Held-out scenes in which what the teacher takes for a face is a dog (three), an ape, a pig or a pair of shoes: the
first digits of their names' SHA-256. All twelve finds of the teacher were looked at; these six are ignored."""


@dataclass(frozen=True)
class TestPicture:
    """A picture with the faces that are to be found in it; ``ignore`` marks what is neither face nor background."""

    name: str
    image_bgr: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    ignore: NDArray[np.bool_]


@dataclass(frozen=True)
class Condition:
    """A way to make composites harder, one at a time; the faces, scenes and places are the same for all conditions."""

    name: str
    rotate_deg: float = 0.0
    light: float = 1.0
    blur_sigma: float = 0.0
    cover_mouth: bool = False
    face_px: tuple[float, float] = (48.0, 120.0)


CONDITIONS = (
    Condition("upright, 48-120 px"),
    Condition("turned by 15 degrees", rotate_deg=15),
    Condition("turned by 30 degrees", rotate_deg=30),
    Condition("a quarter of the light", light=0.25),
    Condition("blurred (sigma 2)", blur_sigma=2.0),
    Condition("lower face covered", cover_mouth=True),
    Condition("16 px", face_px=(15.0, 17.0)),
    Condition("24 px", face_px=(22.0, 26.0)),
    Condition("40 px", face_px=(37.0, 43.0)),
    Condition("160 px", face_px=(150.0, 170.0)),
)


@dataclass(frozen=True)
class HeldOut:
    """Labelled pictures of the held-out part."""

    scenes: tuple[tuple[Path, FaceLabels], ...]
    faces: tuple[tuple[Path, FaceLabels], ...]


def held_out(
    data: Path,
    teacher: Teacher,
    cache: Path,
    *,
    fraction: float,
    salt: str,
    progress: Callable[[int, int], None] | None = None,
) -> HeldOut:
    """Label the held-out scenes and faces of a folder, or read the labels that an earlier call left in ``cache``."""

    def labelled(
        kind: str, label: Callable[[Teacher, NDArray[np.uint8]], FaceLabels]
    ) -> tuple[tuple[Path, FaceLabels], ...]:
        _, held = list_pictures(data / kind).split(fraction, salt)
        labels = label_all(teacher, PictureList(held.paths), label, cache / f"{kind}-held-out.npz", progress)
        return tuple(zip(held.paths, labels, strict=True))

    return HeldOut(labelled("scenes", label_scene), labelled("faces", label_crop))


def scene_pictures(held: HeldOut, teacher: Teacher) -> list[TestPicture]:
    """Held-out scenes with the people's faces that the teacher finds in them as they are, of 40 pixels and more.

    Smaller and unsure finds are ignored. The labels of several views decide nothing here: the question is whether a
    detector finds what the teacher finds.
    """
    pictures = []
    for path, labels in held.scenes:
        image = read_bgr(path)
        plain = teacher.label(image, scales=(1.0,))
        sides = _sides(plain.boxes_xyxy)
        people = hashlib.sha256(path.name.encode()).hexdigest()[:12] not in NOT_PEOPLE
        wanted = (plain.scores >= TEACHER_SCORE) & (sides >= SMALLEST_SCENE_FACE) & people
        # What any view shows of a face, and is not already wanted, is left out of the count.
        doubtful = labels.scores >= UNSURE
        boxes = np.concatenate([plain.boxes_xyxy, labels.boxes_xyxy[doubtful]])
        points = np.concatenate([plain.landmarks, labels.landmarks[doubtful]])
        ignore = np.concatenate([~wanted, np.ones(int(doubtful.sum()), np.bool_)])
        pictures.append(TestPicture(path.name, image, boxes, points, ignore))
    return pictures


def empty_scenes(held: HeldOut) -> list[TestPicture]:
    """Held-out scenes in which no view shows the teacher anything like a face."""
    nothing = (np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.bool_))
    return [
        TestPicture(path.name, read_bgr(path), *nothing)
        for path, labels in held.scenes
        if not (labels.scores >= UNSURE).any()
    ]


def padded_faces(held: HeldOut, border: str) -> list[TestPicture]:
    """Held-out crops of 192 pixels in the middle of a 320x320 canvas; the border is ``gray`` or ``replicated``."""
    pictures = []
    for path, labels in held.faces:
        crop = read_bgr(path)
        factor = FACE_ON_CANVAS / max(crop.shape[:2])
        size = (round(crop.shape[1] * factor), round(crop.shape[0] * factor))
        crop = np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        left, top = (CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2
        sides = (top, CANVAS - size[1] - top, left, CANVAS - size[0] - left)
        if border == "gray":
            canvas = cv2.copyMakeBorder(crop, *sides, cv2.BORDER_CONSTANT, value=(128, 128, 128))
        else:
            canvas = cv2.copyMakeBorder(crop, *sides, cv2.BORDER_REPLICATE)
        origin = np.array([left, top], np.float32)
        sure = labels.scores >= SURE
        if not sure.any():
            continue
        boxes = labels.boxes_xyxy * factor + np.tile(origin, 2)
        # The crop's own face is wanted; a neighbour cut by the crop's edge is not.
        ignore = np.arange(len(labels)) != labels.scores.argmax()
        pictures.append(
            TestPicture(path.name, np.asarray(canvas, np.uint8), boxes, labels.landmarks * factor + origin, ignore)
        )
    return pictures


def expression_faces(
    crops: Path, teacher: Teacher, cache: Path, progress: Callable[[int, int], None] | None = None
) -> list[TestPicture]:
    """Every crop of a folder of low-resolution faces, as FER-2013's, amid a canvas with its border repeated.

    Each shows a face, whatever the teacher says; its hesitant finds only say where (:func:`shows_a_face`). So screams,
    tears and hands before the face count, which a truth made of a detector's sure finds leaves out.
    """
    pictures = list_pictures(crops)
    labels = label_all(teacher, pictures, label_crop, cache / "expressions.npz", progress)
    typical = typical_box(labels)
    faces = ((path, shows_a_face(found, typical)) for path, found in zip(pictures.paths, labels, strict=True))
    return padded_faces(HeldOut((), tuple(faces)), "replicated")


def composites(held: HeldOut, condition: Condition, count: int, seed: int = 5) -> list[TestPicture]:
    """``count`` composites of held-out faces in held-out scenes, one face each, all alike but for the condition."""
    scenes = [Picture(to_gray(read_bgr(path)), labels) for path, labels in held.scenes]
    scenes = [scene for scene in scenes if not (scene.labels.scores >= UNSURE).any()]
    faces = [Picture(to_gray(read_bgr(path)), labels) for path, labels in held.faces]
    spec = ComposeSpec(
        size=CANVAS,
        face_px=condition.face_px,
        small_crops_share=0.0,
        faces_probability=(0.0, 1.0),
        rotate_deg=0.0,
        wild_rotation=0.0,
        occlude=0.0,
        distract=0.0,
        plain_background=0.0,
        dark=0.0,
        blur=0.0,
        noise=0.0,
        compress=0.0,
    )
    compositor = Compositor(scenes, faces, [], spec)
    pictures: list[TestPicture] = []
    number = 0
    while len(pictures) < count:
        rng = np.random.default_rng((seed, number))
        sign = 1.0 if number % 2 else -1.0
        composite = compositor.draw_one(rng, degrees=sign * condition.rotate_deg, cover_mouth=condition.cover_mouth)
        number += 1
        if composite is None:
            continue
        gray = composite.gray
        if condition.blur_sigma:
            gray = np.asarray(cv2.GaussianBlur(gray, (0, 0), condition.blur_sigma), dtype=np.uint8)
        if condition.light != 1.0:
            gray = (gray * condition.light).astype(np.uint8)
        pictures.append(
            TestPicture(
                f"{condition.name} {number}",
                np.asarray(cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR), dtype=np.uint8),
                composite.boxes_xyxy,
                composite.landmarks,
                composite.ignore,
            )
        )
    return pictures


def _sides(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    size = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    return np.asarray(np.sqrt(size.prod(axis=1)), dtype=np.float32)
