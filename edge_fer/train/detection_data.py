"""What a detector is trained on: the labelled pictures of a folder, without the held-out part, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2

from edge_fer.data.detection.compose import Picture
from edge_fer.data.detection.folder import PictureList, list_pictures, read_bgr, to_gray
from edge_fer.data.detection.labels import Teacher, label_all, label_crop, label_scene, shows_a_face, typical_box
from edge_fer.data.detection.reviewed import reviewed
from edge_fer.train.detection_recipe import DetectionRecipe

SMALL = "small-faces"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DetectionData:
    """Labelled pictures outside the held-out part."""

    scenes: tuple[Picture, ...]
    faces: tuple[Picture, ...]
    small_faces: tuple[Picture, ...]


def load_detection_data(
    data: Path, small_faces: Path | None, teacher: Teacher, recipe: DetectionRecipe, cache: Path, progress: Progress
) -> DetectionData:
    """Label ``data/scenes``, ``data/faces`` and crops of low resolution, or read the labels left in ``cache``.

    Raises:
        BadInputError: a folder holds no picture, or a picture cannot be decoded.
    """
    # Composites are drawn by forked processes, and a fork inherits OpenCV's pool of threads without the threads: its
    # first parallel call in the child then waits for ever. A pool that was never started cannot be inherited.
    cv2.setNumThreads(0)

    def labelled(kind: str, pictures: PictureList) -> tuple[Picture, ...]:
        label = label_scene if kind == "scenes" else label_crop
        rest, _ = pictures.split(recipe.holdout_fraction, recipe.holdout_salt)
        labels = label_all(
            teacher, rest, label, cache / f"{kind}.npz", lambda done, total: progress(f"Labelling {kind}", done, total)
        )
        if kind == SMALL and recipe.small_faces_certain:
            typical = typical_box(labels)
            labels = [shows_a_face(item, typical) for item in labels]
        return tuple(
            Picture(to_gray(read_bgr(path)), reviewed(path.name, found))
            for path, found in zip(rest.paths, labels, strict=True)
        )

    small: tuple[Picture, ...] = ()
    if small_faces is not None and recipe.small_faces:
        every = list_pictures(small_faces).paths
        # Spread over the classes of a dataset whatever its order: by the hash of the name.
        chosen = sorted(every, key=lambda path: hashlib.sha256(path.name.encode()).digest())[: recipe.small_faces]
        small = labelled(SMALL, PictureList(tuple(chosen)))
    return DetectionData(
        labelled("scenes", list_pictures(data / "scenes")), labelled("faces", list_pictures(data / "faces")), small
    )
