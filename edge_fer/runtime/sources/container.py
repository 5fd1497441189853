"""Whether a video file is all there, by what its own container says; and whether it is a video at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_fer.core.errors import SourceError

_MP4_TOP = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"mfra", b"uuid", b"meta", b"styp", b"sidx"}
_PROBE = 4096
CONVERT = "If it plays elsewhere, make another file of it: ffmpeg -i FILE film.mp4"
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
        kinds = {kind for kind, _, _ in _mp4_boxes(file, 0, path.stat().st_size)} if head[4:8] in _MP4_TOP else set()
    return b"moov" in kinds and b"moof" not in kinds


def shown_part(path: Path) -> float:
    """How much of an MP4's pictures its edit list shows, as a fraction; 1.0 without one, and for other containers.

    A trimmed film keeps the pictures that it does not show, and its number of frames counts them.

    Args:
        path: a file that :func:`check_container` has let through.
    """
    with path.open("rb") as file:
        if file.read(8)[4:8] not in _MP4_TOP:
            return 1.0
        everything = (0, path.stat().st_size)
        for moov in _inner(file, everything, b"moov"):
            header = _first(file, moov, b"mvhd")
            for trak in _inner(file, moov, b"trak"):
                if _first(file, trak, b"mdia", b"hdlr")[8:12] != b"vide":
                    continue
                movie_units, _ = _clock(header)
                media_units, media = _clock(_first(file, trak, b"mdia", b"mdhd"))
                shown = _shown(_first(file, trak, b"edts", b"elst"))
                if shown and movie_units and media_units and media:
                    return (shown / movie_units) / (media / media_units)
                return 1.0
    return 1.0


def _clock(header: bytes) -> tuple[int, int]:
    """Units a second, and length in those units, of an ``mvhd`` or ``mdhd`` (section 8.2.2 and 8.4.2)."""
    wide = header[:1] == b"\1"
    at, size = (20, 8) if wide else (12, 4)
    return int.from_bytes(header[at : at + 4], "big"), int.from_bytes(header[at + 4 : at + 4 + size], "big")


def _shown(edits: bytes) -> int:
    """Length of what an ``elst`` shows (section 8.6.6), in the film's units; pauses, of media time -1, show nothing."""
    size = 8 if edits[:1] == b"\1" else 4
    total = 0
    for index in range(int.from_bytes(edits[4:8], "big")):
        entry = edits[8 + index * (2 * size + 4) :][: 2 * size + 4]
        if len(entry) < 2 * size + 4:
            break
        if int.from_bytes(entry[size : 2 * size], "big", signed=True) >= 0:
            total += int.from_bytes(entry[:size], "big")
    return total


def _inner(file: BinaryIO, within: tuple[int, int], wanted: bytes) -> list[tuple[int, int]]:
    """Begin and end of the contents of the boxes of one kind."""
    return [(begin, end) for kind, begin, end in _mp4_boxes(file, *within) if kind == wanted]


def _first(file: BinaryIO, within: tuple[int, int], *path: bytes) -> bytes:
    """The contents of the first box on a path of kinds; empty where there is none."""
    for kind in path:
        if not (found := _inner(file, within, kind)):
            return b""
        within = found[0]
    file.seek(within[0])
    return file.read(within[1] - within[0])


def _mp4_size(file: BinaryIO, size: int) -> int:
    """End of the last top-level box that begins inside the file."""
    return max((end for _, _, end in _mp4_boxes(file, 0, size)), default=0)


def _mp4_boxes(file: BinaryIO, offset: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, contents and end of every box (ISO/IEC 14496-12, section 4.2) that begins from one place to another."""
    while offset + 8 <= size:
        file.seek(offset)
        header = file.read(16)
        length, contents = int.from_bytes(header[:4], "big"), offset + 8
        if length == 1:
            length, contents = int.from_bytes(header[8:16], "big"), offset + 16
        if length == 0:
            length = size - offset
        if length < 8:
            return
        offset += length
        yield header[4:8], contents, offset
