"""How small a face is looked for, where nobody says so: a share of the picture's height."""

from __future__ import annotations

SHARE, LEAST_PX = 9, 24


def default_min_face(height: int) -> int:
    """The smallest face that is looked for in a picture of so many pixels, unless told otherwise: a ninth of its
    height, at least 24 pixels."""
    return max(LEAST_PX, height // SHARE)


def min_face_in(height: int, min_face_px: int | None) -> int:
    """The smallest face in a picture of that height; ``None`` follows each picture's own."""
    return default_min_face(height) if min_face_px is None else min_face_px


def told(min_face_px: int | None) -> str:
    """For the names of detectors."""
    return "faces from a ninth of each picture's height" if min_face_px is None else f"faces from {min_face_px} px"
