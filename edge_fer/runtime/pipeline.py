"""The loop: source | detect, crop, infer, track | sinks. Each side of a bar is a thread of its own.

The decoder works ahead (files) or keeps the newest frame only (live sources). The middle runs in the caller's thread,
or in one of its own when a sink needs the caller's: a window belongs to the main thread. Every other sink has a queue
and a thread, so that a slow disk or window never holds up the loop of a live source. Only lossless sinks of a source
that never drops make the loop wait: there nothing is late or lost.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_fer.core.engine import INPUT, OUTPUT, Engine
from edge_fer.core.errors import EdgeFerError
from edge_fer.runtime.detectors.base import FaceDetector
from edge_fer.runtime.frames import FrameSource
from edge_fer.runtime.postprocess import softmax_into
from edge_fer.runtime.preprocess import FaceCropper
from edge_fer.runtime.results import FaceResult, FrameResult, Sink, StopRun
from edge_fer.runtime.timing import Reservoir
from edge_fer.runtime.tracking import Track, Tracker

QUEUE = 3
"""Results that may wait before a sink."""
READ_TIMEOUT_S = 10.0
SINK_TIMEOUT_S = 30.0
"""A lossless sink that takes longer for one result hangs, and ends the run instead of stopping it for ever."""
SERVE_S = 0.02
STAGES = ("wait", "detect", "crop", "infer", "track")


class SinkRunner:
    """Runs one sink in a thread and counts what it missed."""

    def __init__(self, sink: Sink, *, may_drop: bool) -> None:
        self.sink, self.dropped, self.written = sink, 0, 0
        self.finish_timeout_s, self.write_timeout_s = 10.0, SINK_TIMEOUT_S
        self._error: list[BaseException] = []
        self._may_drop, self._complete = may_drop, True
        self._queue: queue.Queue[FrameResult | None] = queue.Queue(QUEUE)
        self.on_caller = bool(getattr(sink, "on_caller", False))
        self._thread = threading.Thread(target=self._run, name=f"sink-{sink.name}", daemon=True)
        if not self.on_caller:
            self._thread.start()

    def failure(self) -> BaseException | None:
        """The first thing that went wrong in the sink's thread."""
        return self._error[0] if self._error else None

    def _run(self) -> None:
        while (result := self._queue.get()) is not None:
            self._take(result)
        self._close()

    def _take(self, result: FrameResult) -> None:
        if self.failure() is None:
            try:
                self.sink.write(result)
                self.written += 1
            except BaseException as error:  # handed to the loop, which raises it
                self._error.append(error)
        result.frame.release()

    def serve(self) -> None:
        """In the caller's thread: write what waits; otherwise let the sink idle for a moment."""
        try:
            result = self._queue.get(timeout=SERVE_S)
        except queue.Empty:
            if self.failure() is None:
                try:
                    self.sink.idle()  # type: ignore[attr-defined]
                except BaseException as error:
                    self._error.append(error)
            return
        if result is not None:
            self._take(result)

    def _close(self) -> None:
        try:
            # In the thread that wrote, because a window belongs to the thread that opened it.
            self.sink.close(complete=self._complete and self.failure() is None)
        except BaseException as error:
            self._error.append(error)

    def _raise_failure(self) -> None:
        if (error := self.failure()) is not None:
            raise error

    def offer(self, result: FrameResult) -> None:
        """Queue a result; when the queue is full, drop it or wait for room."""
        self._raise_failure()
        result.frame.retain()
        end = time.perf_counter() + self.write_timeout_s
        while True:
            try:
                self._queue.put(result, block=not self._may_drop, timeout=0.2)
                return
            except queue.Full:
                if self._may_drop:
                    result.frame.release()
                    self.dropped += 1
                    return
                if self.failure() is not None:
                    result.frame.release()
                    self._raise_failure()
                if time.perf_counter() > end:
                    result.frame.release()
                    raise EdgeFerError(f"The output {self.sink.name} hangs; it was abandoned.") from None

    def finish(self, *, complete: bool) -> None:
        """Let the queue run empty, then close the sink. A sink that hangs is left behind after the time-out.

        Raises:
            EdgeFerError: it hangs, or it failed.
        """
        end = time.perf_counter() + self.finish_timeout_s
        self._complete = complete
        if self.on_caller:
            while not self._queue.empty():
                self.serve()
            self._close()
            if not isinstance(self.failure(), StopRun):
                self._raise_failure()
            return
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=self.finish_timeout_s)
        self._thread.join(max(0.0, end - time.perf_counter()))
        if self._thread.is_alive():
            raise EdgeFerError(f"The output {self.sink.name} hangs; it was abandoned.")
        if not isinstance(self.failure(), StopRun):
            self._raise_failure()


@dataclass
class LoopStats:
    """Counts and times of one run. ``frames`` were labelled; every frame of the source is labelled or dropped."""

    frames: int = 0
    frames_with_faces: int = 0
    faces: int = 0
    dropped: int = 0
    detections: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    first_label_ms: float | None = None
    age: Reservoir = field(default_factory=Reservoir)
    stages: dict[str, Reservoir] = field(default_factory=lambda: {name: Reservoir() for name in STAGES})

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


