"""Make ``edge_fer/compile/assets/canary_faces.png``: the faces by which every engine proves itself.

All are crops of one public-domain photograph, NASA's portrait of Eileen Collins, as scikit-image ships it. They differ
in crop, mirror image, light and blur. Half of them are strongly coloured, and some show one face in red and another,
upside down or inverted, in blue: a network which is fed the wrong colour order, scale or size gives visibly other
logits, a grey network included.

Needs scikit-image (in the ``dev`` extra); run it as ``python scripts/make_canary_faces.py``.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

SIDE_PX = 96
OUT = Path(__file__).resolve().parents[1] / "edge_fer" / "compile" / "assets" / "canary_faces.png"
CENTRE_XY = (222, 118)
"""Middle of the face in the 512x512 portrait."""

Image = NDArray[np.uint8]


def crop(portrait_bgr: Image, side_px: int, dx: int = 0, dy: int = 0) -> Image:
    """A square around the face, moved by (dx, dy) and scaled to 96x96."""
    x, y = CENTRE_XY[0] + dx - side_px // 2, CENTRE_XY[1] + dy - side_px // 2
    return cv2.resize(portrait_bgr[y : y + side_px, x : x + side_px], (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)


def light(image: Image, gain: float, gamma: float) -> Image:
    """Brightness and contrast as a lamp or an exposure change them."""
    return np.clip(255.0 * gain * (image / 255.0) ** gamma, 0, 255).astype(np.uint8)


def tint(image: Image, blue: float, green: float, red: float) -> Image:
    """Coloured light: a factor per channel."""
    return np.clip(image * np.array([blue, green, red]), 0, 255).astype(np.uint8)


def two_sided(red: Image, blue: Image, green_level: int) -> Image:
    """One face in the red channel and another in the blue one: swapped channels show the other face, in grey too."""
    as_grey = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (blue, red)]
    return cv2.merge([as_grey[0], np.full_like(as_grey[0], green_level), as_grey[1]])


def main() -> None:
    portrait = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    close, medium, wide = crop(portrait, 110), crop(portrait, 136), crop(portrait, 168)
    ramp = np.linspace(0.35, 1.25, SIDE_PX)[None, :, None]
    tiles = [
        close,
        medium,
        wide,
        cv2.flip(medium, 1),
        crop(portrait, 130, dx=12, dy=8),
        light(medium, 0.55, 1.0),
        light(medium, 1.15, 0.6),
        np.clip(close * ramp, 0, 255).astype(np.uint8),
        cv2.GaussianBlur(close, (0, 0), 1.5),
        tint(medium, 0.1, 0.5, 1.3),
        tint(close, 1.3, 0.5, 0.1),
        np.clip(tint(medium, 1.2, 0.6, 0.0) * ramp, 0, 255).astype(np.uint8),
        two_sided(close, cv2.flip(close, 0), 0),
        two_sided(cv2.flip(medium, 0), medium, 40),
        two_sided(close, 255 - close, 80),
        two_sided(255 - medium, medium, 80),
    ]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(OUT), np.concatenate(tiles), [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise SystemExit(f"cannot write {OUT}")


if __name__ == "__main__":
    main()
