"""A camera that is a file: frames arrive at a fixed rate whether or not anybody is ready, as a real sensor's do."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator
from itertools import count
from pathlib import Path
from shlex import quote

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import SourceError
from edge_fer.runtime.frames import Frame, FramePool, Mailbox, PictureMemory, SourceInfo
from edge_fer.runtime.sources.capture import open_media
from edge_fer.runtime.sources.container import CONVERT, check_container
from edge_fer.runtime.sources.video_file import VideoFile

MEMORY_BYTES = 1 << 30
"""A clip of so many decoded bytes, 13 s of 720p at 30 frames a second, is held in memory."""
AHEAD_BYTES = 1 << 28
"""Of a longer one, so much is decoded ahead, 3 s of the same."""
FIRST_S, POLL_S = 10.0, 0.01


class SyntheticCamera:
    """Plays a clip at ``fps``, round and round, for measuring latency honestly.

    A clip that memory holds is decoded beforehand, so that its codec is not what is measured; a longer one is decoded
    while it plays, which takes processor time as a camera's compressed pictures do. ``index`` and ``captured_ns``
    belong to the moment at which a sensor would have delivered; frames that nobody fetched are counted in ``dropped``.
    The sensor starts with the first ``read``.

    Args:
        path: a video file.
        frames: total number to deliver, then the source ends; ``None`` plays the clip once.

    Raises:
        SourceError: it is no video. ``read`` raises one where a clip cannot be decoded as fast as it is to play: a
            sensor is never late.
    """

    def __init__(
        self,
        path: Path,
        *,
        pool_size: int,
        fps: float | None = None,
        frames: int | None = None,
        memory: PictureMemory | None = None,
    ) -> None:
        self._clip = _open_clip(path)
        self._fps = fps or self._clip.fps or 30.0
        self._count = frames if frames is not None else self._clip.frames
        height, width = self._clip.size_hw
        self._info = SourceInfo(
            f"synthetic camera {path.name} at {self._fps:g} fps{self._clip.note}",
            width,
            height,
            self._fps,
            live=True,
            frames=self._count,
        )
        self._pool = FramePool(pool_size + 2, memory)
        self._mailbox = Mailbox()
        self._starved = 0
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="synthetic-camera", daemon=True)
        self._started = False

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def dropped(self) -> int:
        return self._mailbox.dropped + self._starved

    @property
    def waiting(self) -> bool:
        return self._mailbox.waiting

    def _loop(self) -> None:
        try:
            self._play()
        except BaseException as error:  # handed to whoever reads
            self._error = error
        finally:
            self._mailbox.close()

    def _play(self) -> None:
        self._clip.fill(self._stop)
        began = time.perf_counter()
        for index in count() if self._count is None else range(self._count):
            if self._stop.wait(max(0.0, began + index / self._fps - time.perf_counter())):
                break
            with self._clip.next(again=self._count is not None) as image:
                if image is None:
                    break
                if (frame := self._pool.take(0)) is None:
                    self._starved += 1
                    continue
                np.copyto(frame.room(image.shape), image)
            frame.index, frame.time_ms, frame.captured_ns = index, 1000 * index / self._fps, time.perf_counter_ns()
            self._mailbox.put(frame)

    def interrupt(self) -> None:
        self._stop.set()

    def read(self, timeout_s: float) -> Frame | None:
        if not self._started:
            self._started = True
            self._thread.start()
        frame = self._mailbox.get(timeout_s)
        if frame is None and self._error is not None:
            raise self._error
        if frame is None and not self._mailbox.closed:
            raise SourceError(f"The synthetic camera gave no frame within {timeout_s:.0f} s.")
        return frame

    def close(self) -> None:
        self._stop.set()
        if self._started:
            self._thread.join()
        self._clip.close()
        self._mailbox.discard()


class _Kept:
    """A clip whose pictures, uint8 (H, W, 3), lie in memory."""

    note = ""

    def __init__(self, images: list[NDArray[np.uint8]], fps: float) -> None:
        self._images, self.fps, self._next = images, fps, 0
        self.frames: int | None = len(images)
        self.size_hw = images[0].shape[:2]

    def fill(self, stop: threading.Event) -> None:
        pass

    @contextlib.contextmanager
    def next(self, *, again: bool) -> Generator[NDArray[np.uint8] | None]:
        """The next picture, valid inside; from the beginning once more at the end, or ``None``."""
        image = self._images[self._next % len(self._images)] if again or self._next < len(self._images) else None
        self._next += 1
        yield image

    def close(self) -> None:
        self._images.clear()


class _Decoded:
    """A clip that is decoded while it plays, some seconds ahead."""

    note = ", decoded while it plays"
    frames: int | None = None

    def __init__(self, path: Path, size_hw: tuple[int, int], fps: float) -> None:
        self._path, self.size_hw, self.fps = path, size_hw, fps
        self._ahead = max(2, AHEAD_BYTES // (3 * size_hw[0] * size_hw[1]))
        self._file = VideoFile(path, pool_size=1, ahead=self._ahead)
        self._begun = False

    def fill(self, stop: threading.Event) -> None:
        """Wait until so much is decoded that the file stays ahead of the clock."""
        while self._file.decoded < self._ahead and not stop.wait(POLL_S):
            pass

    @contextlib.contextmanager
    def next(self, *, again: bool) -> Generator[NDArray[np.uint8] | None]:
        """As :meth:`_Kept.next`.

        Raises:
            SourceError: it is not decoded yet.
        """
        if self._begun and not self._file.decoded:
            raise SourceError(
                f"{self._path} cannot be decoded as fast as a synthetic camera plays it here.",
                fix=f"Take a part that memory holds ({MEMORY_BYTES >> 20} MiB of pictures), or --source "
                f"{quote(str(self._path))}, without a camera's clock.",
            )
        frame = self._file.read(FIRST_S)
        if frame is None and again:
            self._file.close()
            self._file = VideoFile(self._path, pool_size=1, ahead=self._ahead)
            frame = self._file.read(FIRST_S)
        self._begun = True
        try:
            yield None if frame is None else frame.image_bgr
        finally:
            if frame is not None:
                frame.release()

    def close(self) -> None:
        self._file.close()


def _open_clip(path: Path) -> _Kept | _Decoded:
    """The clip in memory, or as it is decoded where it does not fit."""
    if not path.is_file():
        raise SourceError(f"There is no video {path}.")
    capture = open_media(str(path))
    if capture is None:
        raise SourceError(f"{path} is not a video that OpenCV can decode.", fix=CONVERT)
    check_container(path)
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        rate = rate if 0 < rate < 1000 else 0.0
        announced, images = capture.get(cv2.CAP_PROP_FRAME_COUNT), list[NDArray[np.uint8]]()
        while (read := capture.read())[0]:
            images.append(np.asarray(read[1], dtype=np.uint8))
            if max(announced, len(images)) * images[0].nbytes > MEMORY_BYTES:
                height, width = images[0].shape[:2]
                return _Decoded(path, (height, width), rate)
    finally:
        capture.release()
    if not images:
        raise SourceError(f"{path} holds no frame that can be decoded.")
    return _Kept(images, rate)
