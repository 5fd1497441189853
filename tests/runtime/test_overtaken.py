"""A frame that a search of the whole picture made old gives way to a newer one, where there is one."""

from __future__ import annotations

import time

import pytest
from obedient_parts import Box, Recorder, Scene

from edge_fer.core.engine import Engine
from edge_fer.runtime.frames import Frame
from edge_fer.runtime.loop_stats import LoopStats
from edge_fer.runtime.pipeline import MOST_OVERTAKEN, Pipeline

FRAMES = 60


def walking(index: int) -> list[tuple[int, Box]]:
    left = 40.0 + 2 * index
    return [(1, (left, 60.0, left + 90, 160.0))]


def label(
    engine: Engine, scene: Scene, *, waiting: bool, detect_every: int, max_frames: int | None = None
) -> tuple[LoopStats, Recorder]:
    scene.waiting, sink = waiting, Recorder()
    stats = Pipeline(scene, scene, engine, [sink], detect_every=detect_every).run(max_frames=max_frames)
    assert stats.frames + stats.dropped == stats.frames_in
    return stats, sink


def test_where_a_newer_frame_waits_the_searched_one_is_dropped_and_counted(engine: Engine) -> None:
    scene = Scene(FRAMES, walking, live=True)
    stats, sink = label(engine, scene, waiting=True, detect_every=6)
    assert stats.frames_in == FRAMES
    assert len(scene.detected) == stats.detections >= FRAMES // 6
    assert stats.dropped == stats.detections
    assert not set(sink.indices) & set(scene.detected)
    for index, (box,) in zip(sink.indices, sink.boxes, strict=True):
        assert box == pytest.approx(walking(index)[0][1], abs=4), "the box is the newer frame's own"


def test_no_frame_is_fetched_before_the_one_before_is_taken_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for two frames' inference instead of one. The labeller is made slow to wake up."""
    events: list[str] = []

    class Camera(Scene):
        def read(self, timeout_s: float) -> Frame | None:
            events.append("read")
            return super().read(timeout_s)

    wake_up = Pipeline._next

    def sleepy(self: Pipeline) -> object:
        found = wake_up(self)
        time.sleep(0.02)
        events.append("taken up")
        return found

    monkeypatch.setattr(Pipeline, "_next", sleepy)
    label(engine, Camera(20, walking, live=True), waiting=False, detect_every=2)
    assert events[:40] == ["read", "taken up"] * 20


@pytest.mark.parametrize(
    ("live", "waiting", "detect_every"),
    [
        pytest.param(True, False, 6, id="nothing newer"),
        pytest.param(True, True, 2, id="every second label would be lost"),
        pytest.param(False, True, 6, id="a file"),
    ],
)
def test_otherwise_every_frame_is_labelled(engine: Engine, live: bool, waiting: bool, detect_every: int) -> None:
    stats, _ = label(engine, Scene(FRAMES, walking, live=live), waiting=waiting, detect_every=detect_every)
    assert (stats.frames, stats.dropped) == (FRAMES, 0)


def test_faces_that_must_be_searched_on_every_frame_are_still_labelled(engine: Engine) -> None:
    """Another face in another place on every frame: nothing can be followed."""

    def elsewhere(index: int) -> list[tuple[int, Box]]:
        left, top = 10.0 + 100 * (index % 2), 10.0 + 60 * (index % 3)
        return [(index, (left, top, left + 90, top + 100))]

    scene = Scene(FRAMES, elsewhere, live=True, seed_at=lambda index: index)
    stats, _ = label(engine, scene, waiting=True, detect_every=6)
    assert stats.frames == FRAMES // (MOST_OVERTAKEN + 1)


def test_frames_that_gave_way_do_not_count_as_those_that_were_asked_for(engine: Engine) -> None:
    stats, _ = label(engine, Scene(FRAMES, walking, live=True), waiting=True, detect_every=6, max_frames=7)
    assert (stats.frames, stats.dropped) == (7, stats.detections)


def test_the_last_frame_of_a_source_is_not_given_up(engine: Engine) -> None:
    stats, _ = label(engine, Scene(1, walking, live=True), waiting=True, detect_every=6)
    assert (stats.frames, stats.dropped) == (1, 0)
