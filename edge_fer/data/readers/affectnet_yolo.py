"""AffectNet in YOLO format, as it goes round on Kaggle, and any other set of faces in that format::

    data.yaml                        names: [Anger, Contempt, Disgust, Fear, Happy, Neutral, Sad, Surprise]
    train/images/ffhq_0.png          (or images/train/ffhq_0.png)
    train/labels/ffhq_0.txt          5 0.506030 0.508342 0.987940 0.983316

A label line is a class index and the face's centre, width and height in fractions of the picture. Where a picture's
label file lies follows Ultralytics' rule: the last ``images`` of its path becomes ``labels``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

import yaml

from edge_fer.core.errors import BadInputError
from edge_fer.data.class_folders import IMAGE_SUFFIXES
from edge_fer.data.readers.base import DatasetReader, FacesBy, Reading, Record, read_lines

NO_BOX = "picture without a label line"


class AffectNetYoloReader(DatasetReader):
    """One record per labelled face; a picture with several gives ids that end in ``#1``, ``#2``, ..."""

    faces: ClassVar[FacesBy] = "given"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        root = _root(path)
        return root is not None and bool(_image_folders(root))

    def read(self, path: Path) -> Reading:
        root = _root(path)
        if root is None:
            raise BadInputError(f"{path} is not in YOLO format: it has no data.yaml.")
        names = _names(root / "data.yaml")
        records: list[Record] = []
        passed_over: Counter[str] = Counter()
        for split, images in _image_folders(root).items():
            for file in sorted(images.rglob("*")):
                if file.suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                found = _faces(_label_file(root, file), names)
                if not found:
                    passed_over[NO_BOX] += 1
                name = file.relative_to(images).as_posix()
                for number, (label, box) in enumerate(found, start=1):
                    id_ = name if len(found) == 1 else f"{name}#{number}"
                    records.append(Record(id=id_, label=label, split=split, picture=file, box=box))
        return Reading(tuple(records), str(path), passed_over)


def _root(path: Path) -> Path | None:
    """The folder with ``data.yaml``: ``path``, or the one folder in it, because archives unpack into their own."""
    for candidate in (path, path / "YOLO_format"):
        if (candidate / "data.yaml").is_file():
            return candidate
    return None


def _image_folders(root: Path) -> dict[str, Path]:
    """Split -> folder of pictures: ``<split>/images`` or ``images/<split>``; ``images`` alone is the split ``""``."""
    found = {child.name: child / "images" for child in sorted(root.iterdir()) if (child / "images").is_dir()}
    if found or not (root / "images").is_dir():
        return found
    splits = [child for child in sorted((root / "images").iterdir()) if child.is_dir()]
    return {child.name: child for child in splits} if splits else {"": root / "images"}


def _label_file(root: Path, image: Path) -> Path:
    parts = list(image.relative_to(root).parts)
    last = len(parts) - 1 - parts[::-1].index("images")
    parts[last] = "labels"
    return root.joinpath(*parts).with_suffix(".txt")


def _names(file: Path) -> dict[int, str]:
    """Class names by index, from a list or (Ultralytics' newer form) a mapping."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInputError(f"Cannot read {file}: {str(error).splitlines()[0]}.") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(key, int) for key in names):
        raise BadInputError(f"{file} does not name the classes (names: [Anger, ...]).")
    return {key: str(value) for key, value in names.items()}


def _faces(file: Path, names: dict[int, str]) -> list[tuple[str, tuple[float, float, float, float]]]:
    """(class name, box as fractions) of every line; none when there is no label file, which YOLO calls background."""
    if not file.is_file():
        return []
    found = []
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        try:
            index, (x, y, width, height) = int(line.split()[0]), map(float, line.split()[1:])
        except ValueError:
            raise BadInputError(f"{file}, line {number}: not a class and a box (class x y width height).") from None
        if index not in names:
            raise BadInputError(f"{file}, line {number}: class {index} has no name in data.yaml.")
        inside = 0 <= x <= 1 and 0 <= y <= 1 and 0 < width <= 1 and 0 < height <= 1
        if not inside:
            raise BadInputError(f"{file}, line {number}: the box is not in fractions of the picture.")
        box = (max(0.0, x - width / 2), max(0.0, y - height / 2), min(1.0, x + width / 2), min(1.0, y + height / 2))
        found.append((names[index], box))
    return found
