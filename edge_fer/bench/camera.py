"""Camera to label, measured on a clip that is played as a camera: ``python -m edge_fer.bench.camera`` in a process of
its own, which reads a plan from standard input and writes one line of JSON.

Frame age begins where a sensor would have delivered the picture and ends when its labels are known; a frame that
nobody was ready for is dropped, and counted. Long runs are cut into windows, so that a machine that grows hot and slow
shows it.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_fer.bench.conditions import Disturbance, clock_mhz, disturbance, temperature_c, ticks
from edge_fer.bench.plan import CameraPlan
from edge_fer.core.errors import EdgeFerError
from edge_fer.core.spec import Frozen
from edge_fer.cuda.copies import Copies
from edge_fer.runtime.detectors.smallest_face import default_min_face

if TYPE_CHECKING:
    from edge_fer.runtime.results import FrameResult
    from edge_fer.runtime.timing import Reservoir

WINDOWS = 20
SHORTEST_WINDOW_S = 1.0
START_S = 240.0
"""Opening the engine, on top of the camera's own time: the first time on a machine it is built."""


class Spread(Frozen):
    """Milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    maximum: float


class Window(Frozen):
    """A twentieth of a run, at least a second; it began ``start_s`` after the first label. ``fps`` is of labelled
    frames."""

    start_s: float
    frames: int
    fps: float
    age_p50_ms: float
    age_p99_ms: float
    clock_mhz: float | None
    temperature_c: float | None


class CameraResult(Frozen):
    """Camera to label.

    Attributes:
        camera: what was played, at which rate.
        engine: model, backend, precision and threads.
        frames, dropped: labelled frames and frames that came while the loop was busy.
        labelled_fps: labelled frames a second.
        cpu_ms_per_frame: processor time of the whole process for each labelled frame.
        copies_per_frame: how often the picture of a frame with faces was copied between decoder and network.
        notes: what the face stage tells of its memory, as sentences.
        disturbance: what others took of the processor meanwhile, which slows a long run as heat does.
        age: from a frame's arrival to its labels.
        stages: per stage of the loop, in its order.
        windows: in order of time.
    """

    plan: CameraPlan
    camera: str
    engine: str
    detector: str
    frames: int
    dropped: int
    faces: int
    seconds: float
    labelled_fps: float
    cpu_ms_per_frame: float
    age: Spread
    stages: dict[str, Spread]
    windows: tuple[Window, ...]
    copies_per_frame: float | None = None
    notes: tuple[str, ...] = ()
    disturbance: Disturbance | None = None

    def burst_and_sustained(self) -> tuple[float, float] | None:
        """Labelled frames a second in the first window and, median, in the last third; ``None`` without windows."""
        if len(self.windows) < 3:
            return None
        late = self.windows[-(len(self.windows) // 3) :]
        return self.windows[0].fps, statistics.median(window.fps for window in late)


def measure_camera(plan: CameraPlan) -> CameraResult:
    """Run the loop in a fresh process.

    Raises:
        EdgeFerError: it failed, crashed or did not end; the message says which.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edge_fer.bench.camera"],
            input=plan.model_dump_json(),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=2 * plan.seconds + START_S,
        )
    except subprocess.TimeoutExpired:
        raise EdgeFerError(f"The camera run of {plan.seconds:g} s did not end.") from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        words = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]
        raise EdgeFerError(": ".join([f"The camera run crashed (status {done.returncode})", *words]) + ".") from None
    if "error" in answer:
        raise EdgeFerError(str(answer["error"]))
    return CameraResult.model_validate(answer)


class _Recorder:
    """A sink that keeps when each frame was labelled and how old it was."""

    name, lossless = "recorder", True

    def __init__(self, span_s: float) -> None:
        self.labelled_ns: list[int] = []
        self.ages_ms: list[float] = []
        self.clocks: list[tuple[int, float | None, float | None]] = []
        self._every_ns = round(1e9 * max(SHORTEST_WINDOW_S, span_s / WINDOWS))

    def write(self, result: FrameResult) -> None:
        now = time.perf_counter_ns()
        self.labelled_ns.append(now)
        self.ages_ms.append(result.age_ms)
        if not self.clocks or now - self.clocks[-1][0] >= self._every_ns:
            self.clocks.append((now, clock_mhz(), temperature_c()))

    def close(self, *, complete: bool) -> None: ...

    def windows(self) -> tuple[Window, ...]:
        """Equal parts of the time between the first and the last label; the last one is left out if it is short."""
        times, ages = np.asarray(self.labelled_ns), np.asarray(self.ages_ms)
        if len(times) < 2:
            return ()
        place = (times - times[0]) // self._every_ns
        found = []
        for index in range(int(place[-1]) + 1):
            inside = place == index
            if not inside.any() or times[-1] < times[0] + (index + 0.9) * self._every_ns:
                continue
            p50, p99 = np.percentile(ages[inside], [50, 99])
            clock = self.clocks[min(index, len(self.clocks) - 1)]
            found.append(
                Window(
                    start_s=index * self._every_ns / 1e9,
                    frames=int(inside.sum()),
                    fps=float(inside.sum() / (self._every_ns / 1e9)),
                    age_p50_ms=float(p50),
                    age_p99_ms=float(p99),
                    clock_mhz=clock[1],
                    temperature_c=clock[2],
                )
            )
        return tuple(found)


