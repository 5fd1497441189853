"""Pictures that teach nothing: unreadable, flat, black or white. What counts as such is the recipe's to say."""

from __future__ import annotations

import cv2
import numpy as np
from pydantic import Field

from edge_fer.core.spec import Frozen
from edge_fer.data.samples import Image

UNREADABLE, SMALL, FLAT, DARK, BRIGHT = "unreadable", "too small", "low variance", "too dark", "too bright"


class QualitySpec(Frozen):
    """Limits over a face's grey values, 0..255.

    Attributes:
        smallest_px: shorter side of the face in the original, before it is enlarged.
        std: standard deviation below which a face shows nothing.
        dark, bright: means outside of which it is too dark or too bright.
    """

    smallest_px: int = Field(default=24, ge=1)
    std: float = Field(default=12.0, ge=0, lt=128)
    dark: float = Field(default=20.0, ge=0, lt=256)
    bright: float = Field(default=235.0, gt=0, le=255)


def gray_of(image: Image) -> Image:
    """(H, W) uint8 of a grey or BGR picture."""
    return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), dtype=np.uint8)


def find_anomaly(face: Image, side_px: float, spec: QualitySpec) -> tuple[str, str] | None:
    """What is wrong with a cut-out face, as (kind, sentence with the figure), or ``None``.

    Args:
        face: uint8 (H, W) or (H, W, 3).
        side_px: its shorter side in the original picture.
    """
    if side_px < spec.smallest_px:
        return SMALL, f"{side_px:.0f} px, at least {spec.smallest_px} are wanted"
    gray = gray_of(face)
    mean, std = float(gray.mean()), float(gray.std())
    if mean < spec.dark:
        return DARK, f"mean {mean:.1f}, limit {spec.dark:g}"
    if mean > spec.bright:
        return BRIGHT, f"mean {mean:.1f}, limit {spec.bright:g}"
    if std < spec.std:
        return FLAT, f"standard deviation {std:.1f}, limit {spec.std:g}"
    return None
