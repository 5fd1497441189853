"""RAF-DB, the basic (single-label) part, as its authors distribute it::

    EmoLabel/list_patition_label.txt    train_00001.jpg 5
    Image/aligned/train_00001_aligned.jpg
    Image/original/train_00001.jpg

Labels count from 1. The list's name is misspelt in the original; the right spelling is taken too. Source: Li, Deng &
Du, "Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition in the Wild", CVPR 2017.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar, Literal

from edge_fer.core.errors import BadInputError
from edge_fer.data.readers.base import DatasetReader, FacesBy, Reading, Record, read_lines

RAF_ORDER: tuple[str, ...] = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""Meaning of the labels 1 to 7."""
LISTS = ("list_patition_label.txt", "list_partition_label.txt")


class RafDbReader(DatasetReader):
    """``pictures``: ``aligned`` (100x100, eyes and mouth brought to the same place) or ``original`` photographs, in
    which the face must be found."""

    faces: ClassVar[FacesBy] = "whole"
    pictures: Literal["aligned", "original"] = "aligned"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return _find_list(path) is not None

    def read(self, path: Path) -> Reading:
        labels = _find_list(path)
        if labels is None:
            raise BadInputError(f"{path} is not RAF-DB: it has no EmoLabel/{LISTS[0]}.")
        folder = self._folder(labels)
        records, passed_over = [], Counter[str]()
        for number, line in enumerate(read_lines(labels), start=1):
            if not line.strip():
                continue
            parts = line.split()
            split = parts[0].partition("_")[0]
            if len(parts) != 2 or parts[1] not in {"1", "2", "3", "4", "5", "6", "7"} or split not in ("train", "test"):
                raise BadInputError(f"{labels}, line {number}: not a train_ or test_ picture with a label of 1 to 7.")
            name = Path(parts[0])
            file = folder / (f"{name.stem}_aligned{name.suffix}" if self.pictures == "aligned" else name.name)
            if not file.is_file():
                passed_over[f"listed, but not in {folder.name}/"] += 1
                continue
            records.append(Record(id=parts[0], label=RAF_ORDER[int(parts[1]) - 1], split=split, picture=file))
        return Reading(tuple(records), str(path), passed_over)

    def _folder(self, labels: Path) -> Path:
        """Where the pictures lie: beside the list's own folder, under ``Image/`` or not."""
        roots = (labels.parent.parent, labels.parent)
        places = [root / middle / self.pictures for root in roots for middle in ("Image", "")]
        for place in places:
            if place.is_dir():
                return place
        raise BadInputError(f"{labels.parent.parent} holds RAF-DB's labels, but no folder Image/{self.pictures}.")


def _find_list(path: Path) -> Path | None:
    for folder in (path, path / "EmoLabel", path / "basic" / "EmoLabel"):
        for name in LISTS:
            if (folder / name).is_file():
                return folder / name
    return None
