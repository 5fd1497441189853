"""Entry point of ``edge-fer`` and ``python -m edge_fer``.

The command line is imported inside of it, so that Ctrl-C, and every other request to end, is answered alike while its
libraries load, in the middle of a command, and afterwards.
"""

import atexit
import contextlib
import os
import signal
import sys
from typing import NoReturn

from edge_fer.cli.interrupts import endings, hear_endings


def main() -> None:
    """Run the command line; exit codes as in :func:`edge_fer.cli.main.main`, and 130 when interrupted."""
    try:
        hear_endings()
        from edge_fer.cli.main import main as command_line

        command_line()
    except (KeyboardInterrupt, SystemExit) as end:
        # Typer makes a silent exit with 130 of Ctrl-C in a command; before and after the command Python's own comes.
        if isinstance(end, SystemExit) and end.code != 130:
            raise
        # An impatient second one ends the process while it tidies up, without a word.
        for number in endings():
            signal.signal(number, signal.SIG_DFL)
        # CPython notes an interrupt that met it within `exec` of a string (dataclasses and torch use that), and then
        # ends by the signal instead of with our code; the next string makes it forget.
        exec("")
        sys.stderr.write("edge-fer: interrupted.\n")
        _end_now(130)


def _end_now(code: int) -> NoReturn:
    """End without waiting for threads. One that waits in a library for an address or a camera would be unwound by
    Python's own end, and C++ answers that by aborting the process."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it is gone, or it was closed
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
