"""An annotated MP4."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import DeviceError, UsageError
from edge_fer.core.files import LARGER, describe_os_error, most_bytes
from edge_fer.runtime.annotate import annotated
from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sinks.text_file import check_target, publish
from edge_fer.runtime.sources.capture import open_media

DEFAULT_FPS = 30.0
SPARE_BYTES = 16 << 20
"""OpenCV's writer does not say when the disk is full, so the run ends while this much is left: room enough to finish
the video, which then is shorter and plays."""
CHECK_EVERY = 10
LONGEST_REPEAT_S = 5.0
"""A gap of a live source (unplugged, network gone) is shown as a still picture for at most this long."""


class VideoSink:
    """Writes under a temporary name; the file gets its own when it is finished, also after Ctrl-C or on a full disk.

    A frame of another size than the first (a camera that changes its mode) is fitted into the video's size. With
    ``keep_time`` (live sources) pictures are repeated or left out so that the video lasts as long as what was filmed,
    however many frames were dropped.
    """

    lossless = True

    def __init__(self, path: Path, fps: float, *, keep_time: bool = False) -> None:
        check_video(path)
        self.name, self._path = f"video {path}", path
        self._fps, self._keep_time = _writable_rate(fps or DEFAULT_FPS), keep_time
        self._temporary: Path | None = None
        self._failed = self._full = False
        self._shift_ms: float | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._last = np.empty((0, 0, 3), np.uint8)
        self._count = self._seen = 0
        self._most_bytes: int | None = None

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        try:
            handle, name = tempfile.mkstemp(prefix=f".{self._path.stem}.", suffix=".mp4", dir=self._path.parent)
        except OSError as error:
            raise describe_os_error(error, self._path) from None
        os.close(handle)
        self._temporary = Path(name)
        self._most_bytes = most_bytes(self._path.parent)
        writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), self._fps, (width, height))
        if not writer.isOpened():
            raise DeviceError(f"OpenCV cannot write the video {self._path} ({width}x{height}, mp4v).")
        return writer

    def write(self, result: FrameResult) -> None:
        try:
            self._write(result)
        except BaseException:
            self._failed = not self._full
            raise

    def _write(self, result: FrameResult) -> None:
        shape = result.frame.image_bgr.shape
        if self._writer is None:
            self._size = shape[1::-1]
            self._writer = self._open(*self._size)
        self._see_room()
        if not (times := self._times(result.frame.time_ms)):
            return
        for _ in range(times - 1):
            self._writer.write(self._last)
        picture = annotated(result)
        if shape[1::-1] != self._size:
            picture = _fitted(picture, self._size)
        self._writer.write(picture)
        self._count += times
        if self._keep_time:  # the frame goes back to the pool, and may have to be shown again
            if self._last.shape != picture.shape:
                self._last = np.empty_like(picture)
            np.copyto(self._last, picture)

    def _see_room(self) -> None:
        """End the video while there is room to finish it: on the disk, and below the size that a file may have.

        Raises:
            DeviceError: there is no more room than that.
        """
        # Counted by frames: the number of pictures, some of which are repeated, steps over multiples.
        due = self._seen % CHECK_EVERY == 0
        self._seen += 1
        kept = f"it ends after {self._count / self._fps:.1f} s" if self._count else "nothing was changed there"
        try:
            no_space = due and shutil.disk_usage(self._path.parent).free < SPARE_BYTES
            size = self._temporary.stat().st_size if due and self._temporary is not None else 0
        except OSError as error:  # a disk that was unplugged: OpenCV's writer says nothing of that either
            raise DeviceError(
                f"The place of {self._path} is gone, and the video with it: {error.strerror}.", fix="Is its disk there?"
            ) from None
        if no_space:
            self._full = True
            raise DeviceError(f"No space left while writing {self._path}: {kept}.", fix="Free some space.")
        # FFmpeg holds back a quarter of a megabyte, which is still to be written.
        if self._most_bytes is not None and size > self._most_bytes - min(SPARE_BYTES, self._most_bytes // 2):
            self._full = True
            raise DeviceError(f"{self._path} is as large as a file may be there: {kept}.", fix=LARGER)

    def _times(self, time_ms: float) -> int:
        """How many pictures of the video this frame stands for; the repeated ones show the frame before it."""
        if not self._keep_time:
            return 1
        if self._shift_ms is None:
            self._shift_ms = time_ms
        due = round((time_ms - self._shift_ms) * self._fps / 1000) + 1 - self._count
        longest = max(1, round(LONGEST_REPEAT_S * self._fps))
        if due > longest:
            self._shift_ms += (due - longest) * 1000 / self._fps
        return max(0, min(due, longest))

    def close(self, *, complete: bool) -> None:
        if self._writer is not None:
            self._writer.release()
        if self._temporary is None:
            return
        try:
            if self._failed or not self._count:
                return
            # OpenCV's writer reports nothing: only reading tells whether the index at the end was written.
            written = open_media(str(self._temporary))
            count = 0 if written is None else int(written.get(cv2.CAP_PROP_FRAME_COUNT))
            if written is not None:
                written.release()
            if count != self._count:
                raise DeviceError(
                    f"The video {self._path} could not be written whole; nothing was changed there.",
                    fix="Is the disk full?",
                )
            publish(self._temporary, self._path)
        except OSError as error:
            raise describe_os_error(error, self._path) from None
        finally:
            with contextlib.suppress(OSError):  # a disk that is gone, or that its errors have made read-only
                self._temporary.unlink(missing_ok=True)


def _fitted(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture of another shape in the middle of a black one of (width, height), neither squeezed nor cut."""
    height, width = picture.shape[:2]
    factor = min(size[0] / width, size[1] / height)
    inner = (max(1, round(width * factor)), max(1, round(height * factor)))
    fitted = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    fitted[top : top + inner[1], left : left + inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return fitted


def check_video(path: Path) -> None:
    """Refuse a name that a video cannot have.

    Raises:
        UsageError: its ending is not .mp4 or .m4v.
        BadInputError, DeviceError: see :func:`edge_fer.runtime.sinks.text_file.check_target`.
    """
    if path.suffix.lower() not in (".mp4", ".m4v"):
        raise UsageError(
            f"--save writes MP4 files, not {path.suffix or 'files without an ending'}.", fix="--save out.mp4"
        )
    check_target(path)


def _writable_rate(fps: float) -> float:
    """The nearest rate that MPEG-4 can name: its clock has 16 bits, so that 240.019, a telephone's slow motion, must be
    240.02 frames a second, and what is above 650 a whole number."""
    return max(0.01, round(fps, 2) if fps * 100 < 1 << 16 else float(round(fps)))
