"""Parts that behave exactly as told, for driving the loop."""

from __future__ import annotations

import time

import numpy as np

from edge_fer.core.faces import Faces
from edge_fer.runtime.frames import Frame, FramePool, SourceInfo


class FixedFaces:
    """A detector that finds what it was told."""

    name, whole_frame = "fixed", False

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes = np.array(boxes, np.float32).reshape(-1, 4)

    def detect(self, image_bgr: np.ndarray) -> Faces:
        return Faces(self.boxes.copy(), np.ones(len(self.boxes), np.float32))


class CountingSource:
    """Delivers ``count`` small frames as fast as they are asked for; live or not."""

    def __init__(self, count: int, *, live: bool = False, size_hw: tuple[int, int] = (120, 160)) -> None:
        self._pool, self._left = FramePool(16), count
        self._image = np.random.default_rng(0).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
        self.info = SourceInfo("counting", size_hw[1], size_hw[0], 30.0, live=live, frames=count)
        self.dropped, self._index = 0, 0

    def read(self, timeout_s: float) -> Frame | None:
        if not self._left:
            return None
        self._left -= 1
        frame = self._pool.take(timeout_s)
        assert frame is not None, "somebody keeps frames"
        if frame.image_bgr.shape != self._image.shape:
            frame.image_bgr = np.empty_like(self._image)
        np.copyto(frame.image_bgr, self._image)
        frame.index, frame.captured_ns = self._index, time.perf_counter_ns()
        frame.time_ms = 1000 * self._index / 30
        self._index += 1
        return frame

    def interrupt(self) -> None:
        self._left = 0

    def close(self) -> None:
        self._left = 0
