"""Progress of work that tells how far it is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Steps:
    """Call it with (done, of how many, and a new text if it has changed) inside a ``with``; it is silent where nobody
    watches."""

    def __init__(self, console: Console, text: str, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(text, total=total)

    def __call__(self, done: int, total: int, text: str | None = None) -> None:
        self._bar.update(self._task, completed=done, total=total, description=text)

    def __enter__(self) -> Steps:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


class Parts:
    """Call it with (what is being done, done, of how many) inside a ``with``; 0 of how many means no count.

    On a terminal it is a bar; in a log, a line on standard error for each new part (what stands before a colon), so
    that minutes of work are not silence.
    """

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._watched, self._last = console.is_terminal, ""
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None)

    def __call__(self, text: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=text, completed=done, total=total or None)
        part = text.partition(":")[0]
        if not self._watched and part != self._last:
            self._last = part
            sys.stderr.write(f"{part} …\n")
            sys.stderr.flush()

    def __enter__(self) -> Parts:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
