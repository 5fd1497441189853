"""Trees of class folders, whatever the classes are called: ``DIR/<class>/*`` or ``DIR/<split>/<class>/*``.

FER-2013 as Kaggle unpacks it is one, and what ``edge-fer data prepare`` writes is another.
"""

from __future__ import annotations

from pathlib import Path

from edge_fer.core.errors import BadInputError
from edge_fer.data.class_folders import IMAGE_SUFFIXES, find_splits
from edge_fer.data.readers.base import DatasetReader, Reading, Record


class ClassTreeReader(DatasetReader):
    """Every folder that holds pictures is a class, not only those that the project knows: what to do with the others
    is decided, and told, when labels are harmonised."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        try:
            return bool(find_splits(path))
        except (BadInputError, OSError):
            return False

    def read(self, path: Path) -> Reading:
        records = [
            Record(id=file.relative_to(base).as_posix(), label=folder.name, split=split, picture=file)
            for split, base in find_splits(path).items()
            for folder in sorted(base.iterdir())
            if folder.is_dir()
            for file in sorted(folder.iterdir())
            if file.suffix.lower() in IMAGE_SUFFIXES
        ]
        return Reading(tuple(records), str(path))
