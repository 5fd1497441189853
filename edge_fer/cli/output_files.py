"""Files that a command writes at its end, looked at before its work begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edge_fer.core.errors import UsageError
from edge_fer.core.files import check_writable

ENDINGS = {".png": "a PNG picture", ".html": "a page"}


def check_outputs(outputs: Mapping[str, Path | None], **endings: str) -> None:
    """See that every output can be written, has a file of its own, and a name that says what is in it.

    Args:
        outputs: paths by option.
        endings: what a file's name must end with, by option without its dashes, such as ``png=".png"``.

    Raises:
        UsageError: two options name one file, a name ends wrongly, or ``-`` is meant as standard output.
        BadInputError, DeviceError: as of :func:`edge_fer.core.files.check_writable`.
    """
    given = {option: path for option, path in outputs.items() if path is not None}
    seen: dict[str, str] = {}
    for option, path in given.items():
        if path == Path("-"):
            raise UsageError(f"{option} writes a file, not standard output.", fix=f"{option} FILE")
        if (other := seen.setdefault(os.path.realpath(path), option)) != option:
            raise UsageError(
                f"{other} and {option} would write the same file, {path}.", fix="Give each a file of its own."
            )
        ending = endings.get(option.lstrip("-"))
        if ending is not None and path.suffix.lower() != ending:
            raise UsageError(
                f"{option} writes {ENDINGS[ending]}, not {path.name}.", fix=f"{option} {path.stem}{ending}"
            )
    check_writable(*given.values())


def check_folders(folders: Mapping[str, Path | None]) -> None:
    """See that folders that outputs go into are folders, or can be made.

    Raises:
        UsageError: a path is a file.
        BadInputError, DeviceError: as of :func:`edge_fer.core.files.check_writable`.
    """
    for option, path in folders.items():
        if path is None:
            continue
        if path.is_file():
            raise UsageError(f"{option} {path} is a file; {option} names a folder.", fix=f"{option} FOLDER")
        check_writable(path / "output")
