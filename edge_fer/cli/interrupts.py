"""Ctrl-C while a module loads waits until it has loaded.

Compiled modules make an ``ImportError`` of it, which then reads as "not installed", and some libraries try an import
and go on without it: the interrupt would be lost, or end as an error that nobody can explain.
"""

from __future__ import annotations

import _thread
import signal
import threading
from types import FrameType

AGAIN_S = 0.05
"""Seconds between two looks at whether the module has loaded."""
_IMPORT = "<frozen importlib._bootstrap>"


def hold_while_importing() -> None:
    """From now on. Where Ctrl-C is ignored, as in a script's background, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _importing(frame):
        signal.default_int_handler(number, frame)
    reminder = threading.Timer(AGAIN_S, _thread.interrupt_main)
    reminder.daemon = True
    reminder.start()


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False
