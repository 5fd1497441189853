"""A line of JSON per frame."""

from __future__ import annotations

import json
from pathlib import Path

from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sinks.text_file import TextFile


def as_record(result: FrameResult) -> dict[str, object]:
    """``frame``, ``time_ms``, ``age_ms``, ``faces`` (``track``, ``box_xyxy``, ``label``, ``uncertain``, ``scores``)."""
    return {
        "frame": result.frame.index,
        "time_ms": round(result.frame.time_ms, 3),
        "age_ms": round(result.age_ms, 3),
        "faces": [
            {
                "track": face.track,
                "box_xyxy": [round(value, 1) for value in face.box_xyxy],
                "label": face.label,
                "uncertain": face.uncertain,
                "scores": {
                    name: round(float(score), 4) for name, score in zip(result.labels, face.scores, strict=True)
                },
            }
            for face in result.faces
        ],
    }


class JsonlSink:
    lossless, needs_picture = True, False

    def __init__(self, path: Path) -> None:
        self.name = f"jsonl {path}"
        self._file = TextFile(path)

    def write(self, result: FrameResult) -> None:
        self._file.write(json.dumps(as_record(result)) + "\n")

    def close(self, *, complete: bool) -> None:
        if complete:
            self._file.write("")  # a run without frames is an empty file, not a missing one
        self._file.close()
