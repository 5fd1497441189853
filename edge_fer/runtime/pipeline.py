"""The loop: source | find faces, crop | infer, smooth | sinks. Each side of a bar is a thread of its own.

The decoder works ahead (files) or keeps the newest frame only (live sources). The finder prepares faces in one place of
the face stage while the labeller waits for the scores of the other one: the places are also what bounds the work
between them, so that at most two frames are on their way. The labeller runs in the caller's thread, or in one of its
own when a sink needs the caller's: a window belongs to the main thread. Every other sink has a queue and a thread. Only
lossless sinks of a source that never drops make the loop wait: there nothing is late or lost.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.engine import Engine
from edge_fer.runtime.backoff import POLL_S, Attempts, Backoff
from edge_fer.runtime.detection_schedule import DetectionSchedule
from edge_fer.runtime.detectors.base import FaceDetector, require_eyes
from edge_fer.runtime.face_finder import FaceFinder
from edge_fer.runtime.face_stage import IN_FLIGHT, FaceStage, HostFaceStage
from edge_fer.runtime.frames import Frame, FrameSource, ReportsState
from edge_fer.runtime.loop_stats import LoopStats
from edge_fer.runtime.region_search import FlowSearch, Follower
from edge_fer.runtime.results import FaceResult, FrameResult, Sink, StopRun
from edge_fer.runtime.sink_runner import QUEUE, SinkRunner
from edge_fer.runtime.timing import Average
from edge_fer.runtime.tracking import Track, Tracker

READ_TIMEOUT_S = 10.0
PAUSE_S = 1.0
"""A gap between frames from which on, if it is also ten times the usual, the rate is counted anew."""
SPARSE = 4
"""Frames from one detection to the next from which on a frame that detection made old may be given up."""
MOST_OVERTAKEN = 2
"""... and so many of them in a row: a new face is searched for twice."""


@dataclass(frozen=True)
class _Found:
    """A frame on its way from finder to labeller, with the place of the face stage that has its first faces.

    ``boxes`` and ``angles_deg`` are those of this frame: the tracks' own move on while it is labelled. The angles are
    empty where the contract does not level eyes. ``tracks`` is ``None`` when the detector broke.
    """

    frame: Frame
    place: Any
    tracks: list[Track] | None
    boxes: list[NDArray[np.float32]]
    angles_deg: list[float] = field(default_factory=list)


class Pipeline:
    """Wires the parts together; they stay the caller's to close, except the sinks, which ``run`` finishes.

    Args:
        detect_every: search the whole picture on every n-th frame, and around the last boxes in between; ``None``
            chooses n while running (see :class:`DetectionSchedule`).
        smooth: see :class:`Tracker`.
        follower: what carries faces between detections; default: :class:`FlowSearch`.
        stage: what crops and classifies with the engine; default: :class:`HostFaceStage`.
        on_state: told in words when something breaks and tries again, and "" when all is well again. Called from the
            loop's threads.
    """

    def __init__(
        self,
        source: FrameSource,
        detector: FaceDetector,
        engine: Engine,
        sinks: Sequence[Sink],
        *,
        detect_every: int | None = None,
        smooth: float = 0.6,
        follower: Follower | None = None,
        stage: FaceStage | None = None,
        on_state: Callable[[str], None] = lambda _state: None,
    ) -> None:
        self._source, self._detector = source, detector
        self._on_state, self._live = on_state, source.info.live
        if isinstance(source, ReportsState):
            source.on_state = on_state
        model = engine.manifest.classifier
        require_eyes(detector, model)
        self._levels = model.preprocess.alignment == "eyes"
        self._labels = model.labels
        self.stage: FaceStage = stage or HostFaceStage(engine)
        self._max_faces = engine.manifest.max_batch
        self.tracker = Tracker(len(model.labels), smooth=smooth)
        self.stats = LoopStats(copies=self.stage.copies)
        self._finder = FaceFinder(
            detector,
            self.tracker,
            follower or FlowSearch(turns=self._levels),
            DetectionSchedule(1 if detector.whole_frame else detect_every, live=self._live),
            continuous=source.info.continuous,
            detect_ms=self.stats.stages["detect"],
            follow_ms=self.stats.stages["follow"],
        )
        self.runners = [SinkRunner(sink, may_drop=self._live or not sink.lossless) for sink in sinks]
        # A flag, not an event: a signal handler must not wait for a lock that its own thread may hold.
        self._stopping = False
        self._taken = self._overtaken = self._unlabelled = self._failed_in_finder = self._failed_in_labeller = 0
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for place in self.stage.places:
            self._free.put(place)
        self._ready: queue.SimpleQueue[_Found | BaseException | None] = queue.SimpleQueue()
        self._find_s, self._infer_s = Average(), Average()
        self._infer_began = 0.0
        self._handed = self._begun = 0
        self._taken_up = threading.Event()
        self._interval_s = Average(0.1)
        self._detecting = self._attempts(Backoff("Face detection", fix="Try another one with --detector."))
        self._inferring = self._attempts(Backoff("Inference", fix="Try another --backend or --precision."))

    def _attempts(self, backoff: Backoff) -> Attempts:
        return Attempts(backoff, live=self._live, stopping=lambda: self._stopping, tell=self._on_state)

    @staticmethod
    def frames_held(sinks: int) -> int:
        """Frames that a pipeline with so many sinks can hold at once, for sizing the source's pool."""
        return IN_FLIGHT + sinks * (QUEUE + 1)

    @property
    def detect_interval(self) -> int:
        """Frames from one full detection to the next, as things are now."""
        return self._finder.schedule.interval

    @property
    def read(self) -> int:
        """Frames that arrived so far. Never fewer than labelled, dropped and failed ones together, and as many after
        the run; so are the counts below, which ``stats`` takes over at the end."""
        return self._taken + self._source.dropped

    @property
    def dropped(self) -> int:
        return self._source.dropped + self._overtaken + self._unlabelled

    @property
    def failed(self) -> int:
        return self._failed_in_finder + self._failed_in_labeller

    @property
    def retries(self) -> int:
        return self._detecting.retries + self._inferring.retries

    @property
    def detections(self) -> int:
        return self._finder.detections

    def stop(self) -> None:
        """End after the frames that are on their way. May be called from a signal handler or another thread."""
        self._stopping = True
        self._source.interrupt()

    def run(self, *, max_frames: int | None = None) -> LoopStats:
        """Process frames until the source ends, ``max_frames`` are done, or ``stop`` is called; then finish the sinks.

        Raises:
            EdgeFerError: the source, the detector, the engine or a sink failed for good. The sinks are finished first:
                files are whole.
        """
        stats = self.stats
        began, cpu_began = time.perf_counter(), time.process_time()
        failures: list[BaseException] = []

        def loop() -> None:
            try:
                self._label_all(began, max_frames)
            except StopRun:
                pass
            except BaseException as error:
                failures.append(error)

        served = [runner for runner in self.runners if runner.on_caller]
        if served:
            middle = threading.Thread(target=loop, name="label", daemon=True)
            middle.start()
            while middle.is_alive():
                for runner in served:
                    runner.serve()
                    if runner.failure() is not None and not self._stopping:
                        self.stop()  # the next frame would tell the labeller; while a camera is away there is none
        else:
            loop()
        failure = failures[0] if failures else None
        stats.seconds = time.perf_counter() - began
        # A live source goes on counting until it is closed: what it has dropped is read once.
        never_read = self._source.dropped
        stats.frames_in = self._taken + never_read
        stats.dropped = never_read + self._overtaken + self._unlabelled
        stats.failed, stats.retries, stats.detections = self.failed, self.retries, self.detections
        for runner in self.runners:
            try:
                runner.finish(complete=failure is None)
            except BaseException as error:
                failure = failure or error
        stats.cpu_seconds = time.process_time() - cpu_began
        if failure is not None:
            raise failure
        return stats

    # The finder's thread.

    def _find_all(self, max_frames: int | None) -> None:
        end: BaseException | None = None
        try:
            while not self._stopping and (max_frames is None or self._taken - self._overtaken < max_frames):
                try:
                    place = self._free.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                if (frame := self._read()) is None:
                    break
                try:
                    began, tracks = time.perf_counter(), self._find(frame)
                    for _ in range(MOST_OVERTAKEN):
                        if not tracks or not self._too_old() or (newer := self._read()) is None:
                            break
                        frame.release()
                        self._overtaken += 1
                        frame = newer
                        began, tracks = time.perf_counter(), self._find(frame)
                    found = self._begin(frame, place, tracks)
                    if found.boxes:
                        self._find_s.add(time.perf_counter() - began)
                except BaseException:
                    self._failed_in_finder += 1
                    frame.release()
                    raise
                self._handed += bool(found.boxes)
                self._ready.put(found)
        except BaseException as error:  # handed to the labeller, which raises it after the frames before
            end = error
        self._ready.put(end)

    def _read(self) -> Frame | None:
        self._await_turn()
        began = time.perf_counter()
        if (frame := self._source.read(READ_TIMEOUT_S)) is not None:
            self.stats.stages["wait"].add(1e3 * (time.perf_counter() - began))
            self._taken += 1
        return frame

    def _too_old(self) -> bool:
        """Whether to follow the faces just found into a newer frame and label that one instead of theirs.

        Detection takes several times as long as following. Where a camera has delivered again meanwhile, labels of the
        frame that was searched would come late by that long, and one of the two frames is dropped in any case.
        """
        return (
            self._live
            and self._finder.searched
            and self._finder.following
            and self.detect_interval >= SPARSE
            and self._source.waiting
        )

    def _await_turn(self) -> None:
        """Fetch a live frame no sooner than it can be labelled as soon as its faces are found.

        Fetched sooner it would wait for the engine and grow old; a newer one is there by then. Until the labeller has
        taken up the frame before, nobody knows when the engine will be free.
        """
        if not self._live:
            return
        while not self._stopping:
            self._taken_up.clear()
            if self._begun >= self._handed:
                break
            self._taken_up.wait(POLL_S)
        if began := self._infer_began:
            early_s = began + self._infer_s.value - self._find_s.value - time.perf_counter()
            if early_s > 0:
                time.sleep(min(early_s, POLL_S))

    def _find(self, frame: Frame) -> list[Track] | None:
        """The tracks of a frame's faces; ``None`` when the detector failed on it."""
        self._finder.schedule.dropped(self._source.dropped)
        return self._detecting.make(lambda: self._finder.find(frame))

    def _begin(self, frame: Frame, place: Any, tracks: list[Track] | None) -> _Found:
        """Crop a frame's first faces into a place, for the labeller."""
        if not tracks:
            return _Found(frame, place, tracks, [])
        boxes = [track.box_xyxy for track in tracks]
        angles = [track.angle_deg for track in tracks] if self._levels else []
        began = time.perf_counter()
        self._prepare(place, frame, boxes[: self._max_faces], angles[: self._max_faces])
        self.stats.stages["crop"].add(1e3 * (time.perf_counter() - began))
        return _Found(frame, place, list(tracks), boxes, angles)

    # The labeller's thread.

    def _label_all(self, began: float, max_frames: int | None) -> None:
        stats, previous = self.stats, time.perf_counter()
        finder = threading.Thread(target=self._find_all, args=(max_frames,), name="find", daemon=True)
        finder.start()
        try:
            while (found := self._next()) is not None:
                try:
                    try:
                        faces = self._label(found)
                    except BaseException:
                        self._failed_in_labeller += 1
                        raise
                    self._free.put(found.place)
                    if faces is None:
                        self._failed_in_labeller += 1
                        continue
                    now = time.perf_counter()
                    age_ms = (time.perf_counter_ns() - found.frame.captured_ns) / 1e6
                    stats.age.add(age_ms)
                    stats.frames += 1
                    stats.faces += len(faces)
                    stats.frames_with_faces += bool(faces)
                    if faces and stats.first_label_ms is None:
                        stats.first_label_ms = 1e3 * (now - began)
                    fps, previous = self._rate(now - previous), now
                    result = FrameResult(found.frame, faces, self._labels, age_ms, fps)
                    self._offer(result)
                finally:
                    found.frame.release()
        except BaseException:
            self.stop()
            raise
        finally:
            self._end_finder(finder)

    def _offer(self, result: FrameResult) -> None:
        """Give a labelled frame to every sink; one that failed before keeps it from no other.

        Raises:
            BaseException: what the first of those said.
        """
        failure: BaseException | None = None
        for runner in self.runners:
            try:
                runner.offer(result)
            except BaseException as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _rate(self, interval_s: float) -> float:
        """Frames a second, from the mean interval: one short interval among long ones does not make a fast loop."""
        known = self._interval_s.value
        if self.stats.frames == 1 or (known and interval_s > max(PAUSE_S, 10 * known)):
            self._interval_s = Average(0.1)  # the start, or a camera that was away
        else:
            self._interval_s.add(max(interval_s, 1e-6))
        return 1.0 / self._interval_s.value if self._interval_s.value else 0.0

    def _next(self) -> _Found | None:
        """The next found frame, ``None`` at the end. Never blocks for long: a signal must be heard on every system."""
        while True:
            try:
                item = self._ready.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def _end_finder(self, finder: threading.Thread) -> None:
        """Wait for the finder; frames that it has found and nobody will label count as dropped."""
        end = time.perf_counter() + READ_TIMEOUT_S
        while finder.is_alive() and time.perf_counter() < end:
            finder.join(POLL_S)
        with contextlib.suppress(queue.Empty):
            while True:
                if isinstance(item := self._ready.get_nowait(), _Found):
                    item.frame.release()
                    self._unlabelled += 1

    def _label(self, found: _Found) -> tuple[FaceResult, ...] | None:
        """Results of a frame's faces; ``None`` when detector or engine failed on it."""
        if not (tracks := found.tracks):
            return None if tracks is None else ()
        self._infer_began = time.perf_counter()
        self._begun += 1
        self._taken_up.set()
        try:
            return self._inferring.make(lambda: self._infer(found, tracks))
        finally:
            self._infer_began = 0.0

    def _infer(self, found: _Found, tracks: list[Track]) -> tuple[FaceResult, ...]:
        infer_s = track_s = 0.0
        step, results = self._max_faces, []
        for first in range(0, len(tracks), step):
            part, boxes = tracks[first : first + step], found.boxes[first : first + step]
            began = time.perf_counter()
            if first:  # more faces than a place holds: the finder has prepared the first ones
                self._prepare(found.place, found.frame, boxes, found.angles_deg[first : first + step])
            scores = self.stage.scores(found.place, len(part))
            inferred = time.perf_counter()
            for track, box, row in zip(part, boxes, scores, strict=True):
                self.tracker.update(track, row, found.frame.time_ms)
                results.append(self._result(track, box))
            infer_s, track_s = infer_s + inferred - began, track_s + time.perf_counter() - inferred
        self._infer_s.add(infer_s)
        self.stats.stages["infer"].add(1e3 * infer_s)
        self.stats.stages["track"].add(1e3 * track_s)
        return tuple(results)

    # What both threads share.

    def _prepare(
        self, place: Any, frame: Frame, boxes: Sequence[NDArray[np.float32]], angles_deg: Sequence[float]
    ) -> None:
        whole = self._detector.whole_frame
        self.stage.prepare(place, frame.image_bgr, boxes, whole=whole, angles_deg=angles_deg, raw=frame.raw)

    def _result(self, track: Track, box: NDArray[np.float32]) -> FaceResult:
        left, top, right, bottom = (float(value) for value in box)
        return FaceResult(
            track.track, (left, top, right, bottom), self._labels[track.label], track.uncertain, track.scores.copy()
        )
