"""Run the whole loop for very long and watch its memory: nothing may grow.

    python benchmarks/soak.py --out benchmarks/results/MACHINE/soak.json

A synthetic 720p sensor without a clock delivers frames as fast as they are labelled: the demo's own frames, enlarged,
with faces that come and go. Detection, following, cropping, inference, smoothing and a JSONL sink all run for real.
Resident memory is read every thousand frames; the figure is its growth after the first thousand. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.backends.registry import open_engine
from edge_fer.core.bundle import find_bundle, open_bundle
from edge_fer.core.files import atomic_file
from edge_fer.runtime.frames import Frame, FramePool, SourceInfo
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.sinks.jsonl import JsonlSink
from edge_fer.runtime.sources.capture import open_media

DEMO = Path(__file__).resolve().parents[1] / "edge_fer" / "runtime" / "assets" / "demo.mp4"
WIDTH, HEIGHT, KEPT = 1280, 720, 24
EVERY, AFTER = 1000, 1000
ABSENT = 5
"""In every so manieth round of the pictures nobody is there."""


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class EndlessDemo:
    """Some frames of the demo at 720p, forth and back, and now and then an empty picture."""

    dropped, waiting = 0, False

    def __init__(self, count: int, pool_size: int) -> None:
        capture = open_media(str(DEMO))
        assert capture is not None
        self._pictures: list[NDArray[np.uint8]] = []
        while len(self._pictures) < KEPT:
            image = np.asarray(capture.read()[1], dtype=np.uint8)
            self._pictures.append(np.asarray(cv2.resize(image, (WIDTH, HEIGHT)), dtype=np.uint8))
        capture.release()
        self._empty = cv2.GaussianBlur(self._pictures[0], (0, 0), 60)
        self._pool, self._count, self._index = FramePool(pool_size), count, 0
        self.info = SourceInfo("the demo without end", WIDTH, HEIGHT, 30.0, live=False, frames=count)
        self.memory: list[tuple[int, float]] = []

    def read(self, timeout_s: float) -> Frame | None:
        if self._index % EVERY == 0:
            gc.collect()
            self.memory.append((self._index, resident_mb()))
        if self._index == self._count or (frame := self._pool.take(timeout_s)) is None:
            return None
        turn, place = divmod(self._index, KEPT)
        image = self._pictures[place if turn % 2 else KEPT - 1 - place] if turn % ABSENT else self._empty
        if frame.image_bgr.shape != image.shape:
            frame.image_bgr = np.empty_like(image)
        np.copyto(frame.image_bgr, image)
        frame.index, frame.time_ms = self._index, self._index * 1000 / 30
        frame.captured_ns = time.perf_counter_ns()
        self._index += 1
        return frame

    def interrupt(self) -> None:
        self._count = self._index

    def close(self) -> None:
        self._count = self._index


def soak(frames: int, backend: str, detector: str) -> dict[str, Any]:
    """Label so many frames and return what memory did."""
    cv2.setNumThreads(1)
    source = EndlessDemo(frames, Pipeline.frames_held(1))
    with open_engine(open_bundle(find_bundle()), backend=backend, precision="int8") as engine:
        finder = open_face_detector(detector, min_face_px=HEIGHT // 9)
        stats = Pipeline(source, finder, engine, [JsonlSink(Path(os.devnull))]).run()
    before = next(mb for index, mb in source.memory if index >= min(AFTER, frames))
    return {
        "frames": stats.frames,
        "frames_with_faces": stats.frames_with_faces,
        "detections": stats.detections,
        "backend": backend,
        "detector": detector,
        "seconds": round(stats.seconds, 1),
        "fps": round(stats.fps, 1),
        "resident_mb_after_first_1000": round(before, 2),
        "resident_mb_at_end": round(source.memory[-1][1], 2),
        "growth_mb": round(source.memory[-1][1] - before, 2),
        "largest_growth_mb": round(max(mb for index, mb in source.memory if index >= AFTER) - before, 2),
        "memory_mb": [[index, round(mb, 2)] for index, mb in source.memory],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000, help="at least 2,000")
    parser.add_argument("--backend", default="onnxruntime", help="engine, default onnxruntime (in the base install)")
    parser.add_argument("--detector", default="edge-fer-face", help="as edge-fer run takes it; default edge-fer-face")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.frames < 2 * AFTER:
        parser.error("--frames must be at least 2,000: memory is compared with that after the first 1,000")
    if not Path("/proc/self/statm").exists():
        parser.error("resident memory is read from /proc, which this system has not")
    result = soak(arguments.frames, arguments.backend, arguments.detector)
    text = json.dumps(result, indent=2) + "\n"
    if arguments.out is not None:
        with atomic_file(arguments.out) as path:
            path.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
