"""The loop: every frame accounted for, nothing grows, faults end in sentences and whole files."""

from __future__ import annotations

import gc
import json
import os
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from obedient_parts import CountingSource, FixedFaces, HandCamera, Recorder

from edge_fer.core.engine import Engine
from edge_fer.core.errors import EdgeFerError, SourceError
from edge_fer.runtime.detectors.haar import HaarDetector
from edge_fer.runtime.detectors.whole_frame import WholeFrame
from edge_fer.runtime.frames import Frame, SourceInfo
from edge_fer.runtime.loop_stats import LoopStats
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.preprocess import face_pixels, normalise_into
from edge_fer.runtime.results import FrameResult, StopRun
from edge_fer.runtime.sink_runner import QUEUE
from edge_fer.runtime.sinks.jsonl import JsonlSink
from edge_fer.runtime.sources.choose import open_source

BOX = (20.0, 20.0, 90.0, 90.0)


def run(engine: Engine, source: object, *sinks: object, **options: object) -> LoopStats:
    pipeline = Pipeline(source, FixedFaces(BOX), engine, sinks, **options)  # type: ignore[arg-type]
    return pipeline.run()


def test_the_demo_face_is_found_and_happy(engine: Engine, short_clip: Path) -> None:
    sink = Recorder()
    source = open_source(str(short_clip), pool_size=Pipeline.frames_held(1))
    stats = Pipeline(source, HaarDetector(min_face_px=80), engine, [sink]).run()
    source.close()
    assert sink.indices == list(range(12))
    assert sink.labels == ["happy"] * 12
    assert (stats.frames, stats.frames_with_faces, stats.dropped) == (12, 12, 0)
    assert sink.closed is True


@pytest.mark.parametrize("count", [0, 1, 8, 11])
def test_no_one_and_more_faces_than_a_slot_takes(engine: Engine, count: int) -> None:
    boxes = [(12.0 * i, 10.0, 12.0 * i + 11 + i, 21.0 + i) for i in range(count)]
    results: list[FrameResult] = []

    class Keep(Recorder):
        def write(self, result: FrameResult) -> None:
            results.append(result)

    Pipeline(CountingSource(2), FixedFaces(*boxes), engine, [Keep()]).run()
    assert [len(result.faces) for result in results] == [count] * 2
    for face in results[0].faces:
        assert face.scores.sum() == pytest.approx(1, abs=1e-5)
    assert [face.box_xyxy for face in results[0].faces] == boxes


def test_a_slow_lossless_sink_of_a_file_gets_every_frame(engine: Engine) -> None:
    sink = Recorder(delay_s=0.01)
    run(engine, CountingSource(30), sink)
    assert sink.indices == list(range(30))


def test_a_slow_sink_of_a_live_source_skips_and_is_counted(engine: Engine) -> None:
    """One sink hangs in its first picture for twenty frames; the loop and the other sink see all of them meanwhile."""
    go_on, seen = threading.Event(), threading.Semaphore(0)

    class Slow(Recorder):
        def write(self, result: FrameResult) -> None:
            assert go_on.wait(60)
            super().write(result)

    class Quick(Recorder):
        def write(self, result: FrameResult) -> None:
            super().write(result)
            seen.release()

    camera, slow, quick = HandCamera(), Slow(), Quick()
    pipeline = Pipeline(camera, FixedFaces(BOX), engine, [slow, quick])
    running = threading.Thread(target=pipeline.run, daemon=True)
    running.start()
    for _ in range(20):
        camera.take()
        assert seen.acquire(timeout=60)
    go_on.set()
    camera.end()
    running.join(60)
    assert not running.is_alive()
    slow_runner, quick_runner = pipeline.runners
    assert (pipeline.stats.frames, pipeline.stats.dropped) == (20, 0)
    assert (quick_runner.written, quick_runner.dropped) == (20, 0)
    assert (slow_runner.written, slow_runner.dropped) == (1 + QUEUE, 20 - 1 - QUEUE)
    assert quick.indices == list(range(20))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_table_of_a_camera_misses_no_frame_while_its_disk_pauses(engine: Engine, tmp_path: Path) -> None:
    """A pipe that nobody opens stands for it: three seconds of a camera wait, although their pictures have gone on."""
    pipe, count = tmp_path / "pipe", 90
    os.mkfifo(pipe)
    camera, seen = HandCamera(), threading.Semaphore(0)

    class Quick(Recorder):
        def write(self, result: FrameResult) -> None:
            super().write(result)
            seen.release()

    pipeline = Pipeline(camera, FixedFaces(BOX), engine, [JsonlSink(pipe), Quick()])
    running = threading.Thread(target=pipeline.run, daemon=True)
    running.start()
    for _ in range(count):
        camera.take()
        assert seen.acquire(timeout=60)
    with pipe.open() as lines:
        camera.end()
        records = [json.loads(line) for line in lines]
    running.join(60)
    assert not running.is_alive()
    assert [record["frame"] for record in records] == list(range(count))
    assert all(record["faces"] for record in records)
    assert [(runner.written, runner.dropped) for runner in pipeline.runners] == [(count, 0), (count, 0)]


