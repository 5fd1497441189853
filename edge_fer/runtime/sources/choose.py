"""From what a user typed to a source."""

from __future__ import annotations

import glob
from pathlib import Path

from edge_fer.core.errors import SourceError
from edge_fer.runtime.frames import FrameSource, PictureMemory
from edge_fer.runtime.sources.images import SUFFIXES, Images, find_images
from edge_fer.runtime.sources.live import LOST_AFTER_S
from edge_fer.runtime.sources.stream import SCHEMES, open_stream
from edge_fer.runtime.sources.video_file import VideoFile

SYNTHETIC = "synthetic:"


def open_source(
    text: str,
    *,
    pool_size: int,
    paced: bool = False,
    memory: PictureMemory | None = None,
    lost_after_s: float = LOST_AFTER_S,
) -> FrameSource:
    """A video file, a picture, a folder or glob of pictures, a URL, or ``synthetic:FILE`` (a file played as a camera).

    Args:
        pool_size: how many frames the consumers may hold at the same time.
        paced: play files at their own rate, and pictures one a second.
        lost_after_s: how long a stream that went away is sought.
        memory: where moving pictures are decoded to; single pictures lie in ordinary memory always.

    Raises:
        SourceError: nothing is there, or it is none of these; one sentence says which.
    """
    if is_stream(text):
        return open_stream(text, pool_size=pool_size, paced=paced, memory=memory, lost_after_s=lost_after_s)
    if text.startswith(SYNTHETIC):
        from edge_fer.runtime.sources.synthetic import SyntheticCamera

        return SyntheticCamera(Path(text.removeprefix(SYNTHETIC)), pool_size=pool_size, memory=memory)
    path = Path(text)
    if path.is_dir():
        return Images(source_files(text), f"folder {path}", paced=paced)
    if path.is_file():
        if path.stat().st_size == 0:
            raise SourceError(f"{path} is empty (0 bytes).", fix="Copy or record it again.")
        if path.suffix.lower() in SUFFIXES:
            return Images([path], path.name, paced=paced)
        return VideoFile(path, pool_size=pool_size, paced=paced, memory=memory)
    if _is_pattern(text):
        return Images(source_files(text), f"pattern {text}", paced=paced)
    raise SourceError(f"There is no source {text!r}: neither a file, a folder, a pattern nor a URL.")


def source_files(text: str) -> list[Path]:
    """The files that :func:`open_source` would read, as far as they exist: a video, a picture, or many."""
    if is_stream(text):
        return []
    path = Path(text.removeprefix(SYNTHETIC))
    if path.is_dir():
        return find_images(path)
    if path.is_file():
        return [path]
    if not _is_pattern(text):
        return []
    found = sorted(Path(name) for name in glob.glob(text, recursive=True))  # noqa: PTH207 (absolute patterns too)
    return [one for one in found if one.suffix.lower() in SUFFIXES]


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def is_stream(text: str) -> bool:
    """Whether it is a URL."""
    return text.lower().startswith(SCHEMES)
