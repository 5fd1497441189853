"""Time a face detector and the cropping of faces on the clip that ships with the project, in a process of its own:
``python -m edge_fer.bench.detector_timing``, which reads one JSON object and writes one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from edge_fer.core.errors import EdgeFerError
from edge_fer.core.spec import Frozen

TIMEOUT_S = 180.0
FRAMES = 40
SECONDS = 3.0


class TimingOrder(Frozen):
    """What to time.

    Attributes:
        detector: as ``edge-fer run --detector`` takes it.
        frame_hw: the clip is brought to this size.
        min_face: pixels; ``None`` is a ninth of the height.
        bundle: the model whose crops are timed.
    """

    detector: str
    frame_hw: tuple[int, int]
    min_face: int | None = None
    bundle: str | None = None
    threads: int = 1


class DetectorTiming(Frozen):
    """Milliseconds of one full search of a frame, and of cropping one face; ``error`` says why there are none.

    Attributes:
        found: part of the frames in which it found a face; the clip shows one in each.
    """

    detector: str
    p50_ms: float | None = None
    p90_ms: float | None = None
    found: float | None = None
    crop_ms: float | None = None
    error: str = ""


def time_detector(order: TimingOrder) -> DetectorTiming:
    """Time it in a fresh process; whatever goes wrong there stands in ``error``."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edge_fer.bench.detector_timing"],
            input=order.model_dump_json(),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
        )
        return DetectorTiming.model_validate_json(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return DetectorTiming(detector=order.detector, error=f"gave no answer within {TIMEOUT_S:.0f} s")
    except (IndexError, ValueError):
        words = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]
        return DetectorTiming(detector=order.detector, error=": ".join([f"crashed (status {done.returncode})", *words]))


def run_timing(order: TimingOrder) -> DetectorTiming:
    """Time it in this process.

    Raises:
        EdgeFerError: the detector or the bundle cannot be opened.
    """
    import cv2

    from edge_fer.backends.face_detector import open_face_detector
    from edge_fer.core.bundle import find_bundle, open_bundle
    from edge_fer.runtime.preprocess import FaceCropper
    from edge_fer.runtime.sources.synthetic import SyntheticCamera

    cv2.setNumThreads(1)
    height, width = order.frame_hw
    detector = open_face_detector(
        order.detector, min_face_px=order.min_face or max(16, height // 9), threads=order.threads
    )
    spec = open_bundle(find_bundle(order.bundle)).manifest.classifier
    cropper, row = FaceCropper(spec.preprocess), np.empty(spec.input_shape, np.float32)
    clip = Path(__file__).resolve().parents[1] / "runtime" / "assets" / "demo.mp4"
    camera = SyntheticCamera(clip, pool_size=1, fps=1000.0, frames=FRAMES)
    searches, crops, found = [], [], 0
    try:
        end = None
        while (frame := camera.read(10.0)) is not None:
            image = cv2.resize(frame.image_bgr, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
            frame.release()
            began = time.perf_counter()
            faces = detector.detect(image)
            searches.append(1e3 * (time.perf_counter() - began))
            if len(faces.boxes_xyxy):
                found += 1
                began = time.perf_counter()
                cropper.crop_into(row, image, faces.boxes_xyxy[0])
                crops.append(1e3 * (time.perf_counter() - began))
            if end is None:
                # The first search allocates and may build; it is no part of any later frame.
                searches, crops, found, end = [], [], 0, time.perf_counter() + SECONDS
            elif time.perf_counter() > end and len(searches) >= 5:
                break
    finally:
        camera.close()
    if not searches:
        raise EdgeFerError("The clip gave no frame to search.")
    p50, p90 = np.percentile(searches, [50, 90])
    return DetectorTiming(
        detector=order.detector,
        p50_ms=float(p50),
        p90_ms=float(p90),
        found=found / len(searches),
        crop_ms=float(np.median(crops)) if crops else None,
    )


def main() -> None:
    # Libraries may print; only the answer belongs on standard output.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order = TimingOrder.model_validate(json.loads(sys.stdin.read()))
    try:
        answer = run_timing(order)
    except EdgeFerError as error:
        answer = DetectorTiming(detector=order.detector, error=str(error))
    pipe.write(answer.model_dump_json() + "\n")
    pipe.flush()


if __name__ == "__main__":
    main()
