"""Time a face detector and the cropping of faces on the clip that ships with the project, in a process of its own:
``python -m edge_fer.bench.detector_timing``, which reads one JSON object and writes one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import cycle

import numpy as np

from edge_fer.core.errors import EdgeFerError
from edge_fer.core.spec import Frozen
from edge_fer.runtime.detectors.smallest_face import default_min_face

TIMEOUT_S = 180.0
FRAMES = 40
SECONDS = 1.5
LEAST = 8


class TimingOrder(Frozen):
    """What to time.

    Attributes:
        detector: as ``edge-fer run --detector`` takes it.
        frame_hw: the clip is brought to this size.
        faces: in each frame.
        min_face: pixels; ``None`` is a ninth of the height.
        bundle: the model whose crops are timed.
    """

    detector: str
    frame_hw: tuple[int, int]
    faces: int = 1
    min_face: int | None = None
    bundle: str | None = None
    threads: int = 1


class DetectorTiming(Frozen):
    """Milliseconds of one full search of a frame, and of cropping one face; ``error`` says why there are none.

    Attributes:
        found: part of the faces that it found.
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
    from edge_fer.bench.crowd import crowd_frames
    from edge_fer.core.bundle import find_bundle, open_bundle
    from edge_fer.runtime.preprocess import FaceCropper

    cv2.setNumThreads(1)
    detector = open_face_detector(
        order.detector, min_face_px=order.min_face or default_min_face(order.frame_hw[0]), threads=order.threads
    )
    spec = open_bundle(find_bundle(order.bundle)).manifest.classifier
    cropper, row = FaceCropper(spec.preprocess), np.empty(spec.input_shape, np.float32)
    searches, crops, found = [], [], 0
    images = crowd_frames(order.faces, order.frame_hw, FRAMES)
    # The first search allocates and may build; it is no part of any later frame.
    detector.detect(images[0])
    end = time.perf_counter() + SECONDS
    for image in cycle(images):
        began = time.perf_counter()
        faces = detector.detect(image)
        searches.append(1e3 * (time.perf_counter() - began))
        found += min(order.faces, len(faces.boxes_xyxy))
        if len(faces.boxes_xyxy):
            began = time.perf_counter()
            cropper.crop_into(row, image, faces.boxes_xyxy[0])
            crops.append(1e3 * (time.perf_counter() - began))
        if time.perf_counter() > end and len(searches) >= LEAST:
            break
    p50, p90 = np.percentile(searches, [50, 90])
    return DetectorTiming(
        detector=order.detector,
        p50_ms=float(p50),
        p90_ms=float(p90),
        found=found / (order.faces * len(searches)),
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
