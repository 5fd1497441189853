"""Detectors on moving faces of known size and place: recall, overlap, false alarms, milliseconds.

    python benchmarks/moving_faces.py --data DIR --teacher YUNET.onnx [--detector NAME ...] [--markdown FILE --out JSON]

Two faces that no training saw glide through a 720p picture of a scene that none saw either (DIR holds scenes/ and
faces/, of which the tenth is used that the detector's recipe keeps out); the truth is the teacher's box on the crop,
carried along. Each detector first searches every frame alone, then works as ``edge-fer run`` lets it: searching now and
then and following in between. Detectors draw their boxes differently, so a face counts as found when a box's centre
lies within it and its side is within a factor of two; ``overlap`` is the mean intersection over union of those, as they
are and with the detector's constant habit (median offset and size) taken out. ``--quick``: does it work?
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer import __version__
from edge_fer.backends.face_detector import open_face_detector
from edge_fer.backends.host import cpu_identity
from edge_fer.core.faces import iou
from edge_fer.core.files import atomic_file
from edge_fer.data.detection.folder import HOLDOUT_FRACTION, HOLDOUT_SALT, read_bgr
from edge_fer.data.detection.labels import SURE, UNSURE, Teacher
from edge_fer.data.detection.test_sets import HeldOut, held_out
from edge_fer.runtime.detection_schedule import DetectionSchedule
from edge_fer.runtime.detectors.base import FaceDetector
from edge_fer.runtime.face_finder import FaceFinder
from edge_fer.runtime.frames import Frame
from edge_fer.runtime.region_search import FlowSearch
from edge_fer.runtime.timing import Reservoir
from edge_fer.runtime.tracking import Tracker

WIDTH, HEIGHT, FPS = 1280, 720, 30
SIDES_PX = (24, 40, 80, 160, 320)
"""Root of the area of the teacher's box."""
MIN_FACE_PX = 20
CLIPS, FRAMES = 3, 60
NOISE = 2.0
"""Standard deviation of the sensor's noise, grey levels."""
Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class Line:
    """A row of the table; shares are 0..1, ``false_alarms`` per frame, times in ms a frame."""

    detector: str
    way: str
    side_px: int
    recall: float
    overlap: float
    overlap_without_habit: float
    false_alarms: float
    ms: float


@dataclass(frozen=True)
class Cast:
    """A face crop with the teacher's box, and the soft mask that it is pasted through."""

    crop: NDArray[np.uint8]
    box_xyxy: Boxes
    mask: NDArray[np.float32]


def cast_of(path: Path, box: Boxes) -> Cast:
    crop = read_bgr(path)
    height, width = crop.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = np.hypot((x - width / 2) / (width / 2), (y - height / 2) / (height / 2))
    return Cast(crop, box, np.clip((1.0 - radius) / 0.2, 0, 1).astype(np.float32))


def clip(
    scene: NDArray[np.uint8], faces: list[Cast], side: int, seed: int
) -> Iterator[tuple[NDArray[np.uint8], Boxes]]:
    """Frames uint8 (720, 1280, 3) and the boxes float32 (n, 4) of the faces in each.

    Every face glides along a figure of its own within its half of the picture, half its width in a tenth of a second at
    most, breathes by a tenth of its size and nods by ten degrees.
    """
    rng = np.random.default_rng(seed)
    factor = max(WIDTH / scene.shape[1], HEIGHT / scene.shape[0])
    large = cv2.resize(scene, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    ground = large[:HEIGHT, :WIDTH].astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, (len(faces), 4))
    for index in range(FRAMES):
        picture, truth = ground.copy(), []
        for number, (face, phase) in enumerate(zip(faces, phases, strict=True)):
            turn = 2 * np.pi * index / FPS
            size = side * (1 + 0.1 * np.sin(0.5 * turn + phase[0]))
            half = WIDTH / len(faces) / 2
            room = np.array([max(0.0, half - 0.8 * side), max(0.0, HEIGHT / 2 - 0.8 * side)])
            reach = np.minimum(room, 2.0 * side)
            centre = np.array([half * (2 * number + 1), HEIGHT / 2]) + reach * np.sin(
                [0.25 * turn + phase[1], 0.4 * turn + phase[2]]
            )
            angle = np.deg2rad(10 * np.sin(0.3 * turn + phase[3]))
            left, top, right, bottom = face.box_xyxy.astype(np.float64)
            scale = size / np.sqrt((right - left) * (bottom - top))
            linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            matrix = np.hstack([linear, (centre - linear @ [(left + right) / 2, (top + bottom) / 2])[:, None]])
            # Shrinking by more than two needs averaging first, or the small face would be aliased.
            crop, mask, shrink = face.crop, face.mask, 1
            while scale * shrink < 0.5:
                shrink *= 2
                crop = cv2.resize(crop, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
                mask = cv2.resize(mask, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            # Pixel centres: a crop of half the size has its first one half a pixel further in.
            placed = matrix.copy()
            placed[:, :2] *= shrink
            placed[:, 2] += matrix[:, :2] @ [(shrink - 1) / 2, (shrink - 1) / 2]
            paste(picture, crop, mask, placed)
            span = np.array([right - left, bottom - top]) * scale / 2
            truth.append([*(centre - span), *(centre + span)])
        picture += rng.normal(0, NOISE, (HEIGHT, WIDTH, 1)).astype(np.float32)
        yield np.clip(picture + 0.5, 0, 255).astype(np.uint8), np.array(truth, np.float32)


def paste(
    picture: NDArray[np.float32], crop: NDArray[np.uint8], mask: NDArray[np.float32], placed: NDArray[np.float64]
) -> None:
    """Lay a crop over the picture through its mask; ``placed`` (2, 3) takes the crop's pixels to the picture's."""
    height, width = crop.shape[:2]
    corners = np.array([[-1, -1], [width, -1], [-1, height], [width, height]]) @ placed[:, :2].T + placed[:, 2]
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0).tolist()
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (WIDTH, HEIGHT)).tolist()
    if x0 >= x1 or y0 >= y1:
        return
    here = placed - [[0, 0, x0], [0, 0, y0]]
    size = (x1 - x0, y1 - y0)
    part = picture[y0:y1, x0:x1]
    pasted = cv2.warpAffine(crop, here, size).astype(np.float32)
    part += cv2.warpAffine(mask, here, size)[..., None] * (pasted - part)


