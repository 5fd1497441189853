"""OpenCV's ``VideoCapture``, opened without its chatter on the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import cv2


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Send the process's standard error nowhere: FFmpeg and V4L write there directly, in their own words.

    What went wrong is told by our own error instead. Without a real stderr (a service, a notebook) nothing is changed.
    """
    try:
        number = sys.__stderr__.fileno() if sys.__stderr__ is not None else -1
    except (OSError, ValueError):
        number = -1
    if number < 0:
        yield
        return
    sys.__stderr__.flush()  # type: ignore[union-attr]
    saved, nothing = os.dup(number), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, number)
        yield
    finally:
        os.dup2(saved, number)
        os.close(saved)
        os.close(nothing)


def open_capture(target: str | int, api: int = cv2.CAP_ANY) -> cv2.VideoCapture | None:
    """An opened capture, or ``None``."""
    with silent_stderr():
        capture = cv2.VideoCapture(target, api)
        if capture.isOpened():
            return capture
        capture.release()
    return None
