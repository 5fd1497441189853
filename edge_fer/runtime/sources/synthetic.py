"""A camera that is a file: frames arrive at a fixed rate whether or not anybody is ready, as a real sensor's do."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from shlex import quote

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import SourceError
from edge_fer.runtime.frames import Frame, FramePool, Mailbox, PictureMemory, SourceInfo
from edge_fer.runtime.sources.capture import open_media
from edge_fer.runtime.sources.container import check_container

MEMORY_BYTES = 1 << 30


class SyntheticCamera:
    """Plays a clip from memory at ``fps``, round and round, for measuring latency honestly.

    Decoding is done beforehand so that the clip's codec is not what is measured. ``index`` and ``captured_ns`` belong
    to the moment at which a sensor would have delivered; frames that nobody fetched are counted in ``dropped``. The
    sensor starts with the first ``read``.

    Args:
        path: a video file; its decoded frames must fit into 1 GiB.
        frames: total number to deliver, then the source ends; ``None`` plays the clip once.
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
        self._images, rate = _decode_all(path)
        self._fps = fps or rate or 30.0
        self._count = frames if frames is not None else len(self._images)
        height, width = self._images[0].shape[:2]
        self._info = SourceInfo(
            f"synthetic camera {path.name} at {self._fps:g} fps",
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
        began = time.perf_counter()
        for index in range(self._count):
            if self._stop.wait(max(0.0, began + index / self._fps - time.perf_counter())):
                break
            frame = self._pool.take(0)
            if frame is None:
                self._starved += 1
                continue
            image = self._images[index % len(self._images)]
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
        self._mailbox.discard()


def _decode_all(path: Path) -> tuple[list[NDArray[np.uint8]], float]:
    if not path.is_file():
        raise SourceError(f"There is no video {path}.")
    capture = open_media(str(path))
    if capture is None:
        raise SourceError(f"{path} is not a video that OpenCV can decode.")
    check_container(path)
    images: list[NDArray[np.uint8]] = []
    try:
        while True:
            grabbed, image = capture.read()
            if not grabbed:
                break
            images.append(np.asarray(image, dtype=np.uint8))
            if len(images) * images[0].nbytes > MEMORY_BYTES:
                rate = capture.get(cv2.CAP_PROP_FPS) or 30.0
                raise SourceError(
                    f"{path} is too long for a synthetic camera: its frames exceed 1 GiB in memory.",
                    fix=f"Take a part of {len(images) / rate:.0f} s at most, or --source {quote(str(path))}, without a "
                    "camera's clock.",
                )
        rate = float(capture.get(cv2.CAP_PROP_FPS))
    finally:
        capture.release()
    if not images:
        raise SourceError(f"{path} holds no frame that can be decoded.")
    return images, rate if 0 < rate < 1000 else 0.0
