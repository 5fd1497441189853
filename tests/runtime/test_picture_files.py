"""A picture file gives the same pixels to whoever reads it: data, calibration, the detector's training, ``run``."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_fer.core.errors import BadInputError
from edge_fer.data.class_folders import read_image
from edge_fer.data.detection.folder import read_bgr
from edge_fer.runtime.sources.images import Images

Reader = Callable[[Path], np.ndarray]


def as_run_does(path: Path) -> np.ndarray:
    frame = Images([path], str(path)).read(1.0)
    assert frame is not None
    return frame.image_bgr


READERS = pytest.mark.parametrize("read", [read_image, read_bgr, as_run_does], ids=["data", "detection", "run"])


def save(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def turned_jpeg(path: Path, image: np.ndarray, orientation: int) -> Path:
    """A JPEG whose EXIF block says how the camera was held."""
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert ok
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    raw = data.tobytes()
    path.write_bytes(raw[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + raw[2:])
    return path


@READERS
def test_a_portrait_that_a_telephone_stored_lying_stands_up(tmp_path: Path, read: Reader) -> None:
    upright = np.zeros((48, 32, 3), np.uint8)
    upright[:12] = 255
    lying = np.rot90(upright)  # counter-clockwise: orientation 6 turns it back
    image = read(turned_jpeg(tmp_path / "portrait.jpg", np.ascontiguousarray(lying), 6))
    assert image.shape[:2] == (48, 32)
    assert image[:8].min() > 200
    assert image[20:].max() < 50


@READERS
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_lose_their_lower_half_and_are_not_stretched(tmp_path: Path, read: Reader, channels: int) -> None:
    dim = np.full((8, 8, channels), 0x2080, np.uint16)
    dim[0, 0] = 0x3080
    if channels == 4:
        dim[..., 3] = 0xFFFF
    image = read(save(tmp_path / "dim.png", dim))
    assert image.dtype == np.uint8
    assert image[4, 4].max() == image[4, 4].min() == 0x20
    assert image[0, 0].max() == 0x30


@READERS
def test_what_is_behind_transparency_is_shown(tmp_path: Path, read: Reader) -> None:
    image = np.full((8, 8, 4), (10, 20, 30, 0), np.uint8)
    assert read(save(tmp_path / "clear.png", image))[3, 3].tolist() == [10, 20, 30]


@READERS
def test_a_picture_of_a_million_by_a_million_pixels_is_refused_in_a_sentence(tmp_path: Path, read: Reader) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 1_000_000, 1_000_000, 8, 2, 0, 0, 0)
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )
    with pytest.raises(BadInputError, match=r"bomb\.png"):
        read(bomb)


@READERS
def test_a_missing_file_is_named(tmp_path: Path, read: Reader) -> None:
    with pytest.raises(BadInputError, match=r"gone\.png: No such file"):
        read(tmp_path / "gone.png")
