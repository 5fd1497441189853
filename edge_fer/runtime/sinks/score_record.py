"""The smoothed scores of every face over time, in fixed memory, for drawing them when the run is over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_fer.runtime.results import FrameResult

CAPACITY = 1 << 16
"""Rows kept: 36 minutes of one face at 30 frames a second, and every second, fourth, … frame of what is longer."""


class ScoreRecord:
    """Keeps a row per face of every ``stride``-th frame.

    When the memory is full every second recorded frame is given up and ``stride`` doubles: an hour or a day fits, and
    is evenly spaced.
    """

    name, lossless, needs_picture = "score record", True, False

    def __init__(self, classes: int, *, capacity: int = CAPACITY) -> None:
        self.stride = 1
        self._frame = np.empty(capacity, np.int64)
        self._time_ms = np.empty(capacity, np.float64)
        self._track = np.empty(capacity, np.int64)
        self._scores = np.empty((capacity, classes), np.float32)
        self._shown = np.empty(capacity, np.int16)
        self._rows = self._seen = 0

    def write(self, result: FrameResult) -> None:
        number = self._seen
        self._seen += 1
        if number % self.stride:
            return
        while self._rows and self._rows + len(result.faces) > len(self._frame):
            self._thin()
            if number % self.stride:
                return
        for row, face in enumerate(result.faces[: len(self._frame)], self._rows):
            self._frame[row], self._time_ms[row], self._track[row] = number, result.frame.time_ms, face.track
            self._scores[row] = face.scores
            self._shown[row] = result.labels.index(face.label)
        self._rows += min(len(result.faces), len(self._frame))

    def _thin(self) -> None:
        self.stride *= 2
        kept = np.flatnonzero(self._frame[: self._rows] % self.stride == 0)
        for values in (self._frame, self._time_ms, self._track, self._scores, self._shown):
            values[: len(kept)] = values[kept]
        self._rows = len(kept)

    def close(self, *, complete: bool) -> None:
        pass

    def tracks(self) -> list[int]:
        """Numbers of the recorded faces, the one that was seen longest first."""
        numbers, counts = np.unique(self._track[: self._rows], return_counts=True)
        return [int(number) for number in numbers[np.argsort(-counts, kind="stable")]]

    def of(self, track: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Times in ms (n,) and smoothed scores (n, classes) of a face.

        A row of NaN stands where the face was away for a recorded frame or more, so that no line is drawn across.
        """
        rows, gaps = self._rows_of(track)
        return (
            np.insert(self._time_ms[rows], gaps, np.nan),
            np.insert(self._scores[rows], gaps, np.nan, axis=0),
        )

    def shown(self, track: int) -> NDArray[np.int16]:
        """The label that was shown in each row of :meth:`of`, as an index; -1 where that has NaN.

        Not always the leading score's: a label gives way only to one that is clearly ahead.
        """
        rows, gaps = self._rows_of(track)
        return np.insert(self._shown[rows], gaps, -1)

    def _rows_of(self, track: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The rows of a face, and before which of them it was away."""
        rows = np.flatnonzero(self._track[: self._rows] == track)
        return rows, np.flatnonzero(np.diff(self._frame[rows]) > self.stride) + 1
