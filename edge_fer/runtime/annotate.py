"""Draw results on a picture: boxes, labels, a bar per class, frame age and rate."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.runtime.results import FaceResult, FrameResult

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, INK = (255, 255, 255), (20, 20, 20)
GREY = (190, 190, 190)
TRACK = (70, 70, 70)
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
    _plate(image_bgr, f"{result.fps:.0f} fps   frame age {result.age_ms:.0f} ms", unit)


def cover_stale(image: NDArray[np.uint8], state: str, age_s: float) -> None:
    """Darken uint8 (H, W, 3), RGB or BGR, in place: nothing newer has come for ``age_s``; ``state`` says why, or ""."""
    height, width = image.shape[:2]
    unit = max(height, 240) / 720
    np.right_shift(image, 1, out=image)
    lines = [state or "no new picture", f"last picture {age_s:.0f} s ago"]
    for row, line in enumerate(lines):
        size, thick = 0.9 * unit, max(1, round(1.6 * unit))
        (w, _), _ = cv2.getTextSize(line, FONT, size, thick)
        size *= min(1.0, 0.94 * width / w)
        (w, _), _ = cv2.getTextSize(line, FONT, size, thick)
        at = ((width - w) // 2, round(height / 2 + (row - 0.25) * 44 * unit))
        cv2.putText(image, line, at, FONT, size, WHITE, thick, cv2.LINE_AA)


def _plate(image: NDArray[np.uint8], text: str, unit: float) -> None:
    """A line of letters in the top left corner, on a darkened ground."""
    size, thick, pad = 0.6 * unit, max(1, round(unit)), round(9 * unit)
    (w, h), _ = cv2.getTextSize(text, FONT, size, thick)
    _shade(image, 0, 0, w + 2 * pad, h + 2 * pad)
    cv2.putText(image, text, (pad, h + pad), FONT, size, WHITE, thick, cv2.LINE_AA)


def _shade(image: NDArray[np.uint8], x1: int, y1: int, x2: int, y2: int) -> None:
    """Darken a rectangle, so that what is written on it can be read."""
    part = image[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    if part.size:
        np.right_shift(part, 2, out=part)
        np.add(part, 16, out=part)


def _draw_face(image: NDArray[np.uint8], face: FaceResult, labels: tuple[str, ...], unit: float) -> None:
    left, top, right, bottom = (round(value) for value in face.box_xyxy)
    colour, line = colour_of(face), max(1, round(2 * unit))
    _corners(image, (left, top, right, bottom), colour, line)
    share = f"{float(face.scores[labels.index(face.label)]):.0%}"
    name = f"uncertain: {face.label}" if face.uncertain else face.label
    tag_left, tag_right = _tag(image, f"#{face.track}  {name} {share}", (left, top), colour, unit)
    row, wide, gap = round(20 * unit), round(160 * unit), round(10 * unit)
    # Beside box and tag, so that it covers neither; on the left where the picture ends.
    x = max(right, tag_right) + gap
    if x + wide > image.shape[1]:
        x = min(left, tag_left) - gap - wide
    if x < 0 or len(labels) * row + gap > image.shape[0]:
        return
    y = min(max(top, 0), image.shape[0] - len(labels) * row - gap)
    _bars(image, face, labels, (x, y, wide, row), unit)


def _bars(
    image: NDArray[np.uint8], face: FaceResult, labels: tuple[str, ...], place: tuple[int, int, int, int], unit: float
) -> None:
    """A panel with a bar per class; ``place``: left, top, width, height of a row."""
    x, y, wide, row = place
    pad, thick = round(6 * unit), max(1, round(unit))
    _shade(image, x, y, x + wide, y + len(labels) * row + pad)
    begin, length = x + round(76 * unit), wide - round(76 * unit) - pad
    for index, label in enumerate(labels):
        base = y + (index + 1) * row
        low, high = base - round(11 * unit), base - round(3 * unit)
        cv2.rectangle(image, (begin, low), (begin + length, high), TRACK, cv2.FILLED)
        end = begin + round(float(face.scores[index]) * length)
        cv2.rectangle(image, (begin, low), (end, high), colour_of_label(label), cv2.FILLED)
        cv2.putText(image, label, (x + pad, base - thick), FONT, 0.42 * unit, WHITE, thick, cv2.LINE_AA)


def _corners(image: NDArray[np.uint8], box: tuple[int, int, int, int], colour: tuple[int, int, int], line: int) -> None:
    left, top, right, bottom = box
    cv2.rectangle(image, (left, top), (right, bottom), colour, max(1, line // 2), cv2.LINE_AA)
    arm = max(4, (right - left) // 6)
    for x, y, dx, dy in ((left, top, 1, 1), (right, top, -1, 1), (left, bottom, 1, -1), (right, bottom, -1, -1)):
        cv2.line(image, (x, y), (x + dx * arm, y), colour, 2 * line, cv2.LINE_AA)
        cv2.line(image, (x, y), (x, y + dy * arm), colour, 2 * line, cv2.LINE_AA)


def _tag(
    image: NDArray[np.uint8], text: str, corner: tuple[int, int], colour: tuple[int, int, int], unit: float
) -> tuple[int, int]:
    """What the face is called, above its box and inside the picture; returns where the tag begins and ends."""
    size, thick, pad = 0.62 * unit, max(1, round(1.3 * unit)), round(7 * unit)
    (w, h), _ = cv2.getTextSize(text, FONT, size, thick)
    left = min(max(corner[0], 0), max(0, image.shape[1] - w - 2 * pad))
    bottom = max(corner[1] - round(3 * unit), h + 2 * pad)
    cv2.rectangle(image, (left, bottom - h - 2 * pad), (left + w + 2 * pad, bottom), colour, cv2.FILLED)
    cv2.putText(image, text, (left + pad, bottom - pad), FONT, size, INK, thick, cv2.LINE_AA)
    return left, left + w + 2 * pad
