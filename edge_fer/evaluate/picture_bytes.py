"""Pictures from outside: their size is read before they are decoded, so that a small file cannot fill the memory."""

from __future__ import annotations

import struct

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError

MOST_PX = 16_000_000
_PNG = b"\x89PNG\r\n\x1a\n"
_NO_SIZE = frozenset({0x01, *range(0xD0, 0xDA)})
"""JPEG markers without a length: TEM, RST0-7, SOI, EOI."""
_NOT_A_FRAME = frozenset({0xC4, 0xC8, 0xCC})
"""Markers among C0-CF that begin no frame: Huffman tables, reserved, arithmetic coding."""


def decode_picture(data: bytes) -> NDArray[np.uint8]:
    """A PNG or JPEG as uint8 (H, W, 3) BGR.

    Raises:
        BadInputError: another format, damaged, or of more than :data:`MOST_PX` pixels.
    """
    size = picture_size(data)
    if size is None:
        raise BadInputError("This is no PNG or JPEG picture.")
    width, height = size
    if width * height > MOST_PX or min(width, height) < 1:
        raise BadInputError(f"The picture has {width}x{height} pixels; at most {MOST_PX // 10**6} million are taken.")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise BadInputError("The picture is damaged.")
    return np.asarray(image, np.uint8)


def picture_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that a PNG or JPEG says it has; ``None`` when it is neither."""
    if data.startswith(_PNG):
        if len(data) < 24 or data[12:16] != b"IHDR":
            return None
        width, height = struct.unpack(">II", data[16:24])
        return int(width), int(height)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk from segment to segment up to the first that begins a frame (ITU T.81, B.2.2)."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _NO_SIZE:
            at += 2
            continue
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_A_FRAME:
            if at + 9 > len(data):
                return None
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return int(width), int(height)
        if length < 2:
            return None
        at += 2 + length
    return None
