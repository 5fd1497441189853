"""A text file that grows line by line under a temporary name and takes its own name when it is closed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TextIO

from edge_fer.core.errors import BadInputError
from edge_fer.core.files import describe_os_error


class TextFile:
    """Whole lines only. An interrupted run keeps what it had; a write that fails leaves the old file untouched.

    Nothing is created before the first line, so that a run that fails early leaves nothing behind. A pipe or a device
    (``/dev/stdout``, a FIFO) is written directly: it must not be replaced by a file.

    Raises:
        DeviceError: no space or no permission.
        BadInputError: the folder does not exist, or the path is a folder.
    """

    def __init__(self, path: Path) -> None:
        check_target(path)
        self.path = path
        self._file: TextIO | None = None
        self._temporary: Path | None = None
        self._failed = False

    def _open(self) -> TextIO:
        if is_special(self.path):
            return self.path.open("w", encoding="utf-8", newline="")
        handle, name = tempfile.mkstemp(prefix=f".{self.path.stem}.", suffix=self.path.suffix, dir=self.path.parent)
        self._temporary = Path(name)
        return os.fdopen(handle, "w", encoding="utf-8", newline="")

    def write(self, text: str) -> None:
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            self._failed = True
            raise describe_os_error(error, self.path) from None

    def close(self) -> None:
        """Give the file its name; after a failed write, remove it instead."""
        try:
            if self._file is not None:
                self._file.close()
            if self._temporary is not None and not self._failed:
                publish(self._temporary, self.path)
        except OSError as error:
            if not self._failed:
                raise describe_os_error(error, self.path) from None
        finally:
            if self._temporary is not None:
                self._temporary.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """Refuse an output path at once that could only fail after the work.

    Raises:
        BadInputError: its folder does not exist, or it is a folder.
    """
    if path.is_dir():
        raise BadInputError(f"{path} is a folder, not a file to write to.")
    if not path.parent.is_dir():
        raise BadInputError(f"{path}: the folder {path.parent} does not exist.")


def is_special(path: Path) -> bool:
    """A pipe, a terminal or another device."""
    return path.exists() and not path.is_file()


def publish(temporary: Path, path: Path) -> None:
    """Move a finished file to its name, with the permissions that a new file of this user has."""
    mask = os.umask(0o077)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    temporary.replace(path)
