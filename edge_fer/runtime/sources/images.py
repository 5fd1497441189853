"""Pictures: one file, a folder, or a glob, in the order of their names."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError, SourceError
from edge_fer.runtime.frames import Frame, SourceInfo
from edge_fer.runtime.picture_files import read_picture

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp", ".tif", ".tiff"})


PACE_S = 1.0
LAST_S = 3.0
"""How long a picture is shown where people look on; the last one longer."""
NAMED = 5
"""So many of the pictures that could not be decoded are named in a summary; each was told when it was met."""


class Images:
    """Each picture is one frame; sizes may differ. ``time_ms`` counts one second a picture.

    A picture among others that cannot be read is told and passed over.

    Args:
        paced: hand them out one a second, for showing to people.

    Attributes:
        unreadable: names of the pictures that were passed over so far.
    """

    def __init__(self, paths: list[Path], description: str, *, paced: bool = False) -> None:
        if not paths:
            raise SourceError(
                f"{description} holds no pictures.", fix=f"Pictures end in {', '.join(sorted(SUFFIXES))}."
            )
        self._paths, self._pace_s = paths, PACE_S if paced else 0.0
        self._next, self._due = 0, 0.0
        self.dropped, self.waiting = 0, False
        self.unreadable: list[str] = []
        self.on_state: Callable[[str], None] = lambda _state: None
        self._told = False
        height, width = self._first_of(paths).shape[:2]
        self._info = SourceInfo(description, width, height, 0.0, live=False, frames=len(paths), continuous=False)

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def unread(self) -> int:
        """Pictures that were passed over so far."""
        return len(self.unreadable)

    @property
    def loss(self) -> str:
        """A sentence about the pictures that were passed over; empty when none was."""
        if not self.unreadable:
            return ""
        more = self.unread - NAMED
        named = ", ".join(self.unreadable[:NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"{self.unread} of {len(self._paths)} pictures could not be decoded: {named}."

    def _first_of(self, paths: list[Path]) -> NDArray[np.uint8]:
        """The first picture that can be read; when none can, the first one's error."""
        errors: list[BadInputError] = []
        for path in paths:
            try:
                return read_picture(path)
            except BadInputError as error:
                errors.append(error)
        raise SourceError(errors[0].message)

    def read(self, timeout_s: float) -> Frame | None:
        self._wait()
        while self._next < len(self._paths):
            index = self._next
            self._next += 1
            try:
                image = read_picture(self._paths[index])
            except BadInputError as error:
                self.unreadable.append(self._paths[index].name)
                self._told = True
                self.on_state(f"{error.message.rstrip('.')}; passed over")
                continue
            if self._told:
                self._told = False
                self.on_state("")
            frame = Frame(image)
            frame.index, frame.time_ms, frame.captured_ns = index, 1000.0 * index, time.perf_counter_ns()
            if self._pace_s:
                self._due = time.perf_counter() + (self._pace_s if self._next < len(self._paths) else LAST_S)
            return frame
        return None

    def _wait(self) -> None:
        """Until the picture before has been seen long enough, or the end is asked for."""
        while (left := self._due - time.perf_counter()) > 0:
            time.sleep(min(left, 0.05))

    def interrupt(self) -> None:
        self._next, self._due = len(self._paths), 0.0

    def close(self) -> None:
        self.interrupt()


def find_images(where: Path) -> list[Path]:
    """Pictures directly in a folder, sorted by name."""
    return sorted(path for path in where.iterdir() if path.suffix.lower() in SUFFIXES)
