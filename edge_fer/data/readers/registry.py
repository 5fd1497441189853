"""Dataset layouts by name. Adding one is a file and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.core.findings import findings
from edge_fer.core.registry import resolve
from edge_fer.data.readers.base import DatasetReader, Reading

READERS: dict[str, str] = {
    "ferplus": "edge_fer.data.readers.ferplus:FerPlusReader",
    "fer2013-csv": "edge_fer.data.readers.fer2013_csv:Fer2013CsvReader",
    "rafdb": "edge_fer.data.readers.rafdb:RafDbReader",
    "affectnet-yolo": "edge_fer.data.readers.affectnet_yolo:AffectNetYoloReader",
    "kdef": "edge_fer.data.readers.kdef:KdefReader",
    "class-folders": "edge_fer.data.readers.class_tree:ClassTreeReader",
}
"""In the order in which a path is tried: what is named by its files first, what is named by folders alone last."""


def reader_of(name: str, options: Mapping[str, object] | None = None) -> DatasetReader:
    """The reader of a layout with its options.

    Raises:
        UsageError: no such layout, or an option that it does not have.
    """
    kind = cast(type[DatasetReader], resolve(READERS, name, what="dataset format"))
    try:
        return kind.model_validate(dict(options or {}))
    except ValidationError as error:
        raise UsageError(f"Wrong options of the dataset format {name}: {findings(error, kind)}.") from None


def split_format(path: Path) -> tuple[str | None, Path]:
    """``FORMAT=PATH`` -> (format, path), anything else -> (``None``, itself): how commands are told a layout."""
    name, equals, rest = str(path).partition("=")
    return (name, Path(rest)) if equals and name in READERS and not path.exists() else (None, path)


def open_reading(path: Path, options: Mapping[str, object] | None = None) -> Reading:
    """Read ``PATH`` by the layout that it has, or ``FORMAT=PATH`` by that one.

    Raises:
        BadInputError: no layout fits, or the files are not what the layout says.
        UsageError: an option that the layout does not have.
    """
    name, place = split_format(path)
    return reader_of(name or recognise(place), options).read(place)


def recognise_as(name: str, path: Path) -> bool:
    """Whether ``path`` has the layout ``name``."""
    return cast(type[DatasetReader], resolve(READERS, name, what="dataset format")).recognises(path)


def recognise(path: Path) -> str:
    """The name of the layout that ``path`` has.

    Raises:
        BadInputError: nothing is there, or no layout fits.
    """
    if not path.exists():
        name, equals, _ = str(path).partition("=")
        if equals and "/" not in name and "\\" not in name:
            raise BadInputError(
                f"{path} does not exist, and {name} is no dataset format.", fix=f"Known: {', '.join(sorted(READERS))}."
            )
        raise BadInputError(f"{path} does not exist.")
    for name in READERS:
        if recognise_as(name, path):
            return name
    raise BadInputError(
        f"{path} has the layout of no dataset that is known here.",
        fix=f"Known: {', '.join(sorted(READERS))}; docs/datasets.md shows each.",
    )
