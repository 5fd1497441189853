"""KDEF, the Karolinska Directed Emotional Faces: everything is in the file's name, such as ``AF01ANS.JPG``.

Letter 1 is the session (A, B: the same people, photographed twice), 2 the gender (F, M), then two digits for the
person, two letters for the expression and one or two for the angle. Source: Lundqvist, Flykt & Öhman 1998, and the
coding on kdef.se.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from edge_fer.data.class_folders import IMAGE_SUFFIXES
from edge_fer.data.readers.base import DatasetReader, FacesBy, Reading, Record

EXPRESSIONS = {
    "AF": "afraid",
    "AN": "angry",
    "DI": "disgusted",
    "HA": "happy",
    "NE": "neutral",
    "SA": "sad",
    "SU": "surprised",
}
POSES = {"S": "straight", "HL": "half left", "HR": "half right", "FL": "full left", "FR": "full right"}
Pose = Literal["S", "HL", "HR", "FL", "FR"]
NAME = re.compile(r"([AB])([FM])(\d\d)(AF|AN|DI|HA|NE|SA|SU)(S|HL|HR|FL|FR)", re.IGNORECASE)


class KdefReader(DatasetReader):
    """``poses``: which angles are wanted; a full profile shows half an expression and no second eye to align by.

    The subject is gender and number: ``AF01`` and ``BF01`` are one person, who must not be on two sides of a split.
    """

    faces: ClassVar[FacesBy] = "detect"
    poses: tuple[Pose, ...] = Field(default=("S", "HL", "HR"), min_length=1)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if not path.is_dir():
            return False
        try:
            folders = [path, *(child for child in path.iterdir() if child.is_dir())]
            folders += [inner for child in folders[1:] for inner in child.iterdir() if inner.is_dir()]
            # The first files tell: other datasets have tens of thousands in a folder.
            return any(NAME.fullmatch(file.stem) for folder in folders for file in islice(folder.iterdir(), 64))
        except OSError:
            return False

    def read(self, path: Path) -> Reading:
        records, passed_over = [], Counter[str]()
        for file in sorted(path.rglob("*")) if path.is_dir() else []:
            if file.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            parts = NAME.fullmatch(file.stem)
            if parts is None:
                # The original has two such: AF31V.JPG and AM31H.JPG, whose expression nobody can read from the name.
                passed_over["name that tells no expression and angle"] += 1
                continue
            _, gender, person, expression, pose = (part.upper() for part in parts.groups())
            if pose not in self.poses:
                passed_over[f"pose {POSES[pose]}"] += 1
                continue
            records.append(
                Record(
                    id=file.relative_to(path).as_posix(),
                    label=EXPRESSIONS[expression],
                    split="",
                    picture=file,
                    subject=f"{gender}{person}",
                )
            )
        return Reading(tuple(records), str(path), passed_over)
