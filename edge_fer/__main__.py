"""Entry point of ``edge-fer`` and ``python -m edge_fer``.

The command line is imported inside of it, so that Ctrl-C is answered alike while its libraries load, in the middle of a
command, and afterwards.
"""

import signal
import sys

from edge_fer.cli.interrupts import hold_while_importing


def main() -> None:
    """Run the command line; exit codes as in :func:`edge_fer.cli.main.main`, and 130 when interrupted."""
    try:
        hold_while_importing()
        from edge_fer.cli.main import main as command_line

        command_line()
    except (KeyboardInterrupt, SystemExit) as end:
        # Typer makes a silent exit with 130 of Ctrl-C in a command; before and after the command Python's own comes.
        if isinstance(end, SystemExit) and end.code != 130:
            raise
        # An impatient second Ctrl-C ends the process while it tidies up, without a word.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # CPython notes an interrupt that met it within `exec` of a string (dataclasses and torch use that), and then
        # ends by the signal instead of with our code; the next string makes it forget.
        exec("")
        sys.stderr.write("edge-fer: interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
