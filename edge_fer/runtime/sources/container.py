"""Whether a video file is all there, by what its own container says; and whether it is a video at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_fer.core.errors import SourceError

_MP4_TOP = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"mfra", b"uuid", b"meta", b"styp", b"sidx"}
_PROBE = 4096
_TEXT_FORMATS = frozenset({".m3u8", ".sdp", ".y4m"})
"""Text by design, and yet something that FFmpeg plays."""


def check_container(path: Path) -> None:
    """Refuse what OpenCV would open all the same.

    Raises:
        SourceError: the file is plain text, which FFmpeg renders as a picture of letters; or it is shorter than its
            container says, so that the run would end early without a word.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_PROBE)
        if path.suffix.lower() not in _TEXT_FORMATS and _is_text(head):
            raise SourceError(f"{path} is not a video: it is a text file.")
        needed = _riff_size(head) if head[:4] == b"RIFF" else None
        if head[4:8] in _MP4_TOP:
            needed = _mp4_size(file, size)
    if needed is not None and needed > size:
        raise SourceError(
            f"{path} is not whole: its container needs at least {needed} bytes, the file has {size}.",
            fix="Copy or record it again.",
        )


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        # A multi-byte letter may be cut off at the end of the probe.
        head[: max(1, len(head) - 3)].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _riff_size(head: bytes) -> int | None:
    """End of the first RIFF chunk (AVI); ``None`` where a streaming writer left the size open."""
    length = int.from_bytes(head[4:8], "little")
    return None if length in (0, 0xFFFFFFFF) else length + 8


def counts_frames(path: Path) -> bool:
    """Whether the container holds a number of frames. Others (Matroska, MPEG-TS, FLV, fragmented MP4) tell how long
    they last, sound included, and at what rate, and OpenCV makes a number of that.

    Args:
        path: a file that :func:`check_container` has let through.
    """
    with path.open("rb") as file:
        head = file.read(_PROBE)
        if head[:4] == b"RIFF":
            return True
        kinds = {kind for kind, _ in _mp4_boxes(file, path.stat().st_size)} if head[4:8] in _MP4_TOP else set()
    return b"moov" in kinds and b"moof" not in kinds


def _mp4_size(file: BinaryIO, size: int) -> int:
    """End of the last top-level box that begins inside the file."""
    return max((end for _, end in _mp4_boxes(file, size)), default=0)


def _mp4_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Kind and end of every top-level box (ISO/IEC 14496-12, section 4.2) that begins inside the file."""
    offset = 0
    while offset + 8 <= size:
        file.seek(offset)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:
            length = size - offset
        if length < 8:
            return
        offset += length
        yield header[4:8], offset
