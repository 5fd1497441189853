"""Pictures: one file, a folder, or a glob, in the order of their names."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from edge_fer.core.errors import SourceError
from edge_fer.runtime.frames import Frame, SourceInfo

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp", ".tif", ".tiff"})


class Images:
    """Each picture is one frame; sizes may differ. ``time_ms`` counts one second a picture."""

    def __init__(self, paths: list[Path], description: str) -> None:
        if not paths:
            raise SourceError(
                f"{description} holds no pictures.", fix=f"Pictures end in {', '.join(sorted(SUFFIXES))}."
            )
        self._paths = paths
        self._next = 0
        height, width = self._load(paths[0]).shape[:2]
        self._info = SourceInfo(description, width, height, 0.0, live=False, frames=len(paths), continuous=False)

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def dropped(self) -> int:
        return 0

    def _load(self, path: Path) -> np.ndarray:
        try:
            data = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise SourceError(f"Cannot read {path}: {error.strerror}.") from None
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if image is None:
            raise SourceError(f"{path} is not a picture that OpenCV can decode.")
        return np.asarray(image, dtype=np.uint8)

    def read(self, timeout_s: float) -> Frame | None:
        if self._next == len(self._paths):
            return None
        frame = Frame(self._load(self._paths[self._next]))
        frame.index, frame.time_ms, frame.captured_ns = self._next, 1000.0 * self._next, time.perf_counter_ns()
        self._next += 1
        return frame

    def interrupt(self) -> None:
        self._next = len(self._paths)

    def close(self) -> None:
        self._next = len(self._paths)


def find_images(where: Path) -> list[Path]:
    """Pictures directly in a folder, sorted by name."""
    return sorted(path for path in where.iterdir() if path.suffix.lower() in SUFFIXES)
