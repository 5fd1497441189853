"""What the loop says about one frame, and who listens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_fer.runtime.frames import Frame

_NO_PICTURE = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class FaceResult:
    """One labelled face.

    Attributes:
        track: number of the face, stable while it is seen.
        box_xyxy: left, top, right, bottom in pixels of the frame.
        label: name of the class.
        uncertain: no class reached the threshold; ``label`` is the best guess.
        scores: float32 (classes,), smoothed, sums to 1.
    """

    track: int
    box_xyxy: tuple[float, float, float, float]
    label: str
    uncertain: bool
    scores: NDArray[np.float32]


class Once:
    """Work that several threads need and one of them does; the others wait for it."""

    __slots__ = ("_done", "_lock")

    def __init__(self) -> None:
        self._lock, self._done = threading.Lock(), False

    def __call__(self, work: Callable[[], None]) -> None:
        with self._lock:
            if not self._done:
                work()
                self._done = True

    def unless_done(self, other: Callable[[], None]) -> bool:
        """Do something else first, if the work was not done yet; whether it was in time."""
        with self._lock:
            if not self._done:
                other()
            return not self._done


@dataclass(frozen=True)
class FrameResult:
    """One processed frame, which several sinks share.

    Attributes:
        frame: its picture is drawn on by the first sink that shows it (``annotate.annotated``): a sink that wants the
            pixels as they were taken cannot be served beside one that shows them.
        age_ms: from the picture being complete in memory to its labels being known.
        fps: the loop's rate over about ten frames; 0 for the first one.
        drawn: see ``annotate.annotated``.
    """

    frame: Frame
    faces: tuple[FaceResult, ...]
    labels: tuple[str, ...]
    age_ms: float
    fps: float
    drawn: Once = field(default_factory=Once, repr=False, compare=False)

    def without_picture(self) -> FrameResult:
        """The same result with a frame of no pixels, which belongs to no pool and may be kept as long as one likes."""
        frame = Frame(_NO_PICTURE)
        frame.index, frame.captured_ns, frame.time_ms = self.frame.index, self.frame.captured_ns, self.frame.time_ms
        return FrameResult(frame, self.faces, self.labels, self.age_ms, self.fps)


@runtime_checkable
class Sink(Protocol):
    """Takes results. ``lossless`` sinks must see every result; others may be skipped when they are slow.

    A sink with an attribute ``needs_picture`` that is false gets results without their pixels, of which many can wait:
    behind a camera it misses none while its disk pauses for some seconds.

    A sink with a true attribute ``on_caller`` is served by the thread that called ``Pipeline.run`` instead of one of
    its own, and its ``idle()`` is called when there is nothing to write.
    """

    name: str
    lossless: bool

    def write(self, result: FrameResult) -> None:
        """Raises ``EdgeFerError`` when it cannot go on; raises ``StopRun`` when the user wants to end."""
        ...

    def close(self, *, complete: bool) -> None:
        """Finish; ``complete`` is false when the run failed, and files are then finalised as far as they got."""
        ...


class StopRun(Exception):  # noqa: N818 (a request, not an error)
    """A sink's way to say that the user closed the window or pressed q."""
