"""What every dataset is read into before anything is decided about it: its own names, its own splits, no pixels yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from edge_fer.core.errors import BadInputError
from edge_fer.core.spec import Frozen
from edge_fer.data.class_folders import read_image
from edge_fer.data.samples import Image

FacesBy = Literal["whole", "given", "detect"]
"""Where the face is: the whole picture, the box that the dataset gives, or wherever a detector finds it."""


@dataclass(frozen=True)
class Record:
    """One labelled picture as the dataset describes it. Everything in it can be sent to another process.

    Attributes:
        id: unique in its split, the same on every machine; the one that ``open_dataset`` gives where it reads the same.
        label: the class in the dataset's own word.
        split: the dataset's own split, ``""`` when it has none.
        picture: the file, or the pixels themselves where one file holds many, (H, W) uint8.
        subject: who is shown, where the dataset tells; the same person has the same name in every series.
        box: left, top, right, bottom of the face in fractions of the picture, where the dataset gives it.
    """

    id: str
    label: str
    split: str
    picture: Path | Image
    subject: str | None = None
    box: tuple[float, float, float, float] | None = None

    def read(self) -> Image:
        """Decode: (H, W) grey or (H, W, 3) BGR uint8.

        Raises:
            BadInputError: the file is missing or not an image.
        """
        return read_image(self.picture) if isinstance(self.picture, Path) else self.picture

    def read_box(self) -> Image:
        """The part inside ``box``, at least one pixel; the whole picture where there is none."""
        image = self.read()
        if self.box is None:
            return image
        x1, y1, x2, y2 = box_pixels(self.box, image)
        return image[y1:y2, x1:x2]


@dataclass(frozen=True)
class Reading:
    """All records of a dataset, and what its reader passed over by the dataset's own rules (reason -> how many)."""

    records: tuple[Record, ...]
    source: str
    passed_over: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if not self.records:
            left = "; ".join(f"{reason}: {count}" for reason, count in self.passed_over.items())
            raise BadInputError(f"No labelled picture found in {self.source}{f' ({left})' if left else ''}.")

    def splits(self) -> tuple[str, ...]:
        """The dataset's own splits in the order in which they appear."""
        return tuple(dict.fromkeys(record.split for record in self.records))


class DatasetReader(Frozen, ABC):
    """A dataset's layout. The fields of a subclass are its options; unknown ones are refused.

    ``faces`` says what its pictures show when nobody says otherwise.
    """

    faces: ClassVar[FacesBy] = "whole"

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether ``path`` has this layout; looks at names only and never raises."""

    @abstractmethod
    def read(self, path: Path) -> Reading:
        """List the pictures below ``path``.

        Raises:
            BadInputError: it is not this layout, a line of a label file is malformed, or nothing is labelled.
        """


def box_pixels(box: tuple[float, float, float, float], image: Image) -> tuple[int, int, int, int]:
    """A box in fractions as whole pixels (left, top, right, bottom) inside the picture, at least one pixel large."""
    height, width = image.shape[:2]
    x1, x2 = (int(np.clip(round(value * width), 0, width)) for value in (box[0], box[2]))
    y1, y2 = (int(np.clip(round(value * height), 0, height)) for value in (box[1], box[3]))
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def read_lines(path: Path) -> list[str]:
    """Lines of a text file without their ends.

    Raises:
        BadInputError: it cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise BadInputError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise BadInputError(f"{path} is not a text file.") from None
