"""When to search the whole picture for faces, and when following the known ones is enough."""

from __future__ import annotations

import math
from collections import deque

LONGEST = 15
"""Frames between two full detections at most."""
NEW_FACE_MS = 500.0
"""A new face is searched for at least this often, in the source's own time."""
PATIENT = 5.0
"""... unless one detection takes so long that this many of them do not fit: a slow machine must not only detect."""
IDLE_AFTER_MS, IDLE_EVERY_MS = 2000.0, 100.0
"""A camera that has shown nobody for a while is searched ten times a second, not on every frame."""
COSTS_KEPT, COSTS_NEEDED = 9, 3
"""Of the last costs the least counts: a hiccup of the machine says nothing about the work."""
PROBE_EVERY = 150
"""Frames after which following is tried again where it did not pay."""
CALM = 30
"""Frames without a drop after which detection may come back to twice the rate."""


class DetectionSchedule:
    """Says on each frame whether to detect.

    With a number, every that many frames. With ``None`` the interval adapts:

    * so many frames that detection costs, averaged over them, about as much as following does;
    * at most as many as a face needs to travel by its own width;
    * twice as many each time that the source had to drop frames, and half as many again when it no longer does;
    * at most ``LONGEST`` frames and ``NEW_FACE_MS``, so that a face that enters is found within half a second.

    In both cases a face that following loses is searched for at once, and then after 2, 4, 8 ... frames.

    Args:
        every: the fixed interval, or ``None``.
        live: the source drops what comes too late.
    """

    def __init__(self, every: int | None, *, live: bool) -> None:
        if every is not None and every < 1:
            raise ValueError("detect_every must be at least 1")
        self._every, self._live = every, live
        self._since = LONGEST
        self._last_ms = -math.inf
        self._nobody_since_ms: float | None = None
        self._detect_ms: deque[float] = deque(maxlen=COSTS_KEPT)
        self._follow_ms: deque[float] = deque(maxlen=COSTS_KEPT)
        self._faces, self._motion = 1, 0.0
        self._stretch, self._dropped, self._calm, self._alone = 1, 0, 0, 0

    @property
    def interval(self) -> int:
        """Frames from one full detection to the next while nothing is lost; 1: following is not worth its time."""
        if self._every is not None:
            return self._every
        if not self._detect_ms or len(self._follow_ms) < COSTS_NEEDED:
            return 2
        ratio = min(self._detect_ms) / max(1e-3, min(self._follow_ms) * self._faces)
        if ratio < 2:
            return 1
        by_motion = 1 / self._motion if self._motion > 0 else math.inf
        return max(2, int(min(math.ceil(ratio) * self._stretch, by_motion, LONGEST)))

    def due(self, time_ms: float, *, faces: int, missed: int, unconfirmed: bool) -> bool:
        """Whether to detect on this frame; called once a frame.

        Args:
            time_ms: the frame's place in the source.
            faces: known faces in the picture.
            missed: detections that the face that was lost last has been missing for; 0 when none is lost.
            unconfirmed: some face was found once only, and may be none.
        """
        self._since += 1
        self._faces = max(1, faces)
        if not faces:
            return self._search_empty(time_ms)
        self._nobody_since_ms = None
        interval = self.interval
        if self._every is None and interval == 1:
            self._alone += 1
            if self._alone == PROBE_EVERY:
                self._follow_ms.clear()
                self._alone = 0
        if missed:
            interval = min(interval, 2**missed)
        if self._every is not None:
            return self._since >= interval
        return unconfirmed or self._since >= interval or time_ms - self._last_ms >= self._patience_ms

    @property
    def _patience_ms(self) -> float:
        slow = PATIENT * min(self._detect_ms) if self._detect_ms and self._live else 0.0
        return max(NEW_FACE_MS, slow)

    def _search_empty(self, time_ms: float) -> bool:
        if self._nobody_since_ms is None:
            self._nobody_since_ms = time_ms
        idle = self._live and self._every is None and time_ms - self._nobody_since_ms > IDLE_AFTER_MS
        return not idle or time_ms - self._last_ms >= IDLE_EVERY_MS

    def detected(self, time_ms: float, cost_ms: float) -> None:
        """The whole picture was searched."""
        self._since, self._last_ms = 0, time_ms
        self._detect_ms.append(cost_ms)

    def followed(self, cost_ms: float, faces: int, motion: float) -> None:
        """``faces`` were followed; ``motion``: the farthest way of one of them, in widths of its box."""
        self._follow_ms.append(cost_ms / faces)
        self._motion += 0.2 * (motion - self._motion)

    def dropped(self, total: int) -> None:
        """What the source has dropped so far; called once a frame."""
        if total > self._dropped:
            self._dropped, self._calm = total, 0
            self._stretch = min(2 * self._stretch, LONGEST)
        else:
            self._calm += 1
            if self._calm >= CALM:
                self._stretch, self._calm = max(1, self._stretch // 2), 0