class _HostPictures:
    """The camera's frames in ordinary memory, with a count of the pictures that had to be copied into it."""

    def __init__(self) -> None:
        self.copies = Copies()

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        return np.empty(shape, np.uint8)

    def copy_in(self, target: NDArray[np.uint8], image_bgr: NDArray[np.uint8]) -> None:
        np.copyto(target, image_bgr)
        self.copies.on_host += 1
        self.copies.on_host_bytes += image_bgr.nbytes

    def note(self, face_bytes: int) -> str:
        return (
            f"Copies of a frame with faces: {self.copies.per_frame:.2f}; each face is cut from the decoder's picture "
            f"straight into the engine's input, {face_bytes / 1e6:.3f} MB."
        )


def run_camera(plan: CameraPlan) -> CameraResult:
    """Run the loop in this process.

    Raises:
        EdgeFerError: a part cannot be opened or fails; or no frame was labelled.
    """
    import cv2

    from edge_fer.backends.choose import open_best
    from edge_fer.backends.face_detector import open_face_detector
    from edge_fer.backends.on_gpu import loop_backend
    from edge_fer.core.bundle import find_bundle
    from edge_fer.runtime.cuda_loop import open_cuda_loop, parse_device
    from edge_fer.runtime.pipeline import Pipeline
    from edge_fer.runtime.sources.synthetic import SyntheticCamera

    cv2.setNumThreads(1)
    clip = Path(plan.clip) if plan.clip else Path(__file__).resolve().parents[1] / "runtime" / "assets" / "demo.mp4"
    recorder, where = _Recorder(plan.seconds), parse_device(plan.device)
    with ExitStack() as stack:
        gpu, host = (None if where is None else open_cuda_loop(*where)), _HostPictures()
        if gpu is not None:
            stack.callback(gpu.close)
        backend = loop_backend() if gpu is not None and plan.backend == "auto" else plan.backend
        engine, _ = open_best(find_bundle(plan.engine), backend=backend, precision=plan.precision, threads=plan.threads)
        stack.enter_context(engine)
        stage = stack.enter_context(gpu.stage(engine)) if gpu is not None else None
        probe = SyntheticCamera(clip, pool_size=1, fps=plan.fps, frames=1)
        probe.close()
        height, width = probe.info.height, probe.info.width
        detector = open_face_detector(plan.detector, min_face_px=plan.min_face or default_min_face(height), threads=1)
        if (close := getattr(detector, "close", None)) is not None:
            stack.callback(close)
        if (warm_up := getattr(detector, "warm_up", None)) is not None:
            warm_up(height, width)  # builds its engines for this size of frame, as `edge-fer run` does before it starts
        camera = SyntheticCamera(
            clip,
            pool_size=Pipeline.frames_held(1),
            fps=plan.fps,
            frames=max(2, round(plan.seconds * probe.info.fps)),
            memory=gpu.pictures if gpu is not None else host,
        )
        stack.callback(camera.close)
        pipeline = Pipeline(camera, detector, engine, [recorder], detect_every=plan.detect_every, stage=stage)
        began = ticks()
        stats = pipeline.run()
        taken = disturbance(began, ticks())
        manifest, info = engine.manifest, camera.info
        copies = stats.copies
        if copies is None:
            copies, host.copies.frames = host.copies, stats.frames_with_faces
        face_bytes = 4 * math.prod(manifest.classifier.input_shape)
        notes = pipeline.stage.notes() if gpu is not None else (host.note(face_bytes),)
        on = gpu.device.info.name if gpu is not None else f"{plan.threads} thread{'s' * (plan.threads > 1)}"
    age = _spread(stats.age)
    if age is None:
        raise EdgeFerError("The camera run labelled no frame.")
    return CameraResult(
        plan=plan,
        camera=f"{info.description}, {info.width}x{info.height}",
        engine=f"{manifest.model.name}, {manifest.backend} {manifest.precision}, {on}",
        detector=detector.name,
        frames=stats.frames,
        dropped=stats.dropped,
        faces=stats.faces,
        seconds=stats.seconds,
        labelled_fps=stats.fps,
        cpu_ms_per_frame=1e3 * stats.cpu_seconds / stats.frames,
        age=age,
        stages={name: spread for name, times in stats.stages.items() if (spread := _spread(times)) is not None},
        windows=recorder.windows(),
        copies_per_frame=copies.per_frame,
        notes=notes,
        disturbance=taken,
    )


def _spread(times: Reservoir) -> Spread | None:
    found = times.percentiles()
    if found is None:
        return None
    return Spread(mean=found.mean, p50=found.p50, p90=found.p90, p99=found.p99, maximum=found.maximum)


def main() -> None:
    # Libraries may print; only the answer belongs on standard output.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        answer = run_camera(CameraPlan.model_validate_json(sys.stdin.read())).model_dump_json()
    except EdgeFerError as error:
        answer = json.dumps({"error": str(error)})
    pipe.write(answer + "\n")
    pipe.flush()


if __name__ == "__main__":
    main()
