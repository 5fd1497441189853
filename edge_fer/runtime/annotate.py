"""Draw results on a picture: boxes, labels, a bar per class, frame age and rate."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.runtime.results import FaceResult, FrameResult

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, INK = (255, 255, 255), (24, 24, 24)
GREY = (170, 170, 170)
COLOURS_BGR: dict[str, tuple[int, int, int]] = {
    "angry": (70, 70, 235),
    "disgust": (80, 160, 80),
    "fear": (200, 110, 170),
    "happy": (60, 200, 250),
    "neutral": (190, 190, 190),
    "sad": (230, 150, 70),
    "surprise": (80, 150, 255),
}


def colour_of_label(label: str) -> tuple[int, int, int]:
    """The class's colour, BGR, the same wherever it is shown; one for all classes that are not ours."""
    return COLOURS_BGR.get(label, (90, 220, 90))


def colour_of(face: FaceResult) -> tuple[int, int, int]:
    return GREY if face.uncertain else colour_of_label(face.label)


def annotated(result: FrameResult) -> NDArray[np.uint8]:
    """The frame's own picture with the results drawn on it: uint8 (H, W, 3), valid as long as the frame is held.

    Whichever sink asks first draws; all get the same pixels, and nobody copies. The loop has read the frame to its end
    before a sink sees it, so that drawing in place disturbs nobody; sinks must not write to it.
    """
    image = result.frame.image_bgr
    result.drawn(lambda: annotate(image, result))
    return image


def annotate(image_bgr: NDArray[np.uint8], result: FrameResult) -> None:
    """Draw on uint8 (H, W, 3) in place. Line widths and letters follow the picture's size."""
    unit = max(image_bgr.shape[0], 240) / 720
    for face in result.faces:
        _draw_face(image_bgr, face, result.labels, unit)
    status = f"{result.fps:.0f} fps   age {result.age_ms:.0f} ms"
    _text(image_bgr, status, (round(14 * unit), round(30 * unit)), 0.62 * unit, WHITE, unit)


def _text(
    image: NDArray[np.uint8], text: str, at: tuple[int, int], size: float, colour: tuple[int, int, int], unit: float
) -> None:
    """Letters with a dark outline, readable on any picture."""
    width = max(1, round(1.6 * unit))
    cv2.putText(image, text, at, FONT, size, INK, width + max(2, round(2 * unit)), cv2.LINE_AA)
    cv2.putText(image, text, at, FONT, size, colour, width, cv2.LINE_AA)


def _shade(image: NDArray[np.uint8], x1: int, y1: int, x2: int, y2: int) -> None:
    """Darken a rectangle, so that what is written on it can be read."""
    part = image[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    if part.size:
        np.right_shift(part, 1, out=part)
        np.add(part, 12, out=part)


def _draw_face(image: NDArray[np.uint8], face: FaceResult, labels: tuple[str, ...], unit: float) -> None:
    left, top, right, bottom = (round(value) for value in face.box_xyxy)
    colour, line = colour_of(face), max(1, round(2 * unit))
    _corners(image, (left, top, right, bottom), colour, line)
    best = float(face.scores[labels.index(face.label)])
    name = f"{face.label}?" if face.uncertain else face.label
    _label(image, f"{name}  {best:.0%}", (left, top), colour, unit)
    row, wide = round(19 * unit), round(148 * unit)
    x = right + round(10 * unit)
    if x + wide > image.shape[1]:
        x = left - round(10 * unit) - wide
    if x < 0 or len(labels) * row > image.shape[0]:
        return
    y = min(max(top, 0), image.shape[0] - len(labels) * row)
    _shade(image, x, y, x + wide, y + len(labels) * row)
    for index, label in enumerate(labels):
        base = y + (index + 1) * row
        score, letters = float(face.scores[index]), round(74 * unit)
        bar = (x + letters, base - round(14 * unit))
        end = (bar[0] + round(score * (wide - letters - 6 * unit)), base - round(5 * unit))
        cv2.rectangle(image, bar, end, colour_of_label(label), cv2.FILLED)
        at = (x + round(6 * unit), base - round(5 * unit))
        cv2.putText(image, label, at, FONT, 0.42 * unit, WHITE, max(1, round(unit)), cv2.LINE_AA)
    footer = f"#{face.track}"
    _text(image, footer, (left, bottom + round(20 * unit)), 0.5 * unit, colour, unit)


def _corners(image: NDArray[np.uint8], box: tuple[int, int, int, int], colour: tuple[int, int, int], line: int) -> None:
    left, top, right, bottom = box
    cv2.rectangle(image, (left, top), (right, bottom), colour, max(1, line // 2), cv2.LINE_AA)
    arm = max(4, (right - left) // 6)
    for x, y, dx, dy in ((left, top, 1, 1), (right, top, -1, 1), (left, bottom, 1, -1), (right, bottom, -1, -1)):
        cv2.line(image, (x, y), (x + dx * arm, y), colour, 2 * line, cv2.LINE_AA)
        cv2.line(image, (x, y), (x, y + dy * arm), colour, 2 * line, cv2.LINE_AA)


def _label(
    image: NDArray[np.uint8], text: str, corner: tuple[int, int], colour: tuple[int, int, int], unit: float
) -> None:
    size, width = 0.68 * unit, max(1, round(1.7 * unit))
    (w, h), _ = cv2.getTextSize(text, FONT, size, width)
    pad = round(7 * unit)
    left = min(max(corner[0], 0), max(0, image.shape[1] - w - 2 * pad))
    bottom = max(corner[1] - round(3 * unit), h + 2 * pad)
    cv2.rectangle(image, (left, bottom - h - 2 * pad), (left + w + 2 * pad, bottom), colour, cv2.FILLED)
    cv2.putText(image, text, (left + pad, bottom - pad), FONT, size, INK, width, cv2.LINE_AA)
