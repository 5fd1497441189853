"""Parts that behave exactly as told, for driving the loop."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np

from edge_fer.core.engine import Engine, Slot
from edge_fer.core.errors import EdgeFerError
from edge_fer.core.faces import Faces
from edge_fer.runtime.frames import Frame, FramePool, Mailbox, SourceInfo
from edge_fer.runtime.results import FrameResult


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
        self.dropped, self.waiting, self._index = 0, False, 0

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


def picture(seed: int, size_hw: tuple[int, int]) -> np.ndarray:
    """Something with structure at all scales, as a photograph has: points in it can be followed."""
    random = np.random.default_rng(seed)
    layers = [
        cv2.resize(random.uniform(0, 255, (side, side, 3)), size_hw[::-1], interpolation=cv2.INTER_CUBIC)
        for side in (4, 9, 20, 45)
    ]
    return np.clip(sum(layers) / len(layers), 0, 255).astype(np.uint8)


Box = tuple[float, float, float, float]


class Scene(CountingSource):
    """Squares of texture that move over a background; also the detector that knows where they are.

    Args:
        boxes_at: frame index -> what is in the picture: whole numbers, (name, box) each.
        seed_at: frame index -> which background; another one is a cut.
        size_at: frame index -> (height, width).
    """

    name, whole_frame = "the truth", False

    def __init__(
        self,
        count: int,
        boxes_at: Callable[[int], list[tuple[int, Box]]],
        *,
        live: bool = False,
        seed_at: Callable[[int], int] = lambda _index: 0,
        size_at: Callable[[int], tuple[int, int]] = lambda _index: (240, 320),
        step_ms: float = 1000 / 30,
    ) -> None:
        super().__init__(count, live=live, size_hw=size_at(0))
        self._boxes_at, self._seed_at, self._size_at, self._step_ms = boxes_at, seed_at, size_at, step_ms
        self._texture: dict[object, np.ndarray] = {}
        self.detected: list[int] = []
        self._here: list[tuple[int, Box]] = []

    def _drawn(self, key: tuple[int, tuple[int, int]]) -> np.ndarray:
        if key not in self._texture:
            self._texture[key] = picture(*key)
        return self._texture[key]

    def read(self, timeout_s: float) -> Frame | None:
        index = self._index
        self._here = self._boxes_at(index)
        self._image = self._drawn((self._seed_at(index), self._size_at(index))).copy()
        for name, (left, top, right, bottom) in self._here:
            size = (round(bottom - top), round(right - left))
            self._image[round(top) : round(top) + size[0], round(left) : round(left) + size[1]] = cv2.resize(
                self._drawn((1000 + name, (64, 64))), size[::-1]
            )
        frame = super().read(timeout_s)
        if frame is not None:
            frame.time_ms = index * self._step_ms
        return frame

    def detect(self, image_bgr: np.ndarray) -> Faces:
        self.detected.append(self._index - 1)
        return Faces(np.array([box for _, box in self._here], np.float32).reshape(-1, 4), np.ones(len(self._here)))


class HandCamera:
    """A live source whose pictures the test takes."""

    def __init__(self) -> None:
        self._pool, self._mailbox = FramePool(16), Mailbox()
        self.info = SourceInfo("hand camera", 160, 120, 30.0, live=True)
        self.taken = 0

    @property
    def dropped(self) -> int:
        return self._mailbox.dropped

    @property
    def waiting(self) -> bool:
        return self._mailbox.waiting

    def take(self, count: int = 1) -> None:
        for _ in range(count):
            frame = self._pool.take(10)
            assert frame is not None, "somebody keeps frames"
            frame.image_bgr = np.zeros((120, 160, 3), np.uint8)
            frame.index, frame.captured_ns = self.taken, time.perf_counter_ns()
            self.taken += 1
            self._mailbox.put(frame)

    def end(self) -> None:
        self._mailbox.close()

    def read(self, timeout_s: float) -> Frame | None:
        return self._mailbox.get(timeout_s)

    def interrupt(self) -> None:
        self._mailbox.close()

    def close(self) -> None:
        self._mailbox.discard()


class Recorder:
    """A sink that keeps what it saw; ``delay_s`` makes it slow, ``fail_at`` breaks it."""

    def __init__(self, *, lossless: bool = True, delay_s: float = 0.0, fail_at: int | None = None) -> None:
        self.name, self.lossless = "recorder", lossless
        self.delay_s, self.fail_at = delay_s, fail_at
        self.indices: list[int] = []
        self.labels: list[str] = []
        self.tracks: list[list[int]] = []
        self.boxes: list[list[Box]] = []
        self.closed: bool | None = None

    def write(self, result: FrameResult) -> None:
        time.sleep(self.delay_s)
        if len(self.indices) == self.fail_at:
            raise EdgeFerError("the recorder broke")
        self.indices.append(result.frame.index)
        self.labels += [face.label for face in result.faces]
        self.tracks.append([face.track for face in result.faces])
        self.boxes.append([face.box_xyxy for face in result.faces])

    def close(self, *, complete: bool) -> None:
        self.closed = complete


class FaultyEngine:
    """A real engine whose ``submit`` first asks ``before(call number)``, which may raise or wait."""

    def __init__(self, engine: Engine, before: Callable[[int], None]) -> None:
        self._engine, self._before, self.calls = engine, before, 0
        self.manifest, self.slots = engine.manifest, engine.slots

    def submit(self, slot: Slot, n: int) -> None:
        self.calls += 1
        self._before(self.calls)
        self._engine.submit(slot, n)

    def wait(self, slot: Slot) -> None:
        self._engine.wait(slot)
