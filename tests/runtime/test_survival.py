"""Faults are injected into detector, engine and camera: the run goes on, every frame is accounted for, or it ends with
one sentence and whole files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from obedient_parts import Box, CountingSource, FaultyEngine, FixedFaces, HandCamera, Recorder, Scene

from edge_fer.core.engine import Engine
from edge_fer.core.errors import DeviceError, EdgeFerError
from edge_fer.core.faces import Faces
from edge_fer.runtime import backoff
from edge_fer.runtime.face_stage import IN_FLIGHT
from edge_fer.runtime.frames import Frame
from edge_fer.runtime.loop_stats import LoopStats
from edge_fer.runtime.pipeline import Pipeline

BOX = (20.0, 20.0, 90.0, 90.0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same attempts, with shorter pauses."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(backoff, "LAST_PAUSE_S", 0.02)


def failing_at(*calls: int) -> Callable[[int], None]:
    def before(call: int) -> None:
        if call in calls:
            raise EdgeFerError("the driver hiccuped")

    return before


def for_ever(_call: int) -> None:
    raise EdgeFerError("the driver is gone.")


def accounted(stats: LoopStats) -> int:
    return stats.frames + stats.dropped + stats.failed


class FaultyDetector(FixedFaces):
    def __init__(self, before: Callable[[int], None]) -> None:
        super().__init__(BOX)
        self._before, self.calls = before, 0

    def detect(self, image_bgr: np.ndarray) -> Faces:
        self.calls += 1
        self._before(self.calls)
        return super().detect(image_bgr)


@pytest.mark.parametrize("part", ["engine", "detector"])
def test_a_file_waits_for_a_part_that_fails_and_loses_no_frame(engine: Engine, part: str) -> None:
    told: list[str] = []
    sink, faults = Recorder(), failing_at(3, 4, 9)
    detector = FaultyDetector(faults if part == "detector" else failing_at())
    runner = FaultyEngine(engine, faults if part == "engine" else failing_at())
    stats = Pipeline(
        CountingSource(20), detector, runner, [sink], detect_every=1, on_state=told.append  # type: ignore[arg-type]
    ).run()  # fmt: skip
    assert sink.indices == list(range(20))
    assert len(sink.labels) == 20
    assert (stats.frames, stats.failed, stats.retries) == (20, 0, 3)
    assert [bool(state) for state in told] == [True, True, False, True, False]
    assert "the driver hiccuped" in told[0]
    assert "next attempt in" in told[0]


class PacedSource(CountingSource):
    """As a camera, it has no next frame at once: there is time for another attempt before the frames are over."""

    def read(self, timeout_s: float) -> Frame | None:
        time.sleep(0.002)
        return super().read(timeout_s)


@pytest.mark.parametrize("part", ["engine", "detector"])
def test_a_camera_goes_on_and_its_failed_frames_are_counted(engine: Engine, part: str) -> None:
    told: list[str] = []
    sink, faults = Recorder(), failing_at(3, 4, 9)
    detector = FaultyDetector(faults if part == "detector" else failing_at())
    runner = FaultyEngine(engine, faults if part == "engine" else failing_at())
    source = PacedSource(100, live=True)
    stats = Pipeline(
        source, detector, runner, [sink], detect_every=1, on_state=told.append  # type: ignore[arg-type]
    ).run()  # fmt: skip
    assert accounted(stats) == 100
    assert stats.failed >= 3
    assert stats.retries == 0
    assert "" in told, "all is well again"


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("part", ["engine", "detector"])
def test_a_part_that_never_works_again_ends_the_run_with_a_sentence_and_whole_files(
    engine: Engine, part: str, live: bool
) -> None:
    sink = Recorder()
    detector = FaultyDetector(for_ever if part == "detector" else failing_at())
    runner = FaultyEngine(engine, for_ever if part == "engine" else failing_at())
    source = CountingSource(10**9, live=live)
    pipeline = Pipeline(source, detector, runner, [sink], detect_every=1)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=r"failed 8 times in a row: the driver is gone\. Try another"):
        pipeline.run()
    assert sink.closed is False
    assert sink.indices == []
    assert accounted(pipeline.stats) == source._index
    assert threading.active_count() < 20


def test_a_bug_is_not_tried_again(engine: Engine) -> None:
    def bug(call: int) -> None:
        if call == 3:
            raise TypeError("a bug of ours")

    pipeline = Pipeline(CountingSource(10), FixedFaces(BOX), FaultyEngine(engine, bug), [])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pipeline.run()
    assert (pipeline.stats.frames, pipeline.stats.retries) == (2, 0)


def test_a_frame_that_opencv_refuses_is_a_failed_frame(engine: Engine) -> None:
    """A corrupt frame makes OpenCV throw its own error, which is none of ours."""

    def corrupt(call: int) -> None:
        if call == 2:
            cv2.cvtColor(np.empty((0, 0, 3), np.uint8), cv2.COLOR_BGR2GRAY)

    stats = Pipeline(CountingSource(9, live=True), FaultyDetector(corrupt), engine, [], detect_every=1).run()
    assert accounted(stats) == 9
    assert stats.failed >= 1


def test_an_engine_that_stalls_leaves_at_most_the_frames_on_their_way(engine: Engine) -> None:
    """After a stall of a hundred frames the next ones are new: lag does not grow, and every frame is accounted for."""
    stalled, go_on = threading.Event(), threading.Event()

    def stall(call: int) -> None:
        if call == 3:
            stalled.set()
            assert go_on.wait(120)

    camera, sink, steps = HandCamera(), Recorder(), threading.Semaphore(0)
    original = sink.write
    sink.write = lambda result: (original(result), steps.release())[0]  # type: ignore[method-assign,assignment]
    pipeline = Pipeline(camera, FixedFaces(BOX), FaultyEngine(engine, stall), [sink])  # type: ignore[arg-type]
    running = threading.Thread(target=pipeline.run, daemon=True)
    running.start()
    for _ in range(2):
        camera.take()
        assert steps.acquire(timeout=120)
    camera.take()
    assert stalled.wait(120)
    camera.take(100)
    go_on.set()
    camera.end()
    running.join(120)
    assert not running.is_alive()
    stats = pipeline.stats
    assert stats.frames + stats.dropped == camera.taken == 103
    old = [index for index in sink.indices if 2 < index < 102]
    assert len(old) <= IN_FLIGHT
    assert sink.indices[-1] == 102


def test_the_first_face_after_an_hour_without_one_is_found_at_once(engine: Engine) -> None:
    """An hour of a camera that gives two frames a second in an empty room; then somebody enters."""
    count, enters = 7_220, 7_200

    def place(index: int) -> list[tuple[int, Box]]:
        return [(1, (5, 5, 25, 25))] if index >= enters else []

    scene = Scene(count, place, live=True, size_at=lambda _index: (32, 32), step_ms=500)
    stats = Pipeline(scene, scene, engine, []).run()
    assert stats.frames == count
    assert stats.frames_with_faces == count - enters
    assert min(index for index in scene.detected if index >= enters) == enters


def test_a_request_to_end_is_heard_while_a_part_fails(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr(backoff, "LAST_PAUSE_S", 60.0)
    failed = threading.Event()
    pipeline = Pipeline(
        CountingSource(100), FixedFaces(BOX), FaultyEngine(engine, for_ever), [],  # type: ignore[arg-type]
        on_state=lambda _state: failed.set(),
    )  # fmt: skip
    running = threading.Thread(target=pipeline.run, daemon=True)
    running.start()
    assert failed.wait(120)
    pipeline.stop()
    running.join(55)
    assert not running.is_alive()
