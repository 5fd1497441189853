"""Ways to keep a box on a face between two detections, against the truth.

    python benchmarks/following.py [--detector edge-fer-face haar yunet=FILE.onnx mtcnn=FILE.whl] [--markdown FILE]

A photograph is moved, scaled and turned by known amounts, at three speeds, with a sensor's noise, at 720p. A box is as
good as its centre and size follow the known motion; what is constant (every detector has its own idea of where a face
ends) is taken out. ``tremble`` is how much box and truth move against each other from one frame to the next, which is
what a viewer sees. In a fourth film the head tilts by 20 degrees, which asks for the eyes' angle. How many faces a
detector finds is asked elsewhere (moving_faces.py). ``--quick``: does it work?
Needs: pip install -e '.[dev]'
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.backends.host import cpu_identity
from edge_fer.core.faces import Faces, eye_angles_deg
from edge_fer.core.files import atomic_file
from edge_fer.runtime.detectors.base import FaceDetector
from edge_fer.runtime.region_search import FlowSearch, Follower, NearSearch, RegionDetector

WIDTH, HEIGHT, FRAMES, FPS = 1280, 720, 120, 30
FACE_CENTRE, ZOOM = (222.0, 116.0), 3.0
"""Of the portrait, in its own pixels; enlarged so that the face is about 280 pixels wide."""
MIN_FACE_PX, EVERY = 80, 15
CALM_DEG, TILTED_DEG = 2.5, 20.0
FILMS = {"calm": (1, CALM_DEG), "4x": (4, CALM_DEG), "8x": (8, CALM_DEG), "4x, tilting": (4, TILTED_DEG)}
"""Name -> how many times as fast as a calm hand, and how far the head tilts to each side."""


def view(t: float, tilt_deg: float) -> NDArray[np.float64]:
    """Affine matrix (2, 3) from portrait to frame: a slow pan and zoom with a hand's tremor on top."""
    phase = 2 * math.pi * t / 10
    angle = tilt_deg * math.sin(2 * phase) + 0.4 * math.sin(9 * phase)
    matrix = cv2.getRotationMatrix2D(FACE_CENTRE, angle, ZOOM + 0.25 * math.cos(phase))
    x = WIDTH * (0.46 + 0.09 * math.sin(phase)) + 4 * math.sin(11 * phase)
    y = HEIGHT * 0.46 + 14 * math.sin(2 * phase + 1) + 3 * math.sin(13 * phase)
    matrix[:, 2] += np.array([x, y]) - np.array(FACE_CENTRE)
    return np.asarray(matrix, dtype=np.float64)


Film = tuple[list[NDArray[np.uint8]], NDArray[np.float64]]
"""Frames, and the truth (n, 4): x and y of the face's centre, its scale, and its angle clockwise in degrees."""


