"""``log.csv``: what became of every epoch, a row each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edge_fer.core.files import atomic_file

if TYPE_CHECKING:
    from edge_fer.train.detection_loop import DetectionEpochLog
    from edge_fer.train.loop import EpochLog


def write_log(path: Path, rows: Sequence[EpochLog] | Sequence[DetectionEpochLog]) -> None:
    """Write the rows, one at least, under the names of their fields; the file is replaced in one step."""
    table = [{key: round(v, 6) if isinstance(v, float) else v for key, v in asdict(row).items()} for row in rows]
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
