"""Files that are either whole or absent, and paths that stay inside their folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import sys
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
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


LARGER = "Choose another disk (FAT holds files of 4 GiB at most), or raise ulimit -f."
FAT_BYTES = (1 << 32) - 1
MOUNTS, FAT = Path("/proc/self/mountinfo"), ("vfat", "msdos")


def most_bytes(folder: Path) -> int | None:
    """How large a file may become in a folder, where that is less than the disk: by ``ulimit -f``, or on FAT, as most
    memory cards are formatted (told on Linux only)."""
    limits = []
    if sys.platform != "win32":
        import resource

        soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        limits += [soft] * (soft != resource.RLIM_INFINITY)
    if sys.platform == "linux":
        device = folder.stat().st_dev
        with contextlib.suppress(OSError):
            for line in MOUNTS.read_text(errors="replace").splitlines():
                # proc(5): the third field is the device, the type stands behind a lonely hyphen.
                about, _, kind = line.partition(" - ")
                if about.split()[2] == f"{os.major(device)}:{os.minor(device)}" and kind.split()[0] in FAT:
                    limits.append(FAT_BYTES)
    return min(limits, default=None)


def describe_os_error(error: OSError, path: Path) -> BadInputError | DeviceError:
    """One sentence for what the operating system said about ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC):
        return DeviceError(f"No space left while writing {path}; nothing was changed there.", fix="Free some space.")
    if error.errno == errno.EFBIG:
        return DeviceError(f"{path} would be larger than a file may be there; nothing was changed there.", fix=LARGER)
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
        fresh = path.parent / f".{path.stem}.{secrets.token_hex(4)}{path.suffix}"
        # Made as any other file is, so that it gets the permissions of the umask; mkstemp's would be ours alone, and to
        # ask for the umask is to change it for a moment in every thread.
        fresh.touch(exist_ok=False)
        temporary = fresh
        yield temporary
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
        fresh = path.parent / f".{path.name}.{secrets.token_hex(4)}"
        fresh.mkdir()
        temporary = fresh
        yield temporary
        if path.exists():
            retired = path.parent / f".{path.name}.old.{secrets.token_hex(4)}"
            retired.mkdir()
            old = retired / path.name
            try:
                path.replace(old)
                temporary.replace(path)
            finally:
                # Whatever came between the two, Ctrl-C included, the old one goes only when the new one is there.
                if old.exists() and not path.exists():
                    old.replace(path)
                shutil.rmtree(retired, ignore_errors=True)
        else:
            temporary.replace(path)
    except OSError as error:
        raise describe_os_error(error, path) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


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
