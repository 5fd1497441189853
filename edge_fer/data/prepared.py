"""A prepared dataset on disk: ``<part>/<class>/*``, ``manifest.csv`` with a line per face, ``prepared.json``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from edge_fer.core.errors import BadInputError
from edge_fer.core.files import atomic_file, read_validated
from edge_fer.core.spec import Frozen
from edge_fer.data.prepare_recipe import PrepareRecipe

MANIFEST, SUMMARY, ANOMALIES, SHEET = "manifest.csv", "prepared.json", "anomalies.csv", "anomalies.png"


class ManifestRow(Frozen):
    """One face of a prepared dataset.

    Attributes:
        file: relative to the folder; ``sha256`` of its bytes.
        part: train, val or test; ``label``: one of the seven.
        source, source_id, source_split, source_label, subject: where it comes from, in the dataset's own words.
        group: faces with the same group belong together (one person, or one picture) and lie in one part; ``""``: it
            belongs to none.
        dhash: difference hash of the face, 16 hexadecimal digits.
        method: ``eyes`` (turned until they are level), ``upright`` (found, not turned), ``given`` (the dataset's box)
            or ``whole`` (the picture as it is).
        box, landmarks: in pixels of the original picture, numbers with spaces between; ``angle_deg``: what the eyes
            were off level; ``score``, ``faces``: of the detector.
    """

    file: str
    part: str
    label: str
    source: str
    source_id: str
    source_split: str
    source_label: str
    subject: str
    group: str
    sha256: str
    dhash: str
    method: str
    box: str
    landmarks: str
    angle_deg: float
    score: str
    faces: int


class MappedClass(Frozen):
    """What became of one class of one source; ``ours`` is ``None`` where it was left out."""

    source: str
    theirs: str
    ours: str | None
    pictures: int


class PreparedSummary(Frozen):
    """What was done, in numbers.

    Attributes:
        key: stands for recipe and pictures: the same key gives the same folder.
        recipe: as it was, but for absolute paths, of which only the last part is kept.
        passed_over: source -> reason -> pictures that the reader left out by the dataset's own rules.
        mapping: every class of every source.
        refused: source -> kind of anomaly -> pictures.
        counts: part -> class -> faces.
        together: groups of more than one face, the faces in them, and the faces in the largest of them.
    """

    format: Literal["edge-fer-prepared/1"] = "edge-fer-prepared/1"
    edge_fer_version: str
    key: str
    recipe: PrepareRecipe
    passed_over: dict[str, dict[str, int]]
    mapping: tuple[MappedClass, ...]
    refused: dict[str, dict[str, int]]
    counts: dict[str, dict[str, int]]
    together: tuple[int, int, int]


def read_summary(folder: Path) -> PreparedSummary:
    """Raises ``BadInputError`` when the folder holds no prepared dataset."""
    return read_validated(folder / SUMMARY, PreparedSummary, "the summary of a prepared dataset")


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV with a header, whole or not at all."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_manifest(path: Path, rows: Sequence[ManifestRow]) -> None:
    columns = tuple(ManifestRow.model_fields)
    write_table(path, columns, [[getattr(row, column) for column in columns] for row in rows])


def read_manifest(folder: Path) -> list[ManifestRow]:
    """Every face of a prepared dataset.

    Raises:
        BadInputError: there is no manifest, or a line is malformed; the message names it.
    """
    path = folder / MANIFEST
    try:
        with path.open("r", encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            rows = []
            for line in table:
                try:
                    rows.append(ManifestRow.model_validate(line))
                except ValidationError as error:
                    where = error.errors()[0]["loc"]
                    raise BadInputError(
                        f"{path}, line {table.line_num}: not a line of a manifest ({where[0]})."
                    ) from None
            return rows
    except OSError as error:
        raise BadInputError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise BadInputError(f"{path} is not a text file.") from None