def test_a_slow_output_is_not_taken_for_one_that_hangs(engine: Engine) -> None:
    """What counts is that it goes on, however much waits before it."""

    class Slow(Recorder):
        needs_picture = False

    slow = Slow(delay_s=0.05)
    pipeline = Pipeline(CountingSource(60, live=True), FixedFaces(BOX), engine, [slow])
    pipeline.runners[0].finish_timeout_s = 0.5
    stats = pipeline.run()
    assert slow.indices == list(range(stats.frames)) == list(range(60))


def test_detection_runs_on_every_nth_frame_only(engine: Engine) -> None:
    stats = run(engine, CountingSource(20), detect_every=5)
    assert stats.detections == 4
    assert stats.faces == 20


def test_a_lost_face_is_searched_on_every_frame(engine: Engine) -> None:
    pipeline = Pipeline(CountingSource(10), FixedFaces(), engine, [], detect_every=5)
    assert pipeline.run().detections == 10


def test_the_end_can_be_asked_for_from_another_thread(engine: Engine) -> None:
    sink = Recorder()
    pipeline = Pipeline(CountingSource(10**9), FixedFaces(BOX), engine, [sink])
    threading.Timer(0.3, pipeline.stop).start()
    stats = pipeline.run()
    assert 0 < stats.frames == len(sink.indices)
    assert sink.closed is True


def test_max_frames_is_exact(engine: Engine) -> None:
    pipeline = Pipeline(CountingSource(100), FixedFaces(BOX), engine, [])
    assert pipeline.run(max_frames=7).frames == 7


def test_a_closed_window_ends_the_run_without_an_error(engine: Engine) -> None:
    class Window(Recorder):
        def write(self, result: FrameResult) -> None:
            raise StopRun

    other = Recorder()
    run(engine, CountingSource(10_000), Window(lossless=False), other)
    assert other.closed is True
    assert len(other.indices) < 10_000


def test_a_broken_sink_ends_the_run_and_the_others_are_finished(engine: Engine) -> None:
    broken, whole = Recorder(fail_at=3), Recorder()
    with pytest.raises(EdgeFerError, match="the recorder broke"):
        run(engine, CountingSource(1000), broken, whole)
    assert broken.closed is False
    assert whole.closed is False
    assert whole.indices == list(range(len(whole.indices)))


def test_a_sink_that_hangs_is_left_behind(engine: Engine) -> None:
    release = threading.Event()

    class Hanging(Recorder):
        def write(self, result: FrameResult) -> None:
            release.wait(60)

    pipeline = Pipeline(CountingSource(3), FixedFaces(BOX), engine, [Hanging(lossless=False)])
    pipeline.runners[0].finish_timeout_s = 0.3
    with pytest.raises(EdgeFerError, match="hangs"):
        pipeline.run()
    release.set()


def test_a_source_that_breaks_still_finishes_the_files(engine: Engine) -> None:
    class Breaking(CountingSource):
        def read(self, timeout_s: float) -> object:  # type: ignore[override]
            if self._index == 5:
                raise SourceError("camera 0 went away")
            return super().read(timeout_s)

    sink = Recorder()
    with pytest.raises(SourceError, match="went away"):
        run(engine, Breaking(100), sink)
    assert sink.indices == [0, 1, 2, 3, 4]
    assert sink.closed is False


