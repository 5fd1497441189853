"""Files that are either whole or absent, and paths that stay inside their folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from edge_fer.core.errors import BadInputError, BundleError, DeviceError, UsageError
from edge_fer.core.findings import findings

M = TypeVar("M", bound=BaseModel)


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(path)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_os_error(error: OSError, path: Path) -> BadInputError | DeviceError:
    """One sentence for what the operating system said about ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC):
        return DeviceError(f"No space left while writing {path}; nothing was changed there.", fix="Free some space.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DeviceError(f"No permission for {path}.", fix="Choose a place that you may write to.")
    return BadInputError(f"{path}: {error.strerror or error}.")


def check_writable(*paths: Path | None) -> None:
    """See that files which are to be written when some long work is done can be; nothing stays behind.

    Raises:
        BadInputError: one of the paths is a folder, or lies below a file.
        DeviceError: no permission.
    """
    for path in paths:
        if path is None:
            continue
        try:
            if path.is_dir():
                raise BadInputError(f"{path} is a folder, not a file to write to.")
            nearest = next(parent for parent in path.absolute().parents if parent.exists())
            with tempfile.TemporaryFile(dir=nearest):
                pass
        except OSError as error:
            raise describe_os_error(error, path) from None


def check_out_folder(out: Path) -> None:
    """See that a folder which will be replaced as a whole is not the one that we stand in, or a file.

    Raises:
        UsageError: it is.
    """
    if out.is_file():
        raise UsageError(f"{out} is a file; --out names a folder.")
    if out.resolve() in (here := Path.cwd().resolve(), *here.parents):
        raise UsageError(
            f"--out {out} is the folder that you are in, or lies above it, and would be replaced as a whole.",
            fix="Name a new folder.",
        )


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name on success and vanishes on any error.

    The suffix is kept, because writers choose their format by it.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise describe_os_error(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that replaces it on success; on any error ``path`` stays untouched."""
    temporary = None
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            old = retired / path.name
            try:
                path.replace(old)
                temporary.replace(path)
            except OSError:
                if old.exists():
                    old.replace(path)
                raise
            finally:
                shutil.rmtree(retired, ignore_errors=True)
        else:
            temporary.replace(path)
    except OSError as error:
        raise describe_os_error(error, path) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def inside(folder: Path, name: str) -> Path:
    """Resolve ``name`` below ``folder``.

    Raises:
        BundleError: the name is absolute, climbs out, or is a link that leads elsewhere.
    """
    root = folder.resolve()
    path = (root / name).resolve()
    if Path(name).is_absolute() or root not in path.parents:
        raise BundleError(f"{folder} names a file outside itself: {name!r}.")
    return path


def read_validated(path: Path, kind: type[M], what: str, error: type[BadInputError] = BadInputError) -> M:
    """Read a JSON file into a pydantic model; ``what`` is a noun with its article, such as "a benchmark result".

    Raises:
        BadInputError: (or the subclass given) missing, not JSON, or not of this kind; the message names the first key.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as caught:
        raise error(f"Cannot read {path}: {caught.strerror}.") from None
    except ValidationError as caught:
        raise error(f"{path} is not {what}: {findings(caught, kind, first=True)}.") from None