def pair(found: Boxes, truth: Boxes) -> list[tuple[int, int]]:
    """(found, true) indices: the largest overlap first, where centre and size agree."""
    if not len(found):
        return []
    centres = (found[:, :2] + found[:, 2:]) / 2
    sides = np.sqrt((found[:, 2:] - found[:, :2]).clip(1e-3).prod(axis=1))
    wanted = np.sqrt((truth[:, 2:] - truth[:, :2]).prod(axis=1))
    inside = ((centres[:, None] >= truth[None, :, :2]) & (centres[:, None] <= truth[None, :, 2:])).all(axis=2)
    alike = np.abs(np.log2(sides[:, None] / wanted[None])) <= 1
    overlap = np.where(inside & alike, 1e-6 + iou(found, truth), 0.0)
    pairs = []
    while overlap.max(initial=0.0) > 0:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        overlap[i], overlap[:, j] = 0.0, 0.0
        pairs.append((int(i), int(j)))
    return pairs


def without_habit(found: Boxes, truth: Boxes) -> Boxes:
    """Found boxes (n, 4) moved and scaled by what is the same for all of them, relative to the true (n, 4)."""
    centre, width = (found[:, :2] + found[:, 2:]) / 2, found[:, 2:] - found[:, :2]
    true_centre, true_width = (truth[:, :2] + truth[:, 2:]) / 2, truth[:, 2:] - truth[:, :2]
    offset = np.median((centre - true_centre) / true_width, axis=0)
    factor = np.median(true_width / width, axis=0)
    centre, width = centre - offset * true_width, width * factor
    return np.concatenate([centre - width / 2, centre + width / 2], axis=1).astype(np.float32)


def searching(detector: FaceDetector, frames: list[NDArray[np.uint8]]) -> Iterator[Boxes]:
    for image in frames:
        yield detector.detect(image).boxes_xyxy


def as_in_the_loop(detector: FaceDetector, frames: list[NDArray[np.uint8]]) -> Iterator[Boxes]:
    """What ``edge-fer run`` shows of a camera's film: new faces are sought now and then, known ones followed."""
    finder = FaceFinder(
        detector,
        Tracker(7),
        FlowSearch(),
        DetectionSchedule(None, live=True),
        continuous=True,
        detect_ms=Reservoir(),
        follow_ms=Reservoir(),
    )
    for index, image in enumerate(frames):
        frame = Frame(image)
        frame.index, frame.time_ms = index, 1e3 * index / FPS
        tracks = finder.find(frame)
        yield np.array([track.box_xyxy for track in tracks], np.float32).reshape(-1, 4)


WAYS = {"every frame": searching, "as in run": as_in_the_loop}


Film = list[tuple[NDArray[np.uint8], Boxes]]
"""Frames with the true boxes in them; 170 MB."""


def measure(detectors: dict[str, FaceDetector], films: dict[int, Iterable[Film]]) -> list[Line]:
    """Play every film to every detector, both ways; detectors take turns on each film."""
    lines = []
    for side, clips in films.items():
        faces = shown = 0
        took: dict[tuple[str, str], list[float]] = {}
        hits: dict[tuple[str, str], list[tuple[Boxes, Boxes]]] = {}
        false: dict[tuple[str, str], int] = {}
        for frames in clips:
            sys.stderr.write(f"faces of {side} pixels: film {shown // FRAMES + 1} …\n")
            images = [image for image, _ in frames]
            shown += len(frames)
            faces += sum(len(truth) for _, truth in frames)
            for name, detector in detectors.items():
                for way, play in WAYS.items():
                    key = name, way
                    boxes = play(detector, images)
                    for _, truth in frames:
                        began = time.perf_counter()
                        found = next(boxes)
                        took.setdefault(key, []).append(1e3 * (time.perf_counter() - began))
                        pairs = pair(found, truth)
                        hits.setdefault(key, []).extend((found[i], truth[j]) for i, j in pairs)
                        false[key] = false.get(key, 0) + len(found) - len(pairs)
        for (name, way), times in took.items():
            found = np.array([a for a, _ in hits[name, way]], np.float32).reshape(-1, 4)
            true = np.array([b for _, b in hits[name, way]], np.float32).reshape(-1, 4)
            plain = float(np.diagonal(iou(found, true)).mean()) if len(found) else 0.0
            habit = float(np.diagonal(iou(without_habit(found, true), true)).mean()) if len(found) else 0.0
            lines.append(
                Line(
                    name, way, side, len(found) / faces, plain, habit, false[name, way] / shown, statistics.mean(times)
                )
            )
    return lines