@pytest.mark.slow
def test_memory_stays_flat_over_thousands_of_frames(engine: Engine) -> None:
    """The shorter brother of the soak benchmark."""
    source = CountingSource(6000)
    pipeline = Pipeline(source, FixedFaces(BOX, (95, 20, 150, 80)), engine, [Recorder(lossless=False)])
    pipeline.runners[0].sink.write = lambda result: None  # type: ignore[method-assign]
    seen: list[int] = []
    original = source.read

    def watched(timeout_s: float) -> object:
        if source._index in (1500, 5900):
            gc.collect()
            seen.append(tracemalloc.get_traced_memory()[0])
        return original(timeout_s)

    source.read = watched  # type: ignore[method-assign,assignment]
    tracemalloc.start()
    try:
        pipeline.run()
    finally:
        tracemalloc.stop()
    assert len(seen) == 2
    assert seen[1] - seen[0] < 100_000, f"grew by {seen[1] - seen[0]} bytes over 4,400 frames"


def test_scores_shown_belong_to_their_frame(engine: Engine) -> None:
    """A result keeps its scores when the next frame overwrites the slot."""
    kept: list[np.ndarray] = []

    class Keep(Recorder):
        def write(self, result: FrameResult) -> None:
            kept.append(result.faces[0].scores)

    run(engine, CountingSource(5), Keep(), smooth=0.0)
    assert len({scores.ctypes.data for scores in kept}) == 5


def test_pictures_of_a_folder_do_not_colour_each_other(engine: Engine, demo_frames: list[np.ndarray]) -> None:
    """The same place in two pictures is not the same person: no number and no score is carried over."""

    class TwoPictures(CountingSource):
        def __init__(self) -> None:
            super().__init__(4)
            self.info = SourceInfo("pictures", 160, 120, 0.0, live=False, frames=4, continuous=False)

        def read(self, timeout_s: float) -> Frame | None:
            frame = super().read(timeout_s)
            if frame is not None and frame.index % 2:
                frame.image_bgr[:] = 255 - frame.image_bgr
            return frame

    class Scores(Recorder):
        def write(self, result: FrameResult) -> None:
            super().write(result)
            seen.append((result.faces[0].track, result.faces[0].scores))

    seen: list[tuple[int, np.ndarray]] = []
    run(engine, TwoPictures(), Scores(), smooth=0.6)
    assert [number for number, _ in seen] == [1, 2, 3, 4]
    np.testing.assert_array_equal(seen[0][1], seen[2][1])
    np.testing.assert_array_equal(seen[1][1], seen[3][1])
    assert np.abs(seen[0][1] - seen[1][1]).max() > 1e-3


def test_a_frame_that_is_a_face_is_seen_as_evaluation_sees_it(engine: Engine) -> None:
    """``--detector none``: whatever its shape, and without the margin that a crop from a larger picture gets."""
    source = CountingSource(1, size_hw=(200, 90))
    pipeline = Pipeline(source, WholeFrame(), engine, [])
    pipeline.run()
    spec = engine.manifest.model.preprocess
    expected = np.zeros((spec.channels, *spec.size_hw), np.float32)
    normalise_into(expected, face_pixels(source._image, spec), spec)
    np.testing.assert_array_equal(engine.slots[0].inputs["input"][0], expected)


def test_a_lossless_sink_that_hangs_does_not_stop_the_loop_for_ever(engine: Engine) -> None:
    release = threading.Event()

    class Hanging(Recorder):
        def write(self, result: FrameResult) -> None:
            release.wait(60)

    pipeline = Pipeline(CountingSource(100), FixedFaces(BOX), engine, [Hanging()])
    pipeline.runners[0].finish_timeout_s = pipeline.runners[0].write_timeout_s = 0.3
    with pytest.raises(EdgeFerError, match="hangs"):
        pipeline.run()
    release.set()


def test_a_sink_that_needs_the_callers_thread_gets_it_and_no_other(engine: Engine) -> None:
    threads: set[str] = set()

    class Window(Recorder):
        on_caller = True

        def write(self, result: FrameResult) -> None:
            threads.add(threading.current_thread().name)
            super().write(result)

        def idle(self) -> None:
            threads.add(threading.current_thread().name)

        def close(self, *, complete: bool) -> None:
            threads.add(threading.current_thread().name)
            super().close(complete=complete)

    window, other = Window(lossless=False), Recorder()
    run(engine, CountingSource(50), window, other)
    assert threads == {threading.current_thread().name}
    assert window.closed is True
    assert other.indices == list(range(50))
