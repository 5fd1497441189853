"""Ctrl-C, a request to end (SIGTERM) and a terminal that is closed are one thing: the command tidies up and says so.

While a module loads they wait until it has loaded. Compiled modules make an ``ImportError`` of it, which then reads as
"not installed", and some libraries try an import and go on without it: the interrupt would be lost, or end as an error
that nobody can explain.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
from types import FrameType

AGAIN_S = 0.05
"""Seconds between two looks at whether the module has loaded."""
_IMPORT = "<frozen importlib._bootstrap>"


def hear_endings() -> None:
    """From now on. What is ignored, as Ctrl-C in a script's background and the closed terminal under ``nohup``, stays
    so."""
    for number in endings():
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _Interrupt(os.getpid()))


def endings() -> list[int]:
    """The signals that end a command in good order, unless ``nohup`` asked to ignore one."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return [signal.SIGINT, signal.SIGTERM]
    return [signal.SIGINT, signal.SIGTERM, hangup]


class _Interrupt:
    """The handler, which a forked process inherits.

    Args:
        ours: the process that tidies up.
    """

    def __init__(self, ours: int) -> None:
        self._ours = ours

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._ours and number != signal.SIGINT:
            # A child's parent asks it to end, and tidies up itself.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if not _importing(frame):
            raise KeyboardInterrupt
        reminder = threading.Timer(AGAIN_S, _thread.interrupt_main, (number,))
        reminder.daemon = True
        reminder.start()


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False
