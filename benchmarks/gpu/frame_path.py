"""A frame's way over the GPU, measured: what it costs the host, where the device's time goes, and how much of it runs
side by side.

Used by prove.py. Everything here takes an engine and a device, so that the tests rehearse it without a GPU.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.engine import DeviceEngine, Engine
from edge_fer.core.errors import EdgeFerError
from edge_fer.core.faces import Faces
from edge_fer.cuda.device import CudaDevice, Stream
from edge_fer.cuda.raw_picture import RawPicture
from edge_fer.runtime.cuda_face_stage import STEADY, CudaFaceStage, CudaPlace
from edge_fer.runtime.cuda_loop import CudaLoop
from edge_fer.runtime.detectors.base import FaceDetector
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sources.choose import open_source

Answer = dict[str, Any]

HOST_US, KERNEL_FACTOR, FRAME_FACTOR, SAME_LABELS = 50.0, 2.0, 1.15, 0.995
"""The bars: what queueing a frame may cost the host; the kernel's time against that of its bytes; a frame's time
against the engine's own, its copy left out; labels that must be the CPU's."""
WARM_UP = 3 * STEADY
SHOWN = 8
"""Frames in the picture of the overlap."""


def bar(found: float, limit: float, unit: str, *, at_least: bool = False) -> Answer:
    """One bar: what was found, what was promised, and whether it is kept."""
    kept = found >= limit if at_least else found <= limit
    return {"found": found, "limit": limit, "unit": unit, "at_least": at_least, "passed": bool(kept)}


def device_ms(device: CudaDevice, stream: Stream, call: Callable[[], None], repeats: int) -> float:
    """Median of the device's time for a call, without the first tenth."""
    began, ended = device.event(timing=True), device.event(timing=True)
    found = []
    for _ in range(repeats):
        began.record(stream)
        call()
        ended.record(stream)
        ended.synchronize()
        found.append(ended.elapsed_ms_since(began))
    return statistics.median(found[repeats // 10 :])


def measure_frames(gpu: CudaLoop, engine: DeviceEngine, size_hw: tuple[int, int], side_px: int, repeats: int) -> Answer:
    """One face a frame, one frame after the other: the host's time to queue it, the device's from its first byte to
    the scores, and the engine's alone. With the bars that these have."""
    pictures = [gpu.pictures.allocate((*size_hw, 3)) for _ in range(3)]
    for index, picture in enumerate(pictures):
        picture[:] = np.random.default_rng(index).integers(0, 256, picture.shape, dtype=np.uint8)
    top, left = ((side - side_px) // 2 for side in size_hw)
    boxes = [np.array([left, top, left + side_px, top + side_px], np.float32)]
    host_us, copy_ms, frame_ms = [], [], []
    with gpu.stage(engine) as stage:
        stage.transfer.chosen = "copy"
        for index in range(WARM_UP + repeats):
            place = stage.places[index % len(stage.places)]
            began = time.perf_counter_ns()
            stage.prepare(place, pictures[index % 3], boxes, whole=False)
            queued = time.perf_counter_ns()
            stage.scores(place, 1)
            if index >= WARM_UP:
                host_us.append((queued - began) / 1e3)
                with gpu.lane:
                    copy_ms.append(place.arrived.elapsed_ms_since(place.began))
                    frame_ms.append(place.done.elapsed_ms_since(place.began))
        replayed = stage.replays
    network_ms = _engine_alone(gpu, engine, repeats)
    frame, copy = statistics.median(frame_ms), statistics.median(copy_ms)
    answer: Answer = {
        "frame_hw": size_hw, "side_px": side_px, "replayed": replayed,
        "host_us_p50": statistics.median(host_us), "host_us_p99": float(np.percentile(host_us, 99)),
        "frame_ms_p50": frame, "frame_ms_p99": float(np.percentile(frame_ms, 99)),
        "copy_ms_p50": copy, "engine_ms_p50": network_ms,
    }  # fmt: skip
    answer["bars"] = {
        "the host queues a frame": bar(answer["host_us_p50"], HOST_US, "us"),
        "a frame beside the engine's own time and its copy": bar(frame, FRAME_FACTOR * network_ms + copy, "ms"),
    }
    return answer


def _engine_alone(gpu: CudaLoop, engine: DeviceEngine, repeats: int) -> float:
    """The device's time for inference of one face, launched as the loop launches it."""
    with gpu.lane as device:
        slot, stream = engine.slots[0], device.stream()
        engine.enqueue(slot, stream.handle, 1)
        stream.synchronize()
        if not (device.has_graphs and engine.capturable):
            return device_ms(device, stream, lambda: engine.enqueue(slot, stream.handle, 1), repeats)
        device.begin_capture(stream)
        engine.enqueue(slot, stream.handle, 1)
        graph = device.end_capture(stream)
        return device_ms(device, stream, lambda: graph.launch(stream), repeats)


class _Labels:
    """A sink that keeps the labels of every frame's faces."""

    name, lossless = "labels", True

    def __init__(self) -> None:
        self.frames: list[list[int]] = []

    def write(self, result: FrameResult) -> None:
        self.frames.append([int(face.scores.argmax()) for face in result.faces])

    def close(self, *, complete: bool) -> None:
        pass


def labels_of_clip(gpu: CudaLoop | None, engine: Engine, clip: Path, detector: FaceDetector) -> list[list[int]]:
    """Numbers of the labels of every frame's faces, not smoothed: through the loop on the GPU, or without ``gpu``
    through that on the CPU. Every frame is searched as a whole, so that both see the same boxes."""
    sink = _Labels()
    memory = gpu.pictures if gpu is not None else None
    source = open_source(str(clip), pool_size=Pipeline.frames_held(1), memory=memory)
    try:
        with gpu.stage(engine) if gpu is not None else nullcontext() as stage:
            Pipeline(source, detector, engine, [sink], smooth=0.0, detect_every=1, stage=stage).run()
    finally:
        source.close()
    return sink.frames


def compare_labels(ours: Sequence[Sequence[object]], theirs: Sequence[Sequence[object]]) -> Answer:
    """How many faces have the same label, with the bar that this has.

    Raises:
        EdgeFerError: the loops saw different faces, or none.
    """
    if [len(frame) for frame in ours] != [len(frame) for frame in theirs]:
        raise EdgeFerError("The loops saw different frames, or different numbers of faces in them.")
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
    if not pairs:
        raise EdgeFerError("Neither loop saw a face.")
    same = sum(a == b for a, b in pairs) / len(pairs)
    return {
        "frames": len(ours), "faces": len(pairs), "same_labels": same,
        "bars": {"labels as on the CPU": bar(same, SAME_LABELS, "of the faces", at_least=True)},
    }  # fmt: skip


@dataclass(frozen=True)
class Span:
    """Something that went on from one time to another, in milliseconds since the watch began."""

    row: str
    begin_ms: float
    end_ms: float


DETECT, QUEUE, WAIT = "CPU: detect or follow", "CPU: queue", "CPU: wait for the scores"
COPY, WORK = "GPU: copy", "GPU: crop, network, softmax"
ROWS = (DETECT, QUEUE, COPY, WORK, WAIT)


class WatchedStage:
    """A face stage that notes when the host and the device did what, on one clock."""

    def __init__(self, stage: CudaFaceStage, gpu: CudaLoop) -> None:
        self._stage, self._lane = stage, gpu.lane
        self.places, self.copies = stage.places, stage.copies
        self.spans: list[Span] = []
        self._lock = threading.Lock()
        with gpu.lane as device:
            stream = device.stream()
            self._zero = device.event(timing=True)
            self._zero.record(stream)
            self._zero.synchronize()
            self._zero_ns = time.perf_counter_ns()

    def notes(self) -> tuple[str, ...]:
        return self._stage.notes()

    def note(self, row: str, begin_ns: int, end_ns: int) -> None:
        """What the host did, by ``time.perf_counter_ns``."""
        with self._lock:
            self.spans.append(Span(row, (begin_ns - self._zero_ns) / 1e6, (end_ns - self._zero_ns) / 1e6))

    def prepare(
        self,
        place: CudaPlace,
        image_bgr: NDArray[np.uint8],
        boxes: Sequence[NDArray[np.float32]],
        *,
        whole: bool,
        angles_deg: Sequence[float] = (),
        raw: RawPicture | None = None,
    ) -> None:
        begin = time.perf_counter_ns()
        self._stage.prepare(place, image_bgr, boxes, whole=whole, angles_deg=angles_deg, raw=raw)
        self.note(QUEUE, begin, time.perf_counter_ns())

    def scores(self, place: CudaPlace, n: int) -> NDArray[np.float32]:
        begin = time.perf_counter_ns()
        found = self._stage.scores(place, n)
        self.note(WAIT, begin, time.perf_counter_ns())
        with self._lane:
            marks = place.began, place.arrived, place.done
            began, arrived, done = (mark.elapsed_ms_since(self._zero) for mark in marks)
        with self._lock:
            if place.way == "copy":
                self.spans.append(Span(COPY, began, arrived))
            self.spans.append(Span(WORK, arrived, done))
        return found


def _watch_calls(detector: FaceDetector, watch: WatchedStage) -> None:
    """Note every call of the detector from now on."""

    def noted(call: Callable[..., Faces]) -> Callable[..., Faces]:
        def wrapped(*arguments: Any) -> Faces:
            begin = time.perf_counter_ns()
            try:
                return call(*arguments)
            finally:
                watch.note(DETECT, begin, time.perf_counter_ns())

        return wrapped

    for name in ("detect", "detect_near"):
        if (call := getattr(detector, name, None)) is not None:
            setattr(detector, name, noted(call))


class _Count:
    """A sink that takes every frame and does nothing: the loop is what is looked at."""

    name, lossless = "count", True

    def write(self, result: FrameResult) -> None:
        pass

    def close(self, *, complete: bool) -> None:
        pass


def measure_overlap(
    gpu: CudaLoop, engine: DeviceEngine, clip: Path, detector: FaceDetector, frames: int, picture: Path | None
) -> Answer:
    """The real loop over a clip: times of its stages, how much of the copies ran beside other frames' work, and where
    ``picture`` is given a drawing of it.

    Raises:
        EdgeFerError: what a loop raises, or no face was seen.
    """
    source = open_source(str(clip), pool_size=Pipeline.frames_held(1), memory=gpu.pictures)
    try:
        with gpu.stage(engine) as stage:
            stage.transfer.chosen = "copy"
            watch = WatchedStage(stage, gpu)
            _watch_calls(detector, watch)
            pipeline = Pipeline(source, detector, engine, [_Count()], stage=watch)
            stats = pipeline.run(max_frames=frames)
    finally:
        source.close()
    copies, work, host = ([span for span in watch.spans if span.row == row] for row in (COPY, WORK, DETECT))
    if not work:
        raise EdgeFerError("The loop saw no face.")
    copied_ms, worked_ms = (sum(span.end_ms - span.begin_ms for span in spans) for spans in (copies, work))
    answer: Answer = {
        "frames": stats.frames, "fps": stats.fps, "copies": stats.copies.sentence() if stats.copies else "",
        "copies_beside_work": shared_ms(copies, work) / copied_ms if copied_ms else 0.0,
        "gpu_work_beside_detection": shared_ms(work, host) / worked_ms,
        "stage_ms_p50": {
            name: times.p50 for name, kept in stats.stages.items() if (times := kept.percentiles()) is not None
        },
    }  # fmt: skip
    if picture is not None:
        draw(watch.spans, picture)
        answer["picture"] = picture.name
    return answer


def shared_ms(spans: Iterable[Span], others: Sequence[Span]) -> float:
    """How long any of the ones ran while any of the others did. The others do not overlap each other."""
    return sum(
        max(0.0, min(span.end_ms, other.end_ms) - max(span.begin_ms, other.begin_ms))
        for span in spans
        for other in others
    )


def draw(spans: Sequence[Span], path: Path) -> None:
    """A few frames from the middle of the run as bars over time, one row for each thing that goes on."""
    from matplotlib.figure import Figure

    work = sorted((span for span in spans if span.row == WORK), key=lambda span: span.begin_ms)
    middle = work[max(0, len(work) // 2 - SHOWN // 2) :][:SHOWN]
    begin, end = middle[0].begin_ms, middle[-1].end_ms
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(ROWS):
        shown = [span for span in spans if span.row == row and span.end_ms > begin and span.begin_ms < end]
        lengths = [(span.begin_ms - begin, span.end_ms - span.begin_ms) for span in shown]
        axes.broken_barh(lengths, (number - 0.38, 0.76), facecolors=f"C{number}", edgecolor="white", linewidth=0.5)
    axes.set(yticks=range(len(ROWS)), yticklabels=ROWS, xlabel="ms", xlim=(0, max(end - begin, 1e-3)))
    axes.invert_yaxis()
    axes.set_title(f"{len(middle)} frames on their way through the loop", loc="left", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