def table(lines: list[Line], command: str, clips: int) -> str:
    """A Markdown page."""
    text = [
        "# Moving faces",
        "",
        f"{cpu_identity()}, one thread; {clips} films of {FRAMES} frames for every size of face.",
        f"Two faces in 720p pictures at 30 frames a second, searched for from {MIN_FACE_PX} pixels up. Every cell:",
        "recall / overlap / overlap with the detector's habit taken out; then false alarms a frame and milliseconds a",
        "frame over all sizes. What was counted how: [moving_faces.py](moving_faces.py), which writes this page. Faces",
        "and scenes are those that our detector's training did not see. The truth is YuNet's box on the pasted crop,",
        "so overlap as it is favours YuNet; pasted faces are what ours was trained on.",
        "",
        f"Repeat: `{command}`",
        "",
        "| detector | way | " + " | ".join(f"{side} px" for side in SIDES_PX) + " | false alarms | ms |",
        "|---|---|" + "--:|" * (len(SIDES_PX) + 2),
    ]
    for name, way in dict.fromkeys((line.detector, line.way) for line in lines):
        mine = {line.side_px: line for line in lines if (line.detector, line.way) == (name, way)}
        cells = [
            f"{100 * x.recall:.1f} % / {x.overlap:.2f} / {x.overlap_without_habit:.2f}"
            for x in (mine[side] for side in SIDES_PX)
        ]
        alarms = statistics.mean(x.false_alarms for x in mine.values())
        ms = statistics.mean(x.ms for x in mine.values())
        text.append(f"| {name} | {way} | " + " | ".join(cells) + f" | {alarms:.3f} | {ms:.2f} |")
    return "\n".join(text) + "\n"


def films_of(held: HeldOut, clips: int) -> dict[int, Iterable[Film]]:
    """Films by size, made as they are asked for: scenes without a face, and the held-out crops in which the teacher is
    sure of one."""
    scenes = [path for path, labels in held.scenes if not (labels.scores >= UNSURE).any()]
    sure = [(path, labels) for path, labels in held.faces if labels.scores.max(initial=0) >= SURE]
    cast = [cast_of(path, labels.boxes_xyxy[labels.scores.argmax()]) for path, labels in sure]

    def of_size(row: int, side: int) -> Iterator[Film]:
        for i in range(clips):
            scene = read_bgr(scenes[(row * clips + i) % len(scenes)])
            two = [cast[(2 * (row * clips + i) + k) % len(cast)] for k in range(2)]
            yield list(clip(scene, two, side, seed=1000 * row + i))

    return {side: of_size(row, side) for row, side in enumerate(SIDES_PX)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--labels", type=Path, default=Path("runs/detection-labels"), help="where labels are kept")
    parser.add_argument(
        "--detector", nargs="+", default=["edge-fer-face", "yunet", "haar"], help="as edge-fer run takes it"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--markdown", type=Path, help="page to write")
    parser.add_argument("--clips", type=int, default=CLIPS, help=f"films of every size, default {CLIPS}")
    parser.add_argument("--quick", action="store_true", help="one film of every size: does it work?")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    held = held_out(
        options.data, Teacher(options.teacher), options.labels, fraction=HOLDOUT_FRACTION, salt=HOLDOUT_SALT
    )
    clips = 1 if options.quick else options.clips
    films = films_of(held, clips)
    detectors = {text.partition("=")[0]: open_face_detector(text, min_face_px=MIN_FACE_PX) for text in options.detector}
    for detector in detectors.values():
        detector.detect(np.full((HEIGHT, WIDTH, 3), 128, np.uint8))  # opens engines, if it has any
    lines = measure(detectors, films)
    names = " ".join(detectors)
    command = f"python benchmarks/moving_faces.py --data DIR --teacher YUNET.onnx --detector {names} --clips {clips}"
    page = table(lines, command, clips)
    if options.markdown is not None:
        with atomic_file(options.markdown) as temporary:
            temporary.write_text(page, encoding="utf-8")
    if options.out is not None:
        result = {
            "edge_fer": __version__,
            "device": cpu_identity(),
            "quick": options.quick,
            "clips": clips,
            "lines": [asdict(x) for x in lines],
        }
        with atomic_file(options.out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
