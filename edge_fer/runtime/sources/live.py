"""What cameras and network streams share: a thread that always reads, a mailbox of one, coming back after a loss."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import cv2
import numpy as np

from edge_fer.core.errors import SourceError
from edge_fer.runtime.frames import Frame, FramePool, Mailbox, PictureMemory, SourceInfo

RETRY_FIRST_S, RETRY_LAST_S = 0.5, 8.0
LOST_AFTER_S = 60.0
"""A device that stays away this long ends the run, unless ``lost_after_s`` says otherwise."""
MOST_SPOILT = 30
"""So many pictures in a row that came and could not be decoded: then the device is opened anew."""


class LiveSource:
    """Reads a ``VideoCapture`` as fast as it delivers and keeps the newest frame only.

    When the device vanishes (unplugged, network gone) it is opened again with growing pauses; ``state`` and
    ``on_state`` say so, with the time of the next attempt. Until the first ``read`` frames are taken off the device, so
    that its queue holds no old ones, and not counted: nobody has missed them. A picture that came damaged (USB loses
    packets) counts as dropped.

    Args:
        connect: opens the device, or returns ``None``.
        name: how people call it, for messages.
        pool_size: frames that consumers may hold at once.
        memory: where their pictures lie; default: ordinary memory.
        describe: what was granted, in words, of the first capture; default: the name.
    """

    def __init__(
        self,
        connect: Callable[[], cv2.VideoCapture | None],
        name: str,
        *,
        pool_size: int,
        memory: PictureMemory | None = None,
        lost_after_s: float = LOST_AFTER_S,
        fix: str = "",
        describe: Callable[[cv2.VideoCapture], str] | None = None,
    ) -> None:
        capture = connect()
        if capture is None:
            raise SourceError(f"{name} cannot be opened.", fix=fix)
        self._connect, self._name, self._lost_after_s = connect, name, lost_after_s
        self._info = _info(capture, describe(capture) if describe else name)
        self.on_state: Callable[[str], None] = lambda _state: None
        # One frame is being decoded into, one waits in the mailbox.
        self._pool = FramePool(pool_size + 2, memory)
        self._mailbox = Mailbox()
        self._stop = threading.Event()
        self._wanted = False
        self._error: BaseException | None = None
        self.state = "live"
        self.reconnections = 0
        self._missed = 0
        self._thread = threading.Thread(target=self._loop, args=(capture,), name="capture", daemon=True)
        self._thread.start()

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def dropped(self) -> int:
        return self._mailbox.dropped + self._missed

    @property
    def waiting(self) -> bool:
        return self._mailbox.waiting

    def _loop(self, first: cv2.VideoCapture) -> None:
        capture: cv2.VideoCapture | None = first
        index, began_ns, pause, spoilt = 0, 0, 0.0, 0
        alive = time.perf_counter()
        try:
            while not self._stop.is_set():
                if capture is None:
                    # A device that opens and then gives nothing must not be opened in a hot loop.
                    self._rest(pause)
                    pause = min(max(2 * pause, RETRY_FIRST_S), RETRY_LAST_S)
                    if (capture := self._reconnect(alive + self._lost_after_s)) is None:
                        return
                counted = self._wanted
                frame = self._pool.take(0) if counted else None
                if frame is None:
                    # Nobody reads yet, or every buffer is held by a consumer: take the picture off the device's queue
                    # all the same, so that the next one is fresh.
                    if capture.grab():
                        self._missed += counted
                        index += counted
                        alive = time.perf_counter()
                    else:
                        self._disconnect(capture)
                        capture = None
                    continue
                grabbed = capture.grab()
                whole, image = (
                    capture.retrieve(frame.target(self._info.height, self._info.width)) if grabbed else (False, None)
                )
                if not whole:
                    frame.release()
                    self._missed += grabbed
                    index += grabbed
                    spoilt += 1
                    if not grabbed or spoilt > MOST_SPOILT:
                        self._disconnect(capture)
                        capture, spoilt = None, 0
                    continue
                spoilt = 0
                frame.hold(np.asarray(image, dtype=np.uint8))
                frame.captured_ns = time.perf_counter_ns()
                began_ns = began_ns or frame.captured_ns
                frame.index, frame.time_ms = index, (frame.captured_ns - began_ns) / 1e6
                index += 1
                back = self.state != "live"
                self.reconnections += back
                self._mailbox.put(frame)
                pause, alive = 0.0, time.perf_counter()
                if back:
                    self.state = "live"
                    self.on_state("")
        except cv2.error as error:
            self._error = SourceError(f"{self._name} broke: {error.err}.")
        except BaseException as error:  # raised where the frames are read, or the run would seem to have ended well
            self._error = error
        finally:
            if capture is not None:
                capture.release()
            self._mailbox.close()

    def _disconnect(self, capture: cv2.VideoCapture) -> None:
        capture.release()
        if self.state == "live":
            self.state = "reconnecting"
            self.on_state(f"{self._name} is gone; trying to open it again")

    def _reconnect(self, until: float) -> cv2.VideoCapture | None:
        pause = RETRY_FIRST_S
        while not self._stop.is_set() and time.perf_counter() < until:
            if (capture := self._connect()) is not None:
                return capture
            self._rest(min(pause, max(0.0, until - time.perf_counter())))
            pause = min(2 * pause, RETRY_LAST_S)
        if not self._stop.is_set():
            self._error = SourceError(
                f"{self._name} went away and did not come back within {self._lost_after_s:g} s.",
                fix="--reconnect 0 waits until it is back.",
            )
        return None

    def _rest(self, pause_s: float) -> None:
        if pause_s:
            self.on_state(f"{self._name} is gone; next attempt in {pause_s:.2g} s")
            self._stop.wait(pause_s)

    def interrupt(self) -> None:
        self._stop.set()

    def read(self, timeout_s: float) -> Frame | None:
        self._wanted = True
        end = time.perf_counter() + timeout_s
        while True:
            frame = self._mailbox.get(min(0.2, timeout_s))
            if frame is not None:
                return frame
            if self._stop.is_set():
                return None
            if self._error is not None:
                raise self._error
            if self._mailbox.closed:
                return None
            if self.state != "live":
                end = time.perf_counter() + timeout_s  # an absence has a patience of its own
            elif time.perf_counter() > end:
                raise SourceError(f"{self._name} gave no frame within {timeout_s:.0f} s.")

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        self._mailbox.discard()


def _info(capture: cv2.VideoCapture, description: str) -> SourceInfo:
    width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return SourceInfo(description, width, height, fps if 0 < fps < 1000 else 0.0, live=True)
