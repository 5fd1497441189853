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
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

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
        raise UsageError(f"{out} is a file; --out names a folder.", fix="--out FOLDER")
    if out.resolve() in (here := Path.cwd().resolve(), *here.parents):
        raise UsageError(
            f"--out {out} is the folder that you are in, or lies above it, and would be replaced as a whole.",
            fix="Name a new folder.",
        )


MOST_SYNCED = 256
"""Files of a folder that are brought to the disk one by one; more of them, and the whole system's are at once."""
SWAPS = 8
"""Attempts to put a folder into a place where other processes put theirs."""


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk: after a power cut it would be empty under its
    final name. Costs milliseconds to seconds; never for each frame.

    Raises:
        OSError: the disk is full, or broken. Systems and file systems that cannot do it (folders on Windows, some
            network drives) are left as they are.
    """
    if sys.platform == "win32" and path.is_dir():
        return
    try:
        # Windows brings only to the disk what it may write to.
        handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    finally:
        os.close(handle)


def _tree_to_disk(folder: Path) -> None:
    """All files and folders below, and the folder itself."""
    found = list(folder.rglob("*"))
    if len(found) > MOST_SYNCED and hasattr(os, "sync"):
        os.sync()  # one by one, the faces of a data set would take a quarter of an hour on a slow disk
        return
    for path in (*found, folder):
        if not path.is_symlink():
            to_disk(path)


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a finished file its name, once its bytes are on the disk; whatever happens, the name has a whole file.

    Raises:
        OSError: no space, no permission, or no such folder.
    """
    to_disk(temporary)
    temporary.replace(path)
    to_disk(path.parent)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keep other processes that lock the same ``path`` out, by a hidden file beside it that is gone afterwards.

    The system lets go of the lock when its process ends, however it ends. On a file system without locks nobody is
    kept out, nor where nothing may be written: whoever only reads there needs no lock, and a write says so itself.

    Args:
        path: the file or folder that is worked on; it need not exist.
        wait: for the other one to end; otherwise yield ``False`` at once, and hold nothing.

    Raises:
        DeviceError, BadInputError: the file cannot be made for another reason, such as a full disk.
    """
    place = path.absolute().with_name(f".{path.absolute().name}.lock")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = _lock(place, wait=wait)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise describe_os_error(error, place) from error
        yield True
        return
    if file is None:
        yield False
        return
    try:
        yield True
    finally:
        if sys.platform == "win32":
            file.close()  # an open file cannot be removed there; somebody else may have it by then
        with contextlib.suppress(OSError):
            place.unlink()
        file.close()


def _lock(place: Path, *, wait: bool) -> BinaryIO | None:
    """The opened and locked file; ``None``: somebody else has it."""
    while True:
        file = place.open("ab")
        try:
            if not _hold(file, wait=wait):
                file.close()
                return None
            # Whoever had it before has removed it: then others would lock another file than this one.
            if place.exists() and os.path.samestat(os.fstat(file.fileno()), place.stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _hold(file: BinaryIO, *, wait: bool) -> bool:
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError as error:
                # LK_LOCK gives up after ten seconds.
                if error.errno not in (errno.EACCES, errno.EDEADLK):
                    raise
                if not wait:
                    return False
            else:
                return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise
    return True


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name on success, and vanishes on any error.

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
        put_in_place(temporary, path)
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
        _tree_to_disk(temporary)
        for left in reversed(range(SWAPS)):
            try:
                _swap(temporary, path)
                break
            except OSError:
                # Another process may have put its folder there, or taken it away, since it was looked at.
                if not left or not temporary.exists():
                    raise
        to_disk(path.parent)
    except OSError as error:
        raise describe_os_error(error, path) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, path: Path) -> None:
    """One attempt to give a folder its name, whatever has it now."""
    if not path.exists():
        temporary.replace(path)
        return
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


def shortest_end(path: Path, others: Collection[Path]) -> str:
    """The last parts of ``path`` that none of the others ends in, as few as do: ``second/best.safetensors``."""
    ends = (path.parts[-n:] for n in range(1, len(path.parts)))
    return "/".join(next((end for end in ends if all(o.parts[-len(end) :] != end for o in others)), path.parts))


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
