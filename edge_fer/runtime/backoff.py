"""Trying again after a failure, with growing pauses and an end."""

from __future__ import annotations

import time

from edge_fer.core.errors import DeviceError

FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 3.2
ATTEMPTS = 8
"""Failures in a row after which there is no hope: with the pauses between them, six seconds."""


class Backoff:
    """Keeps count of failures in a row of one part of the loop.

    Args:
        what: the part, as the subject of a sentence.
        fix: what the user can do when it never succeeds.
    """

    def __init__(self, what: str, *, fix: str) -> None:
        self._what, self._fix = what, fix
        self._failures = 0
        self._next = 0.0

    @property
    def failing(self) -> bool:
        return self._failures > 0

    @property
    def wait_s(self) -> float:
        """Time until the next attempt; 0 when it may be made now."""
        return max(0.0, self._next - time.perf_counter()) if self._failures else 0.0

    def failed(self, error: Exception) -> str:
        """Note a failure; returns what to tell people.

        Raises:
            DeviceError: it was one too many.
        """
        self._failures += 1
        reason = str(error).rstrip(".")
        if self._failures >= ATTEMPTS:
            raise DeviceError(
                f"{self._what} failed {self._failures} times in a row: {reason}.", fix=self._fix
            ) from error
        pause = min(FIRST_PAUSE_S * 2 ** (self._failures - 1), LAST_PAUSE_S)
        self._next = time.perf_counter() + pause
        return f"{self._what} failed ({reason}); next attempt in {pause:.2g} s"

    def succeeded(self) -> None:
        self._failures = 0
