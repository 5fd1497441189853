"""Trying again after a failure, with growing pauses and an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import cv2

from edge_fer.core.errors import DeviceError, DeviceLostError, EdgeFerError

Result = TypeVar("Result")

FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 3.2
ATTEMPTS = 8
"""Failures in a row after which there is no hope: with the pauses between them, six seconds."""
POLL_S = 0.2
BREAKS = (EdgeFerError, RuntimeError, cv2.error)
"""What a detector or an engine may throw at one frame and work again at the next; everything else is a bug of ours."""


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


class Attempts:
    """One part of the loop at work on frame after frame, and what happens when it throws: a source that waits has the
    same frame tried again, a live one goes on to its next.

    Args:
        stopping: whether the run is to end; then nothing is tried again.
        tell: told in words what failed, and "" when the part works again.
    """

    def __init__(
        self, backoff: Backoff, *, live: bool, stopping: Callable[[], bool], tell: Callable[[str], None]
    ) -> None:
        self._backoff, self._live, self._stopping, self._tell = backoff, live, stopping, tell
        self.retries = 0

    def make(self, attempt: Callable[[], Result]) -> Result | None:
        """What the attempt returns; ``None`` when the part failed on this frame, or may not be tried on it yet.

        Raises:
            DeviceError: the part failed too often in a row.
            DeviceLostError: at once, since a lost device answers every later call of this process the same.
        """
        while self._may_try():
            try:
                result = attempt()
            except DeviceLostError:
                raise
            except BREAKS as error:
                self._tell(self._backoff.failed(error))
                if self._live:
                    return None
                self.retries += 1
                continue
            if self._backoff.failing:
                self._backoff.succeeded()
                self._tell("")
            return result
        return None

    def _may_try(self) -> bool:
        while (wait_s := self._backoff.wait_s) > 0:
            if self._live or self._stopping():
                return False
            time.sleep(min(wait_s, POLL_S))
        return True
