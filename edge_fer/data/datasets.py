"""Open a dataset from a path: the one entry point of every command that takes ``--data``."""

from __future__ import annotations

from pathlib import Path

from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.data.class_folders import find_splits, open_class_folders
from edge_fer.data.icml_csv import is_icml_csv, open_icml_csv
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
    """Open a tree of class folders, a folder of such trees, the ICML CSV, or a folder that holds that CSV.

    ``split`` is the name of a split's folder, or an alias of it (``PublicTest`` for a folder ``test``); it may be left
    out when there is only one.

    Raises:
        UsageError: no such split, or several and none was named.
        BadInputError: nothing at ``path`` that is a dataset; the message says what was expected.
    """
    if not path.exists():
        raise BadInputError(f"{path} does not exist.")
    if path.is_file():
        if is_icml_csv(path):
            return open_icml_csv(path, split)
        raise BadInputError(
            f"{path} is not a dataset.",
            fix="Give a folder of class folders, or the FER-2013 CSV (emotion,pixels,Usage).",
        )
    tables = [child for child in sorted(path.glob("*.csv")) if is_icml_csv(child)]
    if len(tables) == 1:
        return open_icml_csv(tables[0], split)
    if tables:
        raise UsageError(f"{path} holds several FER-2013 CSV files.", fix=f"Name one: {', '.join(map(str, tables))}.")
    return open_class_folders(path, _folder_of(find_splits(path), split))


def _folder_of(splits: dict[str, Path], split: str | None) -> str | None:
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


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")
