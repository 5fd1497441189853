"""A video file, decoded ahead into a ring of frames; never drops.

The time of a frame is the one that the container gives it: phones and screen recorders film at a variable rate, where
counting frames would be seconds off.
"""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from edge_fer.core.errors import SourceError
from edge_fer.runtime.frames import Frame, FramePool, PictureMemory, SourceInfo
from edge_fer.runtime.sources.capture import open_media
from edge_fer.runtime.sources.container import CONVERT, check_container, counts_frames, shown_part

AHEAD = 2
"""Decoded frames that may wait before a loop. More would only hide a slow consumer for longer."""
MOST_SPOILT = 250
"""Frames in a row that a file announces and that cannot be decoded, before it is taken to have ended."""
NOMINAL_FPS = 25.0
"""For containers that tell neither times nor a rate."""
TAIL_S = 1.0
"""By so much may a container last longer than its pictures: its sound seldom ends with the last of them."""


class VideoFile:
    """Frames of a file in order.

    Args:
        paced: hands them out at the file's own rate, for showing to people.
        ahead: decoded frames that may wait.

    Attributes:
        unread: frames that the file announces and that never came, known at its end.
    """

    def __init__(
        self,
        path: Path,
        *,
        pool_size: int,
        paced: bool = False,
        memory: PictureMemory | None = None,
        ahead: int = AHEAD,
    ) -> None:
        if not path.is_file():
            raise SourceError(f"There is no video {path}.")
        check_container(path)
        capture = open_media(str(path))
        if capture is None:
            raise SourceError(f"{path} is not a video that OpenCV can decode.", fix=CONVERT)
        part = shown_part(path)
        counted = counts_frames(path)
        self._start(capture, str(path), path.name, pool_size, paced, memory, counted=counted, shown=part, ahead=ahead)

    @classmethod
    def of_capture(
        cls,
        capture: cv2.VideoCapture,
        name: str,
        *,
        pool_size: int,
        paced: bool = False,
        memory: PictureMemory | None = None,
    ) -> VideoFile:
        """A file that lies elsewhere (a finished video behind a URL), already opened.

        Where its frames end before its length does, ``read`` raises a SourceError instead of telling an end.
        """
        source = cls.__new__(cls)
        source._start(capture, name, name, pool_size, paced, memory, counted=False, remote=True)
        return source

    def _start(
        self,
        capture: cv2.VideoCapture,
        name: str,
        description: str,
        pool_size: int,
        paced: bool,
        memory: PictureMemory | None,
        *,
        counted: bool,
        shown: float = 1.0,
        remote: bool = False,
        ahead: int = AHEAD,
    ) -> None:
        self._path, self._paced, self._remote = name, paced, remote
        self.unread = 0
        self._capture: cv2.VideoCapture | None = capture
        width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        if abs(part := round(count * shown) - count) > 1:
            # A length again, if a better one: at which frames an edit begins and ends is for the decoder to say.
            count, counted = count + part, False
        self._counted = counted
        fps = fps if 0 < fps < 1000 else 0.0
        self._info = SourceInfo(description, width, height, fps, live=False, frames=count or None)
        self._pool = FramePool(pool_size + ahead + 1, memory)
        self._ready: queue.Queue[Frame | BaseException | None] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._decode, name="decode", daemon=True)
        self._thread.start()

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def dropped(self) -> int:
        return 0

    @property
    def waiting(self) -> bool:
        return False

    @property
    def decoded(self) -> int:
        """How many frames wait, the end of the file or what broke it among them."""
        return self._ready.qsize()

    def _decode(self) -> None:
        try:
            self._decode_all()
        except cv2.error as error:
            self._hand_over(SourceError(f"{self._path} cannot be decoded any further: {error.err}."))
        except BaseException as error:  # raised where the frames are read, instead of a silence there
            self._hand_over(error)

    def _decode_all(self) -> None:
        capture, index, spoilt, passed = self._capture, 0, 0, 0
        assert capture is not None
        began, time_ms = time.perf_counter(), 0.0
        while not self._stop.is_set():
            frame = self._pool.take(0.1)
            if frame is None:
                continue
            grabbed, image = capture.read(frame.target(self._info.height, self._info.width))
            if not grabbed and index and spoilt < MOST_SPOILT and index < (self._info.frames or 0):
                # OpenCV stops at a packet that FFmpeg refuses; asked again, it goes on with the next one.
                frame.release()
                index, spoilt = index + 1, spoilt + 1
                continue
            if not grabbed:
                self.unread, cut = self._missing(index - spoilt, passed, time_ms)
                self._hand_over(self._end(index - spoilt, cut, time_ms))
                return
            passed, spoilt = passed + spoilt, 0
            frame.hold(np.asarray(image, dtype=np.uint8))
            time_ms = self._time_of(float(capture.get(cv2.CAP_PROP_POS_MSEC)), index, time_ms)
            frame.index, frame.time_ms = index, time_ms
            if self._paced:
                self._stop.wait(max(0.0, began + time_ms / 1000 - time.perf_counter()))
                frame.captured_ns = time.perf_counter_ns()
            self._hand_over(frame)
            index += 1

    def _time_of(self, stamp_ms: float, index: int, before_ms: float) -> float:
        """The container's time of a frame, or the nominal one where it has none (raw streams) or runs backwards."""
        if index == 0:
            return max(0.0, stamp_ms)
        return stamp_ms if stamp_ms > before_ms else before_ms + 1000 / (self._info.fps or NOMINAL_FPS)

    def _missing(self, index: int, passed: int, last_ms: float) -> tuple[int, bool]:
        """Frames that were announced and did not come: ``passed`` ones before the last, which had the number before
        ``index``, and those after it; and whether there are any of these."""
        after = max(0, (self._info.frames or 0) - index)
        if not self._counted and after:
            # The number is a length times a rate, of which neither need be that of the pictures; times can be trusted.
            length_s = (self._info.frames or 0) / (self._info.fps or NOMINAL_FPS)
            left_s = length_s - last_ms / 1000
            after = min(after, round(left_s * (self._info.fps or NOMINAL_FPS))) if left_s > TAIL_S else 0
        return passed + after, after > 0

    def _end(self, frames: int, cut: bool, last_ms: float) -> SourceError | None:
        """What is handed over behind the last frame."""
        if not frames:
            return SourceError(f"{self._path} holds no frame that can be decoded.")
        if not (self._remote and cut):
            return None
        length_s = (self._info.frames or 0) / (self._info.fps or NOMINAL_FPS)
        return SourceError(
            f"{self._path} ended at {last_ms / 1000:.1f} s of the {length_s:.1f} s that it announces: the connection "
            "was cut, or the file holds no more pictures.",
            # Only the container itself tells which: a trimmed film announces the pictures that it does not show.
            fix="Fetch the file first, as with curl -O, and run on that.",
        )

    @property
    def loss(self) -> str:
        """A sentence about the frames that never came; empty when all did."""
        if not self.unread:
            return ""
        why = "did not come" if self._remote else "could not be decoded"
        about = "" if self._counted else "about "
        return f"The file announces {self._info.frames} frames; {about}{self.unread} of them {why}."

    def _hand_over(self, item: Frame | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def interrupt(self) -> None:
        self._stop.set()

    def read(self, timeout_s: float) -> Frame | None:
        end = time.perf_counter() + timeout_s
        while True:
            try:
                item = self._ready.get(timeout=min(0.2, timeout_s))
                break
            except queue.Empty:
                if self._stop.is_set():
                    return None
                if time.perf_counter() > end:
                    raise SourceError(f"{self._path} gave no frame within {timeout_s:.0f} s.") from None
        if isinstance(item, BaseException):
            raise item
        if item is not None and not self._paced:
            # A file waits for its reader, so its frames are born when they are fetched.
            item.captured_ns = time.perf_counter_ns()
        return item

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._capture is not None:
            self._capture.release()
            self._capture = None
