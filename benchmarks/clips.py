"""720p clips with one face and with four, made from the demo that ships with the project.

    python benchmarks/clips.py FOLDER

H.264 as a camera's app or a phone writes it. Needs: pip install av
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

DEMO = Path(__file__).resolve().parents[1] / "edge_fer" / "runtime" / "assets" / "demo.mp4"
WIDTH, HEIGHT, FPS = 1280, 720, 30


def demo_frames() -> list[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(DEMO))
    frames: list[NDArray[np.uint8]] = []
    while (read := capture.read())[0]:
        frames.append(np.asarray(read[1], dtype=np.uint8))
    capture.release()
    return frames


def compose(frames: list[NDArray[np.uint8]], index: int, faces: int) -> NDArray[np.uint8]:
    """One frame (720, 1280, 3): the demo enlarged, or four of them at quarters of its length from each other."""
    if faces == 1:
        return np.asarray(cv2.resize(frames[index], (WIDTH, HEIGHT)), dtype=np.uint8)
    parts = [frames[(index + shift * len(frames) // 4) % len(frames)] for shift in range(4)]
    small = [cv2.resize(part, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA) for part in parts]
    return np.asarray(np.vstack([np.hstack(small[:2]), np.hstack(small[2:])]), dtype=np.uint8)


def make_clip(path: Path, faces: int, *, frames: int | None = None) -> None:
    """Write a clip with 1 or 4 faces in every frame; ``frames``: only the first ones."""
    pictures = demo_frames()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(min(frames or len(pictures), len(pictures))):
            frame = av.VideoFrame.from_ndarray(compose(pictures, index, faces), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for faces in (1, 4):
        make_clip(folder / f"faces{faces}.mp4", faces)


if __name__ == "__main__":
    main()
