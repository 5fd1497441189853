"""Files that people may fetch from other projects: where from, what they must hash to, and where they are kept.

Nothing is fetched unless ``edge-fer fetch`` is run.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_fer.core.errors import BadInputError, DeviceError, UsageError
from edge_fer.core.files import check_writable, describe_os_error, put_in_place, sha256_file

CHUNK = 1 << 16
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Remote:
    """A file of another project.

    Attributes:
        address: pinned to one state of the project.
        sha256: of the file's content; another content is refused.
        bytes_at_most: more is not read.
        licence, source: what people should know before they use it.
    """

    address: str
    sha256: str
    bytes_at_most: int
    licence: str
    source: str


FILES: dict[str, Remote] = {
    "yunet": Remote(
        "https://github.com/opencv/opencv_zoo/raw/47534e27c9851bb1128ccc0102f1145e27f23f98/models/"
        "face_detection_yunet/face_detection_yunet_2023mar.onnx",
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        1 << 20,
        "MIT",
        "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet",
    ),
    "mtcnn": Remote(
        "https://files.pythonhosted.org/packages/ed/2e/2d56386bc2f834cdc683743903852cf1428b4e5ee119f16cf808b589d3cd/"
        "facenet_pytorch-2.6.0-py3-none-any.whl",
        "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca",
        4 << 20,
        "MIT",
        "https://github.com/timesler/facenet-pytorch",
    ),
}


def folder() -> Path:
    """Where fetched files are kept: ``$EDGE_FER_FETCHED``, or the user's data folder of the operating system."""
    if configured := os.environ.get("EDGE_FER_FETCHED"):
        return Path(configured)
    from platformdirs import user_data_path

    return user_data_path("edge-fer", appauthor=False) / "fetched"


def _known(name: str) -> Remote:
    if name not in FILES:
        raise UsageError(f"There is nothing to fetch by the name {name!r}.", fix=f"Known: {', '.join(sorted(FILES))}.")
    return FILES[name]


def _place(name: str) -> Path:
    return folder() / f"{name}{Path(_known(name).address).suffix}"


def fetched(name: str) -> Path:
    """A file that was fetched before.

    Raises:
        BadInputError: it was not, or it is not what was fetched any more.
    """
    path = _place(name)
    if not path.is_file():
        raise BadInputError(f"The file of {name} has not been fetched.", fix=f"edge-fer fetch {name}")
    if sha256_file(path) != FILES[name].sha256:
        raise BadInputError(f"{path} is not the file that was fetched.", fix=f"edge-fer fetch {name}")
    return path


def fetch(name: str, *, progress: Callable[[int], None] | None = None) -> Path:
    """Fetch a file unless it is there, check its hash, and only then give it its name.

    Args:
        progress: told the bytes read so far.

    Raises:
        UsageError: unknown name.
        DeviceError: the address cannot be reached, or the connection broke.
        BadInputError: what came is not the file.
    """
    remote, path = _known(name), _place(name)
    if path.is_file() and sha256_file(path) == remote.sha256:
        return path
    download(
        remote.address,
        path,
        sha256=remote.sha256,
        at_most=remote.bytes_at_most,
        instead=f"Fetch it by other means, and name the file: --detector {name}=FILE",
        progress=progress,
    )
    return path


def download(
    address: str,
    path: Path,
    *,
    sha256: str,
    at_most: int,
    instead: str,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Read a file from its address, and give it its name only when its content is the right one.

    Args:
        sha256: of the content, or how it begins.
        at_most: bytes; more is not read.
        instead: what people can do where this fails.
        progress: told the bytes read so far.

    Raises:
        DeviceError: the address cannot be reached, or the connection broke.
        BadInputError: what came is not the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except OSError as error:
        raise describe_os_error(error, path) from None
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as part:
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
                while chunk := answer.read(CHUNK):
                    size += len(chunk)
                    if size > at_most:
                        raise BadInputError(f"{address} gives more than the {at_most} bytes expected.", fix=instead)
                    digest.update(chunk)
                    part.write(chunk)
                    if progress is not None:
                        progress(size)
            if not digest.hexdigest().startswith(sha256):
                raise BadInputError(
                    f"What came from {address} is not the file that this version knows: its SHA-256 begins with "
                    f"{digest.hexdigest()[: min(len(sha256), 16)]}, not {sha256[:16]}. It was not kept.",
                    fix=instead,
                )
            part.close()
            put_in_place(Path(part.name), path)
        # URLError, time-outs and broken connections are OSErrors; answers that are not HTTP, or end early, are not.
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise DeviceError(f"{address} could not be read: {reason}.", fix=instead) from None
        finally:
            Path(part.name).unlink(missing_ok=True)
