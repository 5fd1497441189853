"""What hides a part of a face in a composite, and what a network takes for a small face: drawn, never photographed."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.data.detection.folder import Gray


def occlude(rng: np.random.Generator, crop: Gray, box: NDArray[np.float32], points: NDArray[np.float32]) -> None:
    """Cover the lower face (mask, scarf, hand), the eyes (dark glasses) or a random part, in place."""
    kind, (width, height) = rng.random(), box[2:] - box[:2]
    value = int(rng.integers(0, 256))
    if kind < 0.45:
        cover_mouth(rng, crop, box, points)
    elif kind < 0.65:
        thickness = max(2, int(0.17 * height))
        first, second = points[0] + (points[0] - points[1]) * 0.3, points[1] + (points[1] - points[0]) * 0.3
        start, end = (tuple(int(v) for v in p) for p in (first, second))
        cv2.line(crop, start, end, int(rng.integers(0, 70)), thickness)
    else:
        w, h = int(rng.uniform(0.2, 0.6) * width), int(rng.uniform(0.2, 0.6) * height)
        x, y = int(rng.uniform(box[0], box[2] - w)), int(rng.uniform(box[1], box[3] - h))
        cv2.rectangle(crop, (x, y), (x + w, y + h), value, -1)


def cover_mouth(rng: np.random.Generator, crop: Gray, box: NDArray[np.float32], points: NDArray[np.float32]) -> None:
    """Hide everything from about the tip of the nose down behind one grey, as a mask or a scarf does, in place."""
    width, height = box[2:] - box[:2]
    top = float(np.interp(rng.random(), (0, 1), (points[2, 1] - 0.05 * height, points[3:, 1].min())))
    left, right, bottom = box[0] - 0.1 * width, box[2] + 0.1 * width, box[3] + 0.1 * height
    low = top + 0.08 * height
    outline = np.array([[left, low], [points[2, 0], top], [right, low], [right, bottom], [left, bottom]])
    cv2.fillPoly(crop, [outline.astype(np.int32)], int(rng.integers(0, 256)))


def put_on_headgear(
    rng: np.random.Generator, crop: Gray, box: NDArray[np.float32], points: NDArray[np.float32]
) -> None:
    """A helmet, hat or hood from the brows up, goggles or a visor over the eyes, or both, in place."""
    height = float(box[3] - box[1])
    along = (points[1] - points[0]) / max(1.0, float(np.linalg.norm(points[1] - points[0])))
    down = np.array([-along[1], along[0]])
    eyes, half = (points[0] + points[1]) / 2, float(box[2] - box[0]) / 2
    kind = int(rng.integers(3))
    if kind != 1:
        brow = eyes - down * rng.uniform(0.1, 0.22) * height
        sag, wide = rng.uniform(-0.08, 0.06) * height, half * rng.uniform(1.1, 1.5)
        steps = np.linspace(-1, 1, 9)[:, None]
        rim = brow + along * steps * wide + down * sag * (1 - steps**2)
        crown = brow - down * height * rng.uniform(0.5, 1.2) * (1 - 0.6 * steps[::-1] ** 2) + along * steps[::-1] * wide
        cv2.fillPoly(crop, [np.concatenate([rim, crown]).astype(np.int32)], int(rng.integers(0, 256)), cv2.LINE_AA)
        if rng.random() < 0.6:
            thick = max(1, int(rng.uniform(0.02, 0.08) * height))
            cv2.polylines(crop, [rim.astype(np.int32)], False, int(rng.integers(0, 256)), thick, cv2.LINE_AA)
    if kind != 0:
        wide, value = half * rng.uniform(0.7, 1.05), int(rng.integers(0, 256))
        ends = [tuple(int(v) for v in eyes + along * wide * sign) for sign in (-1, 1)]
        cv2.line(crop, ends[0], ends[1], value, max(2, int(rng.uniform(0.14, 0.26) * height)), cv2.LINE_AA)
        if rng.random() < 0.5:
            shine = [
                tuple(int(v) for v in eyes + along * wide * at - down * 0.05 * height)
                for at in rng.uniform(-0.8, 0.8, 2)
            ]
            cv2.line(crop, shine[0], shine[1], int(rng.integers(0, 256)), max(1, int(0.06 * height)), cv2.LINE_AA)


def draw_marks(rng: np.random.Generator, canvas: Gray, boxes: list[NDArray[np.float32]]) -> None:
    """A few letters, rings, spots and bars of random size, in place, beside the faces that are there already."""
    for _ in range(int(rng.integers(1, 7))):
        side = int(np.exp(rng.uniform(np.log(8), np.log(90))))
        x, y = (int(v) for v in rng.uniform(0, len(canvas) - 4, 2))
        if covers(np.array([x - side, y - side, x + side, y + side], np.float32), boxes, 0.0):
            continue
        value, thick = int(rng.integers(0, 256)), max(1, int(side * rng.uniform(0.05, 0.2)))
        kind = int(rng.integers(5))
        if kind == 0:
            letters = "".join(rng.choice(list("ABCDEFGHKMPRSTXabdegs0235689%&#:="), int(rng.integers(1, 7))))
            font = int(
                rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX])
            )
            cv2.putText(canvas, letters, (x, y), font, side / 22, value, thick, cv2.LINE_AA)
        elif kind == 1:
            cv2.circle(canvas, (x, y), side // 2, value, thick, cv2.LINE_AA)
        elif kind == 2:
            axes = (max(1, side // 2), max(1, int(side * rng.uniform(0.2, 0.6))))
            cv2.ellipse(canvas, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, value, -1, cv2.LINE_AA)
            spots = rng.uniform(-0.3, 0.3, (int(rng.integers(0, 4)), 2)) * side + (x, y)
            for spot in spots:
                cv2.circle(canvas, (int(spot[0]), int(spot[1])), max(1, side // 9), 255 - value, -1, cv2.LINE_AA)
        elif kind == 3:
            cv2.rectangle(canvas, (x, y), (x + side, y + int(side * rng.uniform(0.3, 2))), value, thick)
        else:
            for row in range(int(rng.integers(2, 5))):
                at = y + row * max(2, side // 4)
                cv2.line(canvas, (x, at), (x + side, at), value, thick, cv2.LINE_AA)


def covers(box: NDArray[np.float32], others: list[NDArray[np.float32]], share: float) -> bool:
    """Whether a box and any other share more than that part of the smaller one."""
    for other in others:
        overlap = np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0, None).prod()
        if overlap > share * min((box[2:] - box[:2]).prod(), (other[2:] - other[:2]).prod()):
            return True
    return False
