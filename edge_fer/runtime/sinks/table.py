"""A CSV row per face and frame."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sinks.text_file import TextFile

FIXED = ("frame", "time_ms", "age_ms", "track", "left", "top", "right", "bottom", "label", "uncertain")


class CsvSink:
    lossless, needs_picture = True, False

    def __init__(self, path: Path, labels: tuple[str, ...]) -> None:
        self.name = f"csv {path}"
        self._file = TextFile(path)
        self._header = self._row([*FIXED, *(f"score_{label}" for label in labels)])

    @staticmethod
    def _row(values: list[object] | list[str]) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        return line.getvalue()

    def _begin(self) -> None:
        self._file.write(self._header)
        self._header = ""

    def write(self, result: FrameResult) -> None:
        frame = result.frame
        self._begin()
        for face in result.faces:
            values: list[object] = [frame.index, round(frame.time_ms, 3), round(result.age_ms, 3), face.track]
            values += [round(value, 1) for value in face.box_xyxy]
            values += [face.label, int(face.uncertain), *(round(float(score), 4) for score in face.scores)]
            self._file.write(self._row(values))

    def close(self, *, complete: bool) -> None:
        if complete:
            self._begin()
        self._file.close()
