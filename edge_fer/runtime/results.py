"""What the loop says about one frame, and who listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_fer.runtime.frames import Frame


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


@dataclass(frozen=True)
class FrameResult:
    """One processed frame. ``age_ms``: from the picture being complete in memory to its labels being known."""

    frame: Frame
    faces: tuple[FaceResult, ...]
    labels: tuple[str, ...]
    age_ms: float
    fps: float


@runtime_checkable
class Sink(Protocol):
    """Takes results. ``lossless`` sinks must see every result; others may be skipped when they are slow.

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
