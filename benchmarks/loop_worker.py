"""One measurement of our loop in this process; ``loop.py`` starts it. Reads a JSON order, prints a JSON answer.

Orders: ``file`` (a clip as fast as it goes), ``camera`` (a synthetic camera at a rate), ``parts`` (decode, detection,
following and inference, each alone).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.backends.registry import open_engine, open_onnx
from edge_fer.core.bundle import find_bundle, open_bundle
from edge_fer.core.engine import INPUT, Engine
from edge_fer.core.spec import ModelSpec
from edge_fer.runtime.detectors.base import FaceDetector
from edge_fer.runtime.frames import FrameSource
from edge_fer.runtime.loop_stats import LoopStats
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.preprocess import FaceCropper
from edge_fer.runtime.region_search import FlowSearch
from edge_fer.runtime.sources.capture import open_media
from edge_fer.runtime.sources.choose import open_source
from edge_fer.runtime.sources.synthetic import SyntheticCamera

HEIGHT, WIDTH = 720, 1280
MIN_FACE_PX = HEIGHT // 9
"""What `edge-fer run` takes by default for this size."""
WARM_UP_FRAMES = 60
PART_FRAMES = 120


class Rig:
    """Engine and detector of an order, opened once."""

    def __init__(self, order: dict[str, Any]) -> None:
        # As `edge-fer run` does: one thread each for decoder, detector and engine on two cores.
        cv2.setNumThreads(1)
        self.detector: FaceDetector = open_face_detector(order["detector"], min_face_px=MIN_FACE_PX)
        if (warm_up := getattr(self.detector, "warm_up", None)) is not None:
            warm_up(HEIGHT, WIDTH)
        how = {"backend": order["backend"], "precision": order["precision"], "threads": order["threads"], "slots": 2}
        self.engine: Engine
        if order["onnx"] is None:
            self.engine = open_engine(open_bundle(find_bundle(order["model"])), **how)
        else:
            self.engine = open_onnx(Path(order["onnx"]), ModelSpec.model_validate(order["spec"]), **how)

    def run(self, source: FrameSource, max_frames: int | None = None) -> tuple[LoopStats, Pipeline]:
        pipeline = Pipeline(source, self.detector, self.engine, [])
        try:
            return pipeline.run(max_frames=max_frames), pipeline
        finally:
            source.close()


def file(order: dict[str, Any]) -> dict[str, Any]:
    """The clip again and again until the time is over."""
    rig, pool = Rig(order), Pipeline.frames_held(0)
    rig.run(open_source(order["clip"], pool_size=pool), WARM_UP_FRAMES)
    frames = faces = detections = 0
    seconds = cpu = 0.0
    while seconds < order["seconds"]:
        # The process' clock is taken around everything, so that the decoder's thread is in it.
        began = time.process_time()
        stats, _ = rig.run(open_source(order["clip"], pool_size=pool))
        cpu += time.process_time() - began
        frames, faces, detections = frames + stats.frames, faces + stats.faces, detections + stats.detections
        seconds += stats.seconds
    return {
        "frames": frames,
        "faces_per_frame": faces / frames,
        "fps": frames / seconds,
        "cpu_ms_per_frame": 1e3 * cpu / frames,
        "frames_per_detection": frames / detections,
    }


def camera(order: dict[str, Any]) -> dict[str, Any]:
    """A sensor at a rate, whether or not anybody is ready."""
    rig, pool = Rig(order), Pipeline.frames_held(0)
    rig.run(open_source(order["clip"], pool_size=pool), WARM_UP_FRAMES)
    count = round(order["seconds"] * order["fps"])
    source = SyntheticCamera(Path(order["clip"]), pool_size=pool, fps=order["fps"], frames=count)
    began = time.process_time()
    stats, _ = rig.run(source)
    cpu, age = time.process_time() - began, stats.age.percentiles()
    assert age is not None
    stages = {name: found for name, kept in stats.stages.items() if (found := kept.percentiles()) and name != "wait"}
    slowest = max(stages, key=lambda name: stages[name].p99)
    return {
        "camera_fps": order["fps"],
        "frames_in": count,
        "labelled": stats.frames,
        "dropped": stats.dropped,
        "failed": stats.failed,
        "all_accounted_for": stats.frames + stats.dropped + stats.failed == count,
        "age_p50_ms": age.p50,
        "age_p99_ms": age.p99,
        "age_max_ms": age.maximum,
        "slowest_stage": slowest,
        "slowest_stage_p99_ms": stages[slowest].p99,
        "cpu_ms_per_frame_in": 1e3 * cpu / count,
    }


def parts(order: dict[str, Any]) -> dict[str, Any]:
    """Median milliseconds of each part alone, one after the other, on the same frames."""
    rig = Rig(order)
    capture = open_media(order["clip"])
    assert capture is not None
    pictures: list[NDArray[np.uint8]] = []
    decode: list[float] = []
    while len(pictures) < PART_FRAMES:
        image, began = np.empty((HEIGHT, WIDTH, 3), np.uint8), time.perf_counter()
        if not capture.read(image)[0]:
            break
        decode.append(1e3 * (time.perf_counter() - began))
        pictures.append(image)
    capture.release()
    found = [rig.detector.detect(image).boxes_xyxy for image in pictures[::10]]
    detect = [_timed(partial(rig.detector.detect, image)) for image in pictures]
    follower, follow = FlowSearch(), []
    for index, image in enumerate(pictures):
        if index % 10 == 0:
            follower.see(image, found[index // 10])
        else:
            follow.append(_timed(partial(follower.follow, image)))
    cropper, slot = FaceCropper(rig.engine.manifest.classifier.preprocess), rig.engine.slots[0]
    infer = []
    for index, image in enumerate(pictures):
        boxes = found[index // 10][: rig.engine.manifest.max_batch]
        if len(boxes):
            infer.append(_timed(partial(_label, rig.engine, cropper, slot, image, boxes)))
    return {
        "decode_ms": statistics.median(decode),
        "detect_ms": statistics.median(detect),
        "follow_ms": statistics.median(follow),
        "crop_infer_ms": statistics.median(infer),
    }


def _label(engine: Engine, cropper: FaceCropper, slot: Any, image: Any, boxes: Any) -> None:
    for row, box in zip(slot.inputs[INPUT], boxes, strict=False):
        cropper.crop_into(row, image, box)
    engine.submit(slot, len(boxes))
    engine.wait(slot)


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


ORDERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"file": file, "camera": camera, "parts": parts}

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps(ORDERS[asked["do"]](asked)) + "\n")
