"""Frames, the buffers they live in, and the one-slot mailbox of live sources."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_fer.cuda.raw_picture import RawPicture


class Frame:
    """One picture and when it was taken. Whoever keeps it beyond its own stage retains it, and releases it once.

    A source writes into what :meth:`target` or :meth:`room` gives, so that a running loop allocates and moves no
    pictures, and calls :meth:`hold` with what a decoder returned.

    Attributes:
        image_bgr: uint8 (H, W, 3), valid until the last release.
        index: position in the source, counting frames that were dropped too.
        captured_ns: ``time.perf_counter_ns()`` when the picture was complete in memory.
        time_ms: position in the source: media time of a file, time since the first frame of a camera.
        raw: the same picture as it was delivered, where that is not BGR and a GPU reads it by itself.
    """

    __slots__ = ("_count", "_lock", "_pool", "captured_ns", "image_bgr", "index", "raw", "time_ms")

    def __init__(self, image_bgr: NDArray[np.uint8], pool: FramePool | None = None) -> None:
        self.image_bgr = image_bgr
        self.index = 0
        self.captured_ns = 0
        self.time_ms = 0.0
        self.raw: RawPicture | None = None
        self._pool = pool
        self._count = 1
        self._lock = threading.Lock()

    def room(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The frame's memory as a picture of (height, width, 3), to be written into."""
        if self.image_bgr.shape != shape:
            memory = self._pool.memory if self._pool is not None else None
            self.image_bgr = np.empty(shape, np.uint8) if memory is None else memory.allocate(shape)
        return self.image_bgr

    def target(self, height: int, width: int) -> NDArray[np.uint8]:
        """What a decoder may write into: the last picture of this frame, or at first one of the announced size."""
        return self.image_bgr if self.image_bgr.size else self.room((height, width, 3))

    def hold(self, image_bgr: NDArray[np.uint8]) -> None:
        """Make this the frame's picture. Decoders return their target, unless its size was wrong; a picture that lies
        elsewhere is adopted, or copied where the pool has memory of its own."""
        if image_bgr is self.image_bgr:
            return
        memory = self._pool.memory if self._pool is not None else None
        if memory is None:
            self.image_bgr = image_bgr
        else:
            memory.copy_in(self.room(image_bgr.shape), image_bgr)

    def retain(self) -> Frame:
        with self._lock:
            self._count += 1
        return self

    def release(self) -> None:
        with self._lock:
            self._count -= 1
            last = self._count == 0
        if last and self._pool is not None:
            self._count = 1
            self._pool.put_back(self)


class PictureMemory(Protocol):
    """Where the pictures of a pool lie, when that is not just anywhere: where a GPU reads them itself. Any thread."""

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A picture of this shape, C-contiguous; its contents are anything."""
        ...

    def copy_in(self, target: NDArray[np.uint8], image_bgr: NDArray[np.uint8]) -> None:
        """Copy a picture that a decoder put elsewhere into an allocated one, and count that."""
        ...


class FramePool:
    """A fixed number of frames that go round, so that a running loop allocates no pictures."""

    def __init__(self, size: int, memory: PictureMemory | None = None) -> None:
        self.size, self.memory = size, memory
        self._free: deque[Frame] = deque(Frame(np.empty((0, 0, 3), np.uint8), self) for _ in range(size))
        self._condition = threading.Condition()

    def take(self, timeout_s: float | None) -> Frame | None:
        """A free frame, or ``None`` when none came back in time."""
        with self._condition:
            if not self._condition.wait_for(lambda: bool(self._free), timeout_s):
                return None
            return self._free.popleft()

    def put_back(self, frame: Frame) -> None:
        with self._condition:
            self._free.append(frame)
            self._condition.notify()


class Mailbox:
    """Holds the newest frame only. A frame that nobody fetched in time is released and counted."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._closed = False
        self.dropped = 0

    def put(self, frame: Frame) -> None:
        with self._condition:
            if self._frame is not None:
                self._frame.release()
                self.dropped += 1
            self._frame = frame
            self._condition.notify()

    def get(self, timeout_s: float) -> Frame | None:
        """The newest unseen frame; ``None`` on time-out, or when closed and empty."""
        with self._condition:
            self._condition.wait_for(lambda: self._frame is not None or self._closed, timeout_s)
            frame, self._frame = self._frame, None
            return frame

    @property
    def waiting(self) -> bool:
        """Whether ``get`` would give a frame at once."""
        return self._frame is not None

    def close(self) -> None:
        """Nothing more comes; a frame that waits can still be fetched."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def discard(self) -> None:
        """Nobody fetches any more: a frame that waits is dropped, and counted."""
        with self._condition:
            if self._frame is not None:
                self._frame.release()
                self._frame = None
                self.dropped += 1
            self._closed = True
            self._condition.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed and self._frame is None


@dataclass(frozen=True)
class SourceInfo:
    """What a source really gives, which may differ from what was asked for.

    ``fps`` is 0 when unknown; ``frames`` is ``None`` when the end is not known; ``live`` sources drop, others never do.
    ``continuous`` is false where frames have nothing to do with each other, as the pictures of a folder.
    """

    description: str
    width: int
    height: int
    fps: float
    live: bool
    frames: int | None = None
    continuous: bool = True


@runtime_checkable
class FrameSource(Protocol):
    """Where frames come from. One thread reads."""

    @property
    def info(self) -> SourceInfo: ...

    @property
    def dropped(self) -> int:
        """Frames that arrived and were never handed out."""
        ...

    @property
    def waiting(self) -> bool:
        """Whether a live source has a newer frame than the last one, which it will drop when the next one comes. Never
        true of a source that keeps its frames."""
        ...

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame, to be released by the caller; ``None`` at the end.

        Raises:
            SourceError: no frame within the time-out, or the source broke.
        """
        ...

    def interrupt(self) -> None:
        """Make a waiting ``read``, and all later ones, return ``None``. Only sets a flag: safe in a signal handler."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class ReportsState(Protocol):
    """A source that can be away for a while and says so: in words when it is lost, "" when it is back."""

    on_state: Callable[[str], None]
