"""What one run of the loop counted and measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_fer.cuda.copies import Copies
from edge_fer.runtime.timing import Reservoir

STAGES = ("wait", "detect", "follow", "crop", "infer", "track")


@dataclass
class LoopStats:
    """Counts and times of one run.

    Every frame of the source, ``frames_in`` of them, is counted once: ``frames`` were labelled, ``dropped`` came too
    late, for ``failed`` the detector or the engine broke. ``retries``: attempts that were repeated on the frame of a
    source that can wait. ``copies``: of frames, on a GPU.
    """

    frames_in: int = 0
    frames: int = 0
    frames_with_faces: int = 0
    faces: int = 0
    dropped: int = 0
    failed: int = 0
    retries: int = 0
    detections: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    first_label_ms: float | None = None
    copies: Copies | None = None
    age: Reservoir = field(default_factory=Reservoir)
    stages: dict[str, Reservoir] = field(default_factory=lambda: {name: Reservoir() for name in STAGES})

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0
