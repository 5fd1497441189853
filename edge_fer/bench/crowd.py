"""Pictures with as many faces as wanted, made from the clip that ships with the project.

A planner that is asked for four faces must see four: the classifier's call, the crops and what is carried from frame
to frame grow with them, and a cascade searches longer where more looks like a face.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import DeviceError

DEMO = Path(__file__).resolve().parents[1] / "runtime" / "assets" / "demo.mp4"
MEMORY_BYTES = 1 << 28
FPS = 30.0


def crowd_frames(faces: int, frame_hw: tuple[int, int], count: int = 90) -> list[NDArray[np.uint8]]:
    """Frames uint8 (H, W, 3) BGR with ``faces`` faces each, in as many rows as columns.

    The faces move as in the clip, forth and back, so that played round and round nothing ever jumps; each is at another
    moment of it. A face is about half as high as its row.

    Args:
        count: at most so many frames; fewer where they would take more than 256 MiB, or the clip is shorter.
    """
    height, width = frame_hw
    side = math.ceil(math.sqrt(faces))
    tile_wh = width // side, height // side
    pictures = _demo_frames()
    # There and back again: positions 0, 1, .. turn, .. 1 of the clip.
    turn = max(1, min(count // 2, len(pictures) - 1, MEMORY_BYTES // (6 * height * width)))
    small = [cv2.resize(p, tile_wh, interpolation=cv2.INTER_AREA) for p in pictures[: turn + 1]]
    background = np.asarray(pictures[0].reshape(-1, 3).mean(axis=0), np.uint8)
    frames = []
    for index in range(2 * turn):
        frame = np.empty((height, width, 3), np.uint8)
        frame[:] = background
        for face in range(faces):
            row, column = divmod(face, side)
            top, left = row * tile_wh[1], column * tile_wh[0]
            place = (index + face * 2 * turn // faces) % (2 * turn)
            frame[top : top + tile_wh[1], left : left + tile_wh[0]] = small[turn - abs(turn - place)]
        frames.append(frame)
    return frames


def write_crowd(path: Path, faces: int, frame_hw: tuple[int, int], count: int = 90) -> None:
    """Write such frames as a clip of 30 a second.

    Raises:
        DeviceError: OpenCV cannot write one here.
    """
    height, width = frame_hw
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
    if not writer.isOpened():
        raise DeviceError(f"OpenCV cannot write the clip that a choice would be tried on ({path.name}, mp4v).")
    try:
        for frame in crowd_frames(faces, frame_hw, count):
            writer.write(frame)
    finally:
        writer.release()


def _demo_frames() -> list[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(DEMO))
    frames: list[NDArray[np.uint8]] = []
    try:
        while (read := capture.read())[0]:
            frames.append(np.asarray(read[1], np.uint8))
    finally:
        capture.release()
    if not frames:
        raise DeviceError("OpenCV cannot decode the clip that ships with the project.", fix="Install edge-fer again.")
    return frames


__all__ = ["DEMO", "crowd_frames", "write_crowd"]
