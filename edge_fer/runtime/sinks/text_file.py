"""A text file that grows line by line under a temporary name and takes its own name when it is closed."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import tempfile
from io import FileIO
from pathlib import Path

from edge_fer.core.errors import BadInputError, DeviceError, EdgeFerError
from edge_fer.core.files import LARGER, check_writable, describe_os_error, put_in_place

STDOUT = Path("-")
NO_SPACE = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


class TextFile:
    """Whole lines only. A run that is interrupted, or whose disk is full, keeps the lines that it had.

    Nothing is created before the first line, so that a run that fails early leaves nothing behind. A pipe or a device
    (``/dev/ttyS0``, a FIFO) is written directly: it must not be replaced by a file. ``-`` is standard output.

    Raises:
        DeviceError: no space or no permission.
        BadInputError: the folder does not exist, or the path is a folder.
    """

    def __init__(self, path: Path) -> None:
        check_target(path)
        self.path = path
        self._shown = "standard output" if path == STDOUT else str(path)
        self._file: FileIO | None = None
        self._temporary: Path | None = None
        self._whole = 0
        self._failed = False

    def _open(self) -> FileIO:
        # Without a buffer: what was written is in the file, and a write that fails leaves nothing to be tried again.
        if self.path == STDOUT:
            return FileIO(1, "w", closefd=False)
        if is_special(self.path):
            return FileIO(self.path, "w")
        handle, name = tempfile.mkstemp(prefix=f".{self.path.stem}.", suffix=self.path.suffix, dir=self.path.parent)
        self._temporary = Path(name)
        return FileIO(handle, "w")

    def write(self, text: str) -> None:
        """Append whole lines; when they do not fit, none of them stays."""
        lines = text.encode()
        data = memoryview(lines)
        try:
            if self._file is None:
                self._file = self._open()
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            self._failed = True
            raise self._told(error) from None
        self._whole += len(lines)

    def _told(self, error: OSError) -> EdgeFerError:
        if isinstance(error, BrokenPipeError):
            return DeviceError(f"Nobody reads {self._shown} any more: it ends here.")
        if self._whole and error.errno in NO_SPACE:
            return DeviceError(f"No space left while writing {self.path}: it ends here.", fix="Free some space.")
        if self._whole and error.errno == errno.EFBIG:
            return DeviceError(f"{self.path} is as large as a file may be there: it ends here.", fix=LARGER)
        return describe_os_error(error, self.path)

    def close(self) -> None:
        """Give the file its name, cut after its last whole line; a file that never had one is removed instead."""
        try:
            if self._file is not None:
                if self._failed and self._temporary is not None:
                    self._file.truncate(self._whole)
                self._file.close()
            if self._temporary is not None and (self._whole or not self._failed):
                publish(self._temporary, self.path)
        except OSError as error:
            if not self._failed:
                raise describe_os_error(error, self.path) from None
        finally:
            if self._temporary is not None:
                with contextlib.suppress(OSError):  # a disk that is gone, or that its errors have made read-only
                    self._temporary.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """Refuse an output path at once that could only fail after the work.

    Raises:
        BadInputError: its folder does not exist, or it is a folder.
        DeviceError: no permission.
    """
    if not path.parent.is_dir():
        raise BadInputError(
            f"{path}: the folder {path.parent} does not exist.",
            fix=f"Make it first: mkdir -p {shlex.quote(str(path.parent))}",
        )
    if not is_special(path) or path.is_dir():
        check_writable(path)


def is_special(path: Path) -> bool:
    """A pipe, a terminal or another device."""
    return path.exists() and not path.is_file()


def publish(temporary: Path, path: Path) -> None:
    """Move a finished file to its name, with the permissions that a new file of this user has."""
    mask = os.umask(0o077)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    put_in_place(temporary, path)