def film(speed: float, tilt_deg: float, count: int) -> Film:
    """The portrait seen by a hand that moves so many times as fast as a calm one."""
    portrait, noise = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR), np.random.default_rng(0)
    frames, truth = [], []
    for index in range(count):
        matrix = view(speed * index / FPS, tilt_deg)
        image = cv2.warpAffine(portrait, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
        frames.append(np.clip(image + noise.normal(0, 3, image.shape), 0, 255).astype(np.uint8))
        turned = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
        truth.append((*(matrix @ [*FACE_CENTRE, 1]), math.hypot(matrix[0, 0], matrix[0, 1]), turned))
    return frames, np.array(truth)


class Held:
    """The box stays where it was."""

    angles_deg = turned_deg = None

    def __init__(self) -> None:
        self._boxes = np.zeros((0, 4), np.float32)

    def see(self, image_bgr: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> None:
        self._boxes = boxes_xyxy

    def follow(self, image_bgr: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        return self._boxes, np.ones(len(self._boxes), np.bool_)


class Crops:
    """Any detector, run on the double box, brought to a size at which it finds the face: not taken, see the table."""

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector

    def detect_near(self, image_bgr: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> Faces:
        found = []
        for left, top, right, bottom in boxes_xyxy.tolist():
            side = max(right - left, bottom - top)
            x, y = max(0, round((left + right) / 2 - side)), max(0, round((top + bottom) / 2 - side))
            part = image_bgr[y : round((top + bottom) / 2 + side), x : round((left + right) / 2 + side)]
            factor = 1.35 * MIN_FACE_PX / side
            small = cv2.resize(part, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            found.append(self._detector.detect(np.asarray(small, dtype=np.uint8)).boxes_xyxy / factor + [x, y, x, y])
        boxes = np.concatenate(found, dtype=np.float32)
        return Faces(boxes, np.ones(len(boxes), np.float32))


def nearest(faces: Faces, truth: NDArray[np.float64]) -> tuple[NDArray[np.float32], float] | None:
    """The detected box (1, 4) around the true centre and its eyes' angle; ``None`` when there is none."""
    if not len(faces):
        return None
    centres = (faces.boxes_xyxy[:, :2] + faces.boxes_xyxy[:, 2:]) / 2
    best = int(np.linalg.norm(centres - truth[:2], axis=1).argmin())
    return faces.boxes_xyxy[best : best + 1], float(eye_angles_deg(faces)[best])


def row(name: str, detector: FaceDetector, follower: Follower | None, shown: Film) -> str:
    """Run one way over one film and return the cells of its line, from the way's on."""
    frames, truth = shown
    boxes: list[NDArray[np.float32]] = []
    angles: list[float] = []
    times: list[float] = []
    lost, since, angle = 0, EVERY, 0.0
    for image, true in zip(frames, truth, strict=True):
        box, began = None, time.perf_counter()
        if follower is not None and since < EVERY:
            moved, found = follower.follow(image)
            box, since = (moved if found[0] else None), since + 1
            lost += box is None
            if follower.angles_deg is not None and found[0]:
                angle = float(follower.angles_deg[0])
            elif follower.turned_deg is not None:
                angle += float(follower.turned_deg[0])
        if box is None and (seen := nearest(detector.detect(image), true)) is not None:
            box, angle = seen
            since = 1
            if follower is not None:
                follower.see(image, box)
        times.append(1e3 * (time.perf_counter() - began))
        boxes.append(boxes[-1] if box is None else box)
        angles.append(angle)
    box = np.concatenate(boxes).astype(np.float64)
    width = box[:, 2] - box[:, 0]
    off = ((box[:, :2] + box[:, 2:]) / 2 - truth[:, :2]) / width[:, None]
    size = np.log(width / truth[:, 2])
    off, size = 100 * (off - np.median(off, axis=0)), 100 * (size - np.median(size))
    spread = math.sqrt((off**2).sum(axis=1).mean()), float(size.std())
    tremble = math.sqrt((np.diff(off, axis=0) ** 2).sum(axis=1).mean()), float(np.diff(size).std())
    tilt = np.array(angles) - truth[:, 3]
    eyes = f"{(tilt - np.median(tilt)).std():.1f}" if detector.landmarks else ""
    return (
        f"{name} | {spread[0]:.1f} | {spread[1]:.1f} | {tremble[0]:.2f} | {tremble[1]:.2f} | "
        f"{eyes} | {lost} | {np.mean(times):.2f} |"
    )


def ways(detector: FaceDetector) -> dict[str, Follower | None]:
    """What can keep a box on a face, by name; each with a memory of its own."""
    known: dict[str, Follower | None] = {
        "detected on every frame": None,
        f"held for {EVERY} frames": Held(),
        "detector on crops": NearSearch(Crops(detector)),
        "flow": FlowSearch(turns=detector.landmarks),
    }
    if isinstance(detector, RegionDetector):
        known["the detector's own region search"] = NearSearch(detector)
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", nargs="+", default=["edge-fer-face", "haar"], help="as edge-fer run takes it")
    parser.add_argument("--markdown", type=Path, help="page to write")
    parser.add_argument("--quick", action="store_true", help="one short film")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    chosen = list(FILMS)[:1] if arguments.quick else list(FILMS)
    films = {name: film(*FILMS[name], 24 if arguments.quick else FRAMES) for name in chosen}
    names = [text.partition("=")[0] for text in arguments.detector]
    lines = [
        "# Following a face between two detections",
        "",
        *(["**A quick run that only proves that the script works. Its figures mean nothing.**", ""] * arguments.quick),
        f"{cpu_identity()}, one thread. A portrait moved by known amounts at 720p, {FPS} frames a second; a full",
        f"search every {EVERY} frames, unless the way says otherwise. What is counted how:",
        "[following.py](following.py), which writes this page.",
        "",
        f"Repeat: `python benchmarks/following.py --detector {' '.join(names)}`",
        "",
        "| detector | film | box | centre off, % of the face | size off, % | tremble: centre | size "
        "| eyes off, degrees | lost | ms a frame |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for text in arguments.detector:
        detector = open_face_detector(text, min_face_px=MIN_FACE_PX)
        first = films[chosen[0]][0][0]
        found = detector.detect(first)  # opens engines, if it has any
        if isinstance(detector, RegionDetector):
            detector.detect_near(first, found.boxes_xyxy)
        for title, shown in films.items():
            for name, follower in ways(detector).items():
                lines.append(f"| {text.partition('=')[0]} | {title} | {row(name, detector, follower, shown)}")
    page = "\n".join(lines) + "\n"
    if arguments.markdown is not None:
        with atomic_file(arguments.markdown) as temporary:
            temporary.write_text(page, encoding="utf-8")
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
