"""A text file that grows line by line under a temporary name and takes its own name when it is closed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from edge_fer.core.files import describe_os_error


class TextFile:
    """Whole lines only. An interrupted run keeps what it had; a write that fails leaves the old file untouched.

    Raises:
        DeviceError: no space or no permission.
        BadInputError: the folder does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        except OSError as error:
            raise describe_os_error(error, path) from None
        self._temporary = Path(name)
        self._file = os.fdopen(handle, "w", encoding="utf-8", newline="")
        self._failed = False

    def write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            self._failed = True
            raise describe_os_error(error, self.path) from None

    def close(self) -> None:
        """Give the file its name; after a failed write, remove it instead."""
        try:
            self._file.close()
        except OSError as error:
            self._failed = True
            raise describe_os_error(error, self.path) from None
        finally:
            if self._failed:
                self._temporary.unlink(missing_ok=True)
            else:
                publish(self._temporary, self.path)


def publish(temporary: Path, path: Path) -> None:
    """Move a finished file to its name, with the permissions that a new file of this user has."""
    mask = os.umask(0o077)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    temporary.replace(path)
