"""FER+: ten people's votes on every face of FER-2013, in ``fer2013new.csv`` beside the faces::

    Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF
    Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0
    Training,,0,0,0,0,0,0,0,0,0,10

The votes are joined with ``fer2013.csv`` row by row, as their authors say; the number in the image name is *not* the
row's. Where the authors' own script has written ``FER2013Train/fer0000000.png`` (``Valid``, ``Test``), they are joined
by that name. The pictures of Kaggle's class folders cannot be joined: their names have lost the order.
Source: Barsoum, Zhang, Canton Ferrer & Zhang, "Training Deep Networks for Facial Expression Recognition with
Crowd-Sourced Label Distribution", ICMI 2016 (arXiv:1608.01041), section 3, and the code published with it.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError
from edge_fer.data.icml_csv import find_icml_csv, iterate_rows, pixels_of
from edge_fer.data.readers.base import DatasetReader, FacesBy, Reading, Record

VOTES = "fer2013new.csv"
CLASSES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
"""What can be voted for; NF is "not a face"."""
NOT_EXPRESSIONS = ("unknown", "NF")
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
Rule = Literal["majority", "probability"]


class Votes(NamedTuple):
    """One row: line of the file, Usage, image name ("" when it is not a face), votes in the order of ``CLASSES``."""

    line: int
    usage: str
    name: str
    votes: tuple[int, ...]


class FerPlusReader(DatasetReader):
    """``rule``: ``majority`` takes the class with more than half of the votes; ``probability`` the largest of the
    distribution that it keeps. What a rule gives up, and what most people called unknown or no face, is passed over.
    """

    faces: ClassVar[FacesBy] = "whole"
    rule: Rule = "majority"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return (path / VOTES).is_file()

    def read(self, path: Path) -> Reading:
        rows = read_votes(path / VOTES)
        tables = find_icml_csv(path)
        if tables:
            records, passed_over = self._by_row(rows, tables[0])
        elif any((path / folder).is_dir() for folder in FOLDERS.values()):
            records, passed_over = self._by_name(rows, path)
        else:
            raise BadInputError(
                f"{path} holds FER+ votes but no faces to join them with.",
                fix=f"Put fer2013.csv beside {VOTES}, or the folders {', '.join(FOLDERS.values())}. Pictures of "
                "Kaggle's class folders cannot be joined: their names have lost the order.",
            )
        return Reading(tuple(records), str(path), passed_over)

    def _by_row(self, rows: Sequence[Votes], table: Path) -> tuple[list[Record], Counter[str]]:
        records: list[Record] = []
        passed_over: Counter[str] = Counter()
        for row, face in zip_longest(rows, iterate_rows(table)):
            if row is None or face is None:
                raise BadInputError(f"{table} and the FER+ votes have different numbers of rows; they are no pair.")
            line, _, pixels, usage = face
            if usage != row.usage:
                raise BadInputError(
                    f"FER+ votes, line {row.line}: {row.usage}, but {usage} in {table}; they are no pair."
                )
            label = self._label(row, passed_over)
            if label is not None:
                picture = pixels_of(table, line, pixels)
                records.append(Record(id=f"{usage}_{line - 2}", label=label, split=usage, picture=picture))
        return records, passed_over

    def _by_name(self, rows: Sequence[Votes], path: Path) -> tuple[list[Record], Counter[str]]:
        records: list[Record] = []
        passed_over: Counter[str] = Counter()
        for row in rows:
            label = self._label(row, passed_over)
            file = path / FOLDERS[row.usage] / row.name
            if label is None:
                continue
            if not file.is_file():
                passed_over["voted on, but the picture is not there"] += 1
                continue
            records.append(Record(id=f"{FOLDERS[row.usage]}/{row.name}", label=label, split=row.usage, picture=file))
        return records, passed_over

    def _label(self, row: Votes, passed_over: Counter[str]) -> str | None:
        if not row.name:
            passed_over["no image name: not a face"] += 1
            return None
        kept = distribution(row.votes, self.rule)
        if kept is None:
            passed_over["people disagree" if self.rule == "majority" else "votes too scattered"] += 1
            return None
        best = np.flatnonzero(kept == kept.max())
        name = CLASSES[best[0]]
        if name in NOT_EXPRESSIONS:
            passed_over["unknown" if name == "unknown" else "not a face (NF)"] += 1
            return None
        if len(best) > 1:
            passed_over["two classes with as many votes"] += 1
            return None
        return name


def read_votes(path: Path) -> list[Votes]:
    """Every row of ``fer2013new.csv``.

    Raises:
        BadInputError: another header, or a row that is malformed; the message names the line.
    """
    found = []
    try:
        with path.open("r", encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file)
            header = tuple(cell.strip() for cell in next(table, []))
            if header != ("Usage", "Image name", *CLASSES):
                raise BadInputError(
                    f"{path} is not the FER+ table: its header is not Usage,Image name,{','.join(CLASSES)}."
                )
            for row in table:
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                numbers = cells[2:]
                if len(numbers) != len(CLASSES) or cells[0] not in FOLDERS or not all(map(str.isdecimal, numbers)):
                    raise BadInputError(
                        f"{path}, line {table.line_num}: not Usage, an image name and ten counts of votes."
                    )
                found.append(Votes(table.line_num, cells[0], cells[1], tuple(map(int, numbers))))
    except OSError as error:
        raise BadInputError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise BadInputError(f"{path} is not a text file.") from None
    return found


def distribution(votes: Sequence[int], rule: Rule) -> NDArray[np.float64] | None:
    """What a rule makes of one face's votes: float64 (10,) that sums to 1, or ``None`` when it gives the face up.

    Single votes are mistakes and are taken away first. ``majority`` keeps the largest class if it has more than half of
    what is left. ``probability`` takes classes from the largest down, all of one size at a time, until they hold three
    quarters, at most three of them; it stops at unknown and no face, which count only when nothing came before them,
    and gives up when it took more than three or no more than half.
    """
    left = np.where(np.asarray(votes) > 1, votes, 0).astype(np.float64)
    total = left.sum()
    if total == 0:
        return None
    kept = np.zeros_like(left)
    if rule == "majority":
        best = int(left.argmax())
        if left[best] <= 0.5 * total:
            return None
        kept[best] = 1.0
        return kept
    first_other = len(CLASSES) - len(NOT_EXPRESSIONS)
    taken = 0
    while kept.sum() < 0.75 * total and taken < 3:
        size = left.max()
        chosen = np.flatnonzero(left == size)
        others = chosen[chosen >= first_other]
        if len(others):
            chosen = np.append(chosen[chosen < first_other], others[0])
            if kept.any() or len(chosen) > 1:
                chosen = chosen[:-1]
        kept[chosen], left[chosen] = size, 0
        taken += len(chosen)
        if len(others):
            break
    if taken > 3 or kept.sum() <= 0.5 * total:
        return None
    return np.asarray(kept / kept.sum())
