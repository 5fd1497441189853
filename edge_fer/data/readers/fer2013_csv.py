"""FER-2013 as the ICML 2013 challenge published it, all of its splits at once."""

from __future__ import annotations

from pathlib import Path

from edge_fer.data.icml_csv import ICML_ORDER, find_icml_csv, iterate_rows, pixels_of
from edge_fer.data.readers.base import DatasetReader, Reading, Record


class Fer2013CsvReader(DatasetReader):
    """``fer2013.csv`` (emotion,pixels,Usage), or a folder that holds it. Ids are ``<Usage>_<row>``."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return len(find_icml_csv(path)) == 1

    def read(self, path: Path) -> Reading:
        table = (find_icml_csv(path) or [path])[0]
        records = [
            Record(
                id=f"{usage}_{line - 2}",
                label=ICML_ORDER[emotion],
                split=usage,
                picture=pixels_of(table, line, text),
            )
            for line, emotion, text, usage in iterate_rows(table)
        ]
        return Reading(tuple(records), str(table))
