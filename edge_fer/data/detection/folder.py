"""A folder of ``scenes/`` and ``faces/``: photographs of anything, and crops that each show one face."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError
from edge_fer.runtime.picture_files import read_picture

HOLDOUT_FRACTION, HOLDOUT_SALT = 0.1, "edge-fer-detector"
"""Which pictures the shipped detector never saw: recipes and evaluation must agree."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
Gray = NDArray[np.uint8]
"""Decoded pixels (H, W), 0..255. Detection works on grey: most face crops are grey, and a network that saw grey faces
pasted into coloured scenes would learn to look for missing colour."""


@dataclass(frozen=True)
class PictureList:
    """Paths of pictures; ``ids`` are their names, which decide on which side of the split each lies."""

    paths: tuple[Path, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(path.name for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def split(self, fraction: float, salt: str) -> tuple[PictureList, PictureList]:
        """(rest, held out): a picture is held out when the hash of ``salt`` and its name falls below ``fraction``."""
        limit = int(fraction * 2**64)
        held = [
            int.from_bytes(hashlib.sha256(f"{salt}:{path.name}".encode()).digest()[:8], "big") < limit
            for path in self.paths
        ]
        return (
            PictureList(tuple(p for p, out in zip(self.paths, held, strict=True) if not out)),
            PictureList(tuple(p for p, out in zip(self.paths, held, strict=True) if out)),
        )


def list_pictures(folder: Path) -> PictureList:
    """Every picture below ``folder``, sorted by name.

    Raises:
        BadInputError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise BadInputError(
            f"There is no picture in {folder}.",
            fix="A detector's data folder has scenes/ (photographs of anything) and faces/ (crops of one face each).",
        )
    return PictureList(tuple(found))


def read_bgr(path: Path) -> NDArray[np.uint8]:
    """uint8 (H, W, 3).

    Raises:
        BadInputError: it cannot be decoded.
    """
    return read_picture(path)


def to_gray(image_bgr: NDArray[np.uint8]) -> Gray:
    return np.asarray(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
