"""The status line of a run without a window."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from edge_fer.runtime.results import FrameResult

INTERVAL_S, STATE_S = 0.2, 1.0


class StatusSink:
    """One line on the terminal, rewritten five times a second."""

    name, lossless = "status line", False

    def __init__(self, console: Console) -> None:
        self._status = console.status("waiting for the first frame")
        self._status.start()
        self._next = 0.0

    def tell(self, state: str) -> None:
        """Something broke and is tried again, in words; "" when it works again. Called from the loop's threads."""
        self._status.update(Text(state or "working again", style="yellow"))
        # Stays readable while frames still come.
        self._next = time.perf_counter() + STATE_S

    def write(self, result: FrameResult) -> None:
        now = time.perf_counter()
        if now < self._next:
            return
        self._next = now + INTERVAL_S
        faces = ", ".join(
            f"#{face.track} {'uncertain: ' if face.uncertain else ''}{face.label} "
            f"{float(face.scores[result.labels.index(face.label)]):.0%}"
            for face in result.faces[:4]
        )
        more = f" and {len(result.faces) - 4} more" if len(result.faces) > 4 else ""
        self._status.update(
            f"frame {result.frame.index}  {result.fps:.0f} fps  age {result.age_ms:.0f} ms  {faces or 'no face'}{more}"
        )

    def close(self, *, complete: bool) -> None:
        self._status.stop()
