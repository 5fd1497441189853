"""Make the demo clip: NASA's portrait of Eileen Collins, filmed by an imaginary hand-held webcam.

The portrait is in the public domain and comes with scikit-image. Only the clip is committed:

    python scripts/make_demo_clip.py edge_fer/runtime/assets/demo.mp4

Needs: pip install scikit-image av
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import av
import cv2
import numpy as np
from skimage import data

WIDTH, HEIGHT, FPS, SECONDS = 960, 540, 30, 10
FACE_CENTRE = (222.0, 116.0)
"""Between the eyes and the mouth, in the portrait's 512x512 pixels."""


def view(t: float) -> np.ndarray:
    """Affine matrix (2, 3) from portrait to frame at ``t`` seconds: slow pan and zoom with a hand's tremor on top."""
    phase = 2 * math.pi * t / SECONDS
    zoom = WIDTH / (348 + 30 * math.cos(phase))
    angle = 2.5 * math.sin(2 * phase) + 0.4 * math.sin(9 * phase)
    x = WIDTH * (0.46 + 0.06 * math.sin(phase)) + 3 * math.sin(11 * phase)
    y = HEIGHT * 0.46 + 10 * math.sin(2 * phase + 1) + 2 * math.sin(13 * phase)
    matrix = cv2.getRotationMatrix2D(FACE_CENTRE, angle, zoom)
    matrix[:, 2] += np.array([x, y]) - np.array(FACE_CENTRE)
    return matrix


def check_inside(matrix: np.ndarray, size_hw: tuple[int, int], t: float) -> None:
    """No frame may show the portrait's edge: all four corners must come from inside it.

    Raises:
        ValueError: this one does.
    """
    corners = np.array([[[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT]]], np.float64)
    where = cv2.transform(corners, cv2.invertAffineTransform(matrix))[0]
    height, width = size_hw
    if where.min() < 0 or where[:, 0].max() > width - 1 or where[:, 1].max() > height - 1:
        raise ValueError(f"at {t:.2f} s the view leaves the portrait: {where.round(1).tolist()}")


def light(image: np.ndarray, t: float, noise: np.random.Generator) -> np.ndarray:
    """A lamp that dims and brightens, warmer when dim, with a sensor's noise."""
    level = 0.88 + 0.16 * math.sin(2 * math.pi * 1.5 * t / SECONDS)
    warmth = 1 + 0.04 * (1 - level)
    gain = np.array([level / warmth, level, level * warmth])
    return np.clip(image * gain + noise.normal(0, 1.2, image.shape), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    portrait = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    noise = np.random.default_rng(0)
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "27", "preset": "veryslow"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(FPS * SECONDS):
            t = index / FPS
            matrix = view(t)
            check_inside(matrix, portrait.shape[:2], t)
            picture = cv2.warpAffine(portrait, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
            frame = av.VideoFrame.from_ndarray(light(picture, t, noise), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
