"""Frames without a container on standard input, as ``ffmpeg -f rawvideo -pix_fmt bgr24 -`` writes them.

The way in for everything that FFmpeg, GStreamer or a camera's own program can read and OpenCV cannot.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import queue
import re
import select
import sys
import threading
import time
from dataclasses import dataclass
from typing import get_args

import cv2
import numpy as np

from edge_fer.core.errors import SourceError, UsageError
from edge_fer.cuda.raw_picture import Pixels, RawPicture
from edge_fer.runtime.frames import Frame, FramePool, Mailbox, PictureMemory, SourceInfo

AHEAD = 2
POLL_S = 0.2
LARGEST_PX = 16384
NOMINAL_FPS = 25.0
"""What FFmpeg takes for raw video without a rate."""
PIPE_BYTES = 1 << 20
FEED = "ffmpeg -loglevel error -i INPUT -f rawvideo -pix_fmt bgr24 - | edge-fer run --source - --raw WIDTHxHEIGHT:bgr24"
FORMATS: dict[str, tuple[int, int | None]] = {
    "bgr24": (6, None),
    "rgb24": (6, cv2.COLOR_RGB2BGR),
    "bgra": (8, cv2.COLOR_BGRA2BGR),
    "rgba": (8, cv2.COLOR_RGBA2BGR),
    "gray": (2, cv2.COLOR_GRAY2BGR),
    "yuv420p": (3, cv2.COLOR_YUV2BGR_I420),
    "nv12": (3, cv2.COLOR_YUV2BGR_NV12),
    "yuyv422": (4, cv2.COLOR_YUV2BGR_YUYV),
}
"""FFmpeg's name -> (bytes of two pixels, OpenCV's conversion)."""


@dataclass(frozen=True)
class RawFormat:
    """What the bytes mean. ``live``: a sensor writes them and does not wait, so that only the newest frame counts."""

    width: int
    height: int
    pixels: str
    fps: float = NOMINAL_FPS
    live: bool = False

    @property
    def frame_bytes(self) -> int:
        return self.width * self.height * FORMATS[self.pixels][0] // 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that OpenCV converts from: planes lie below each other."""
        halves, _ = FORMATS[self.pixels]
        if halves == 3:
            return (self.height * 3 // 2, self.width)
        return (self.height, self.width) if halves == 2 else (self.height, self.width, halves // 2)

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.pixels}"


def parse_raw(text: str) -> RawFormat:
    """``640x480:bgr24``, ``640x480:nv12@30`` or ``640x480:bgr24@30,live``.

    Raises:
        UsageError: it is not of that form, or no such picture can be.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5}):([a-z0-9]+)(?:@(\d{1,4}(?:\.\d+)?))?(,live)?", text.strip().lower())
    example = "--raw 640x480:bgr24@30, and ,live after it for a camera"
    if match is None:
        raise UsageError(f"--raw says what stdin holds: WIDTHxHEIGHT:PIXELS[@FPS][,live], not {text!r}.", fix=example)
    width, height, pixels = int(match[1]), int(match[2]), match[3]
    fps = float(match[4]) if match[4] else NOMINAL_FPS
    if pixels not in FORMATS:
        raise UsageError(f"--raw knows no pixel format {pixels!r}.", fix=f"Known: {', '.join(FORMATS)}.")
    if not (16 <= width <= LARGEST_PX and 16 <= height <= LARGEST_PX and 0 < fps <= 1000):
        raise UsageError(f"--raw: no frames of {width}x{height} at {fps:g} a second.", fix=example)
    if (FORMATS[pixels][0] == 3 and (width % 2 or height % 2)) or (pixels == "yuyv422" and width % 2):
        raise UsageError(f"--raw: {pixels} has even sides, not {width}x{height}.", fix=example)
    return RawFormat(width, height, pixels, fps, match[5] is not None)


class RawStdin:
    """Reads whole frames from a pipe. Without ``live`` nothing is dropped: the writer waits, as a file would.

    Args:
        layout: what the bytes mean.
        pool_size: frames that consumers may hold at once.
        descriptor: where to read; it stays open.
        memory: where the frames' pictures lie; default: ordinary memory. NV12 and YUYV are then kept there as they come
            (``Frame.raw``), for a GPU to read: they are a half and two thirds of BGR's bytes.

    Raises:
        SourceError: standard input is a terminal, or closed.
    """

    def __init__(
        self, layout: RawFormat, *, pool_size: int, descriptor: int = 0, memory: PictureMemory | None = None
    ) -> None:
        try:
            if os.isatty(descriptor):
                raise SourceError("Standard input is a terminal, not frames.", fix=f"Feed it: {FEED}")
            self._file = io.FileIO(descriptor, "rb", closefd=False)
        except OSError:
            raise SourceError("Standard input is closed.", fix=f"Feed it: {FEED}") from None
        _widen(descriptor)
        self._layout, self._descriptor = layout, descriptor
        description = f"raw {layout.pixels} frames on stdin"
        self._info = SourceInfo(description, layout.width, layout.height, layout.fps, live=layout.live)
        self._kept: Pixels | None = None
        self._memory = memory
        if memory is not None and layout.pixels != "bgr24":
            self._kept = next((pixels for pixels in get_args(Pixels) if pixels == layout.pixels), None)
        # One frame is being read into, and what waits.
        size = pool_size + 1 + (1 if layout.live else AHEAD)
        self._pool = FramePool(size, None if self._kept is not None else memory)
        self._raw = np.empty(layout.shape, np.uint8)
        self._conversion = FORMATS[layout.pixels][1]
        self._mailbox = Mailbox()
        self._ready: queue.Queue[Frame | None] = queue.Queue(AHEAD)
        self._error: BaseException | None = None
        self._starved, self._stop = 0, False
        self._thread = threading.Thread(target=self._loop, name="stdin", daemon=True)
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

    # The reading thread.

    def _loop(self) -> None:
        index, began_ns, live = 0, 0, self._layout.live
        spare = Frame(np.empty((self._layout.height, self._layout.width, 3), np.uint8))
        try:
            while not self._stop:
                # A sensor does not wait: what nobody has room for is read all the same.
                frame = self._pool.take(0 if live else POLL_S) or (spare if live else None)
                if frame is None:
                    continue
                if not self._fill(frame, index):
                    break
                frame.captured_ns = time.perf_counter_ns()
                began_ns = began_ns or frame.captured_ns
                frame.index = index
                frame.time_ms = (frame.captured_ns - began_ns) / 1e6 if live else 1000 * index / self._layout.fps
                index += 1
                if frame is spare:
                    self._starved += 1
                elif live:
                    self._mailbox.put(frame)
                else:
                    self._hand_over(frame)
        except OSError as error:
            self._error = SourceError(f"Standard input cannot be read: {error.strerror}.")
        except BaseException as error:  # no memory for a frame, for example: handed to whoever reads
            self._error = error
        finally:
            self._mailbox.close()
            if not live:
                self._hand_over(None)

    def _fill(self, frame: Frame, index: int) -> bool:
        """Read one whole frame; false at the end of the input."""
        layout = self._layout
        picture = frame.room((layout.height, layout.width, 3))
        raw = self._raw
        if self._kept is not None and self._memory is not None:
            if frame.raw is None:
                frame.raw = RawPicture(self._memory.allocate(layout.shape), self._kept)
            raw = frame.raw.memory
        target = picture if self._conversion is None else raw
        got = self._read_into(target.data.cast("B"))
        if got < layout.frame_bytes:
            if self._stop:
                return False
            if got:
                self._error = SourceError(
                    f"Standard input ended inside frame {index}: {got} of {layout.frame_bytes} bytes of {layout}"
                    f"{', after ' + str(index) + ' whole frames' if index else ''}.",
                    fix="Is the size and pixel format of --raw what is being sent?",
                )
            elif not index:
                self._error = SourceError("Standard input ended before the first frame.", fix=f"Feed it: {FEED}")
            return False
        if self._conversion is not None:
            cv2.cvtColor(raw, self._conversion, dst=picture)
        return True

    def _read_into(self, view: memoryview) -> int:
        """Fill the view unless the input ends or the run does; how many bytes were read."""
        got = 0
        while got < len(view) and not self._stop:
            if not self._has_bytes():
                continue
            try:
                count = self._file.readinto(view[got:])
            except OSError as error:
                if error.errno == errno.EPIPE:  # how Windows says that the writer has closed
                    break
                raise
            if count == 0:
                break
            got += count or 0
        return got

    def _has_bytes(self) -> bool:
        """Wait a little for input, so that a silent writer never keeps this thread from ending."""
        if sys.platform == "win32":
            return True  # pipes cannot be waited for there; the thread is a daemon and ends with the process
        return bool(select.select([self._descriptor], [], [], POLL_S)[0])

    def _hand_over(self, item: Frame | None) -> None:
        while not self._stop:
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=POLL_S)
                return

    # The loop's side.

    def interrupt(self) -> None:
        self._stop = True

    def read(self, timeout_s: float) -> Frame | None:
        if not self._started:
            self._started = True
            self._thread.start()
        end = time.perf_counter() + timeout_s
        while not self._stop:
            frame, over = self._next(min(POLL_S, timeout_s))
            if frame is not None:
                return frame
            if over:
                if self._error is not None:
                    raise self._error
                return None
            if time.perf_counter() > end:
                raise SourceError(
                    f"No frame came on standard input within {timeout_s:.0f} s.", fix="Is the writer still running?"
                )
        return None

    def _next(self, timeout_s: float) -> tuple[Frame | None, bool]:
        """A frame if there is one, and whether no more will come."""
        if self._layout.live:
            frame = self._mailbox.get(timeout_s)
            return frame, frame is None and self._mailbox.closed
        try:
            frame = self._ready.get(timeout=timeout_s)
        except queue.Empty:
            return None, False
        if frame is None:
            return None, True
        # The writer waits for its reader, so frames are born when they are fetched.
        frame.captured_ns = time.perf_counter_ns()
        return frame, False

    def close(self) -> None:
        self._stop = True
        if self._started:
            self._thread.join(5 * POLL_S)
        self._mailbox.discard()


def _widen(descriptor: int) -> None:
    """Linux: a pipe of 64 KiB would wake both sides fourteen times for one VGA frame."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