class Pipeline:
    """Wires the parts together; they stay the caller's to close, except the sinks, which ``run`` finishes.

    Args:
        detect_every: run the detector on every n-th frame only; between, boxes stay where they were.
        smooth: see :class:`Tracker`.
    """

    def __init__(
        self,
        source: FrameSource,
        detector: FaceDetector,
        engine: Engine,
        sinks: Sequence[Sink],
        *,
        detect_every: int = 1,
        smooth: float = 0.6,
    ) -> None:
        if detect_every < 1:
            raise ValueError("detect_every must be at least 1")
        self._source, self._detector, self._engine = source, detector, engine
        self._detect_every = detect_every
        model = engine.manifest.model
        self._labels = model.labels
        self._slot = engine.slots[0]
        self._cropper = FaceCropper(model.preprocess)
        self._scores = np.zeros((engine.manifest.max_batch, len(model.labels)), np.float32)
        self.tracker = Tracker(len(model.labels), smooth=smooth)
        live = source.info.live
        self.runners = [SinkRunner(sink, may_drop=live or not sink.lossless) for sink in sinks]
        self.stats = LoopStats()
        self._stop = threading.Event()

    @staticmethod
    def frames_held(sinks: int) -> int:
        """Frames that a pipeline with so many sinks can hold at once, for sizing the source's pool."""
        return 1 + sinks * (QUEUE + 1)

    def stop(self) -> None:
        """End after the current frame. May be called from a signal handler or another thread."""
        self._stop.set()
        self._source.interrupt()

    def run(self, *, max_frames: int | None = None) -> LoopStats:
        """Process frames until the source ends, ``max_frames`` are done, or ``stop`` is called; then finish the sinks.

        Raises:
            EdgeFerError: the source, the engine or a sink failed. The sinks are finished first: files are whole.
        """
        stats = self.stats
        began, cpu_began = time.perf_counter(), time.process_time()
        failures: list[BaseException] = []

        def loop() -> None:
            try:
                self._loop(began, max_frames)
            except StopRun:
                pass
            except BaseException as error:
                failures.append(error)

        served = [runner for runner in self.runners if runner.on_caller]
        if served:
            middle = threading.Thread(target=loop, name="loop", daemon=True)
            middle.start()
            while middle.is_alive():
                for runner in served:
                    runner.serve()
        else:
            loop()
        failure = failures[0] if failures else None
        stats.seconds = time.perf_counter() - began
        stats.dropped = self._source.dropped
        for runner in self.runners:
            try:
                runner.finish(complete=failure is None)
            except BaseException as error:
                failure = failure or error
        stats.cpu_seconds = time.process_time() - cpu_began
        if failure is not None:
            raise failure
        return stats

    def _loop(self, began: float, max_frames: int | None) -> None:
        stats, previous = self.stats, time.perf_counter()
        fps = 0.0
        while not self._stop.is_set() and (max_frames is None or stats.frames < max_frames):
            started = time.perf_counter()
            frame = self._source.read(READ_TIMEOUT_S)
            if frame is None:
                break
            stats.stages["wait"].add(1e3 * (time.perf_counter() - started))
            try:
                faces = self._label(frame.image_bgr)
                now = time.perf_counter()
                age_ms = (time.perf_counter_ns() - frame.captured_ns) / 1e6
                stats.age.add(age_ms)
                stats.frames += 1
                stats.faces += len(faces)
                stats.frames_with_faces += bool(faces)
                if faces and stats.first_label_ms is None:
                    stats.first_label_ms = 1e3 * (now - began)
                rate = 1.0 / max(now - previous, 1e-6)
                fps, previous = (0.9 * fps + 0.1 * rate if fps else rate), now
                result = FrameResult(frame, faces, self._labels, age_ms, fps)
                for runner in self.runners:
                    runner.offer(result)
            finally:
                frame.release()

    def _label(self, image_bgr: np.ndarray) -> tuple[FaceResult, ...]:
        stats, clock = self.stats, time.perf_counter
        t0 = clock()
        if not self._source.info.continuous:
            self.tracker.forget()
        if stats.frames % self._detect_every == 0 or not self.tracker.tracks:
            tracks = self.tracker.associate(self._detector.detect(image_bgr))
            stats.detections += 1
        else:
            tracks = [track for track in self.tracker.tracks if track.missed == 0]
        t1 = clock()
        if not tracks:
            stats.stages["detect"].add(1e3 * (t1 - t0))
            return ()
        crop_s = infer_s = track_s = 0.0
        step = self._engine.manifest.max_batch
        for first in range(0, len(tracks), step):
            part = tracks[first : first + step]
            began = clock()
            self._crop(image_bgr, part)
            cropped = clock()
            self._engine.submit(self._slot, len(part))
            self._engine.wait(self._slot)
            inferred = clock()
            scores = self._scores[: len(part)]
            softmax_into(scores, self._slot.outputs[OUTPUT][: len(part)])
            for row, track in enumerate(part):
                self.tracker.update(track, scores[row])
            crop_s, infer_s, track_s = (
                crop_s + cropped - began,
                infer_s + inferred - cropped,
                track_s + clock() - inferred,
            )
        for stage, seconds in zip(STAGES[1:], (t1 - t0, crop_s, infer_s, track_s), strict=True):
            stats.stages[stage].add(1e3 * seconds)
        return tuple(self._result(track) for track in tracks)

    def _crop(self, image_bgr: np.ndarray, tracks: Sequence[Track]) -> None:
        """Fill the slot's first rows."""
        rows = self._slot.inputs[INPUT]
        for row, track in enumerate(tracks):
            if self._detector.whole_frame:
                self._cropper.whole_into(rows[row], image_bgr)
            else:
                self._cropper.crop_into(rows[row], image_bgr, track.box_xyxy)

    def _result(self, track: Track) -> FaceResult:
        left, top, right, bottom = (float(value) for value in track.box_xyxy)
        return FaceResult(
            track.track, (left, top, right, bottom), self._labels[track.label], track.uncertain, track.scores.copy()
        )
