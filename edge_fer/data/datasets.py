"""Open a dataset from a path: the one entry point of every command that takes ``--data``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_fer.core.errors import BadInputError, SeveralSplitsError, UsageError
from edge_fer.core.labels import EMOTIONS, canonical
from edge_fer.data.class_folders import find_splits, open_class_folders
from edge_fer.data.icml_csv import find_icml_csv, is_icml_csv, open_icml_csv
from edge_fer.data.readers.registry import reader_of, recognise, recognise_as, split_format
from edge_fer.data.samples import Samples

_FOLDERS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("train", "training"), frozenset({"train", "training"})),
    **dict.fromkeys(("test",), frozenset({"test", "publictest", "public"})),
    **dict.fromkeys(("val", "valid", "validation"), frozenset({"val", "valid", "validation"})),
    **dict.fromkeys(
        ("publictest", "public"), frozenset({"publictest", "public", "test", "val", "valid", "validation"})
    ),
    **dict.fromkeys(("privatetest", "private"), frozenset({"privatetest", "private"})),
}
"""What a split may be called as a folder. Kaggle's unpacked FER-2013 calls PublicTest ``test`` or ``validation``; a
``test`` is never served from a folder ``val``, nor PrivateTest from any folder that does not say so."""


def open_dataset(path: Path, split: str | None = None) -> Samples:
    """Open a tree of class folders, a folder of such trees, the ICML CSV, or a folder that holds that CSV; RAF-DB,
    AffectNet in YOLO format and everything else of :data:`edge_fer.data.readers.registry.READERS` whose pictures are
    faces. ``FORMAT=PATH`` says which layout is meant; FER+ must be asked for, because its votes often lie beside the
    original labels.

    ``split`` is the name of a split's folder, or an alias of it (``PublicTest`` for a folder ``test``); it may be left
    out when there is only one.

    Raises:
        UsageError: no such split, or several and none was named.
        BadInputError: nothing at ``path`` that is a dataset; the message says what was expected.
    """
    name, path = split_format(path)
    if not path.exists():
        recognise(path)  # which says what is wrong with it
    if name is None and path.is_dir():
        name = next((known for known in ("rafdb", "affectnet-yolo", "kdef") if recognise_as(known, path)), None)
    if name not in (None, "class-folders", "fer2013-csv"):
        return _open_reader(name, path, split)
    if path.is_file():
        if is_icml_csv(path):
            return open_icml_csv(path, split)
        raise BadInputError(
            f"{path} is not a dataset.",
            fix="Give a folder of class folders, or the FER-2013 CSV (emotion,pixels,Usage).",
        )
    tables = find_icml_csv(path)
    if len(tables) == 1:
        return open_icml_csv(tables[0], split)
    if tables:
        raise UsageError(f"{path} holds several FER-2013 CSV files.", fix=f"Name one: {', '.join(map(str, tables))}.")
    return open_class_folders(path, folder_of(find_splits(path), split))


def folder_of(splits: dict[str, Path], split: str | None) -> str | None:
    """The folder's own name for ``split``: exact first, then ignoring case, then by alias."""
    if split is None or split in splits:
        return split
    wanted = _plain(split)
    same_name = [name for name in splits if _plain(name) == wanted]
    aliases = _FOLDERS.get(wanted, frozenset())
    candidates = same_name or [name for name in splits if _plain(name) in aliases]
    if len(candidates) > 1:
        raise UsageError(f"The split {split!r} could be any of several.", fix=f"Name one: {', '.join(candidates)}.")
    return candidates[0] if candidates else split


def _open_reader(name: str, path: Path, split: str | None) -> Samples:
    """One split of a dataset that a reader reads; classes beyond the seven keep their name and come after them."""
    reader = reader_of(name)
    if reader.faces == "detect":
        raise UsageError(
            f"The pictures of {path} show more than a face.",
            fix="Cut the faces first: edge-fer data prepare --config recipe.yaml --out FACES",
        )
    reading = reader.read(path)
    folders = dict.fromkeys(reading.splits(), path)
    chosen = folder_of(folders, split)
    if chosen is None and len(folders) > 1:
        raise SeveralSplitsError(path, folders)
    if chosen is not None and chosen not in folders:
        raise UsageError(f"{path} has no split {split!r}.", fix=f"Available: {', '.join(folders)}.")
    records = [record for record in reading.records if chosen is None or record.split == chosen]
    labels = [canonical(record.label) or record.label.strip().lower() for record in records]
    names = (*EMOTIONS, *sorted(set(labels) - set(EMOTIONS)))
    return Samples(
        ids=tuple(record.id for record in records),
        labels=np.array([names.index(label) for label in labels], dtype=np.int64),
        class_names=names,
        read=lambda i: records[i].read_box(),
        source=f"{path}{f' ({chosen})' if chosen else ''}",
    )


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")
