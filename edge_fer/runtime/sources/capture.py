"""OpenCV's ``VideoCapture``, opened without its chatter on the terminal."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence

import cv2

# FFmpeg and V4L write to the terminal in their own words; what went wrong is told by our own error instead. FFmpeg's
# level is read when it is first used, which is after this import; a level that the user has set stays.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# A silent V4L device must be given up before the loop's own patience ends, or it never gets to reconnect.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "4")
if sys.platform == "win32":
    # Media Foundation's search for hardware transforms makes opening a camera take tens of seconds.
    os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")


def open_capture(target: str | int, api: int = cv2.CAP_ANY, settings: Sequence[int] = ()) -> cv2.VideoCapture | None:
    """An opened capture, or ``None``. ``settings`` are pairs of ``CAP_PROP_*`` and value that opening itself needs."""
    capture = cv2.VideoCapture(target, api, list(settings))
    if capture.isOpened():
        return capture
    capture.release()
    return None


def open_media(target: str, *, timeout_ms: int | None = None) -> cv2.VideoCapture | None:
    """A file or URL through FFmpeg, or ``None``.

    One decoding thread: more of them take the loop's cores, and each one adds a frame of delay.
    """
    settings = [cv2.CAP_PROP_N_THREADS, 1]
    if timeout_ms is not None:
        settings += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
    return open_capture(target, cv2.CAP_FFMPEG, settings)


def open_address(target: str, *, timeout_ms: int) -> cv2.VideoCapture | None:
    """:func:`open_media` for what may be silent: a signal is heard while FFmpeg waits, which it lets nobody interrupt.

    Raises:
        KeyboardInterrupt: while it waited; what opens after all is let go.
    """
    opened: list[cv2.VideoCapture | BaseException | None] = []
    given_up = threading.Event()

    def connect() -> None:
        try:
            capture = open_media(target, timeout_ms=timeout_ms)
            if capture is not None and given_up.is_set():
                capture.release()
            opened.append(capture)
        except BaseException as error:  # raised where it is waited for
            opened.append(error)

    waiter = threading.Thread(target=connect, name="connect", daemon=True)
    waiter.start()
    try:
        while waiter.is_alive():
            # In steps: on Windows a wait without end hears no signal.
            waiter.join(0.1)
    except BaseException:
        given_up.set()
        raise
    (found,) = opened
    if isinstance(found, BaseException):
        raise found
    return found
