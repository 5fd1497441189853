"""A local camera: V4L2, AVFoundation or Media Foundation through OpenCV."""

from __future__ import annotations

import sys

import cv2

from edge_fer.core.errors import UsageError
from edge_fer.runtime.frames import PictureMemory
from edge_fer.runtime.sources.capture import open_capture
from edge_fer.runtime.sources.live import LOST_AFTER_S, LiveSource

_APIS = {"linux": cv2.CAP_V4L2, "darwin": cv2.CAP_AVFOUNDATION, "win32": cv2.CAP_MSMF}
SIZE, FPS = (1280, 720), 30
LARGEST = 8192


def parse_size(text: str) -> tuple[int, int]:
    """``1280x720`` -> (width, height).

    Raises:
        UsageError: it is not of that form, or no camera's size.
    """
    wide, _, high = text.lower().partition("x")
    if not (wide.isdecimal() and high.isdecimal() and 0 < int(wide) <= LARGEST and 0 < int(high) <= LARGEST):
        raise UsageError(f"A camera's size is WIDTHxHEIGHT in pixels, not {text!r}.", fix="--camera-size 1280x720")
    return int(wide), int(high)


def open_camera(
    which: int | str,
    *,
    pool_size: int,
    size: tuple[int, int] = SIZE,
    fps: float = FPS,
    memory: PictureMemory | None = None,
    lost_after_s: float = LOST_AFTER_S,
) -> LiveSource:
    """Open a camera and ask for MJPG at a size (width, height) and a rate; what was granted is in ``info``.

    ``which``: its number, or the path of its device where cameras have one (Linux).

    MJPG, because over USB 2 uncompressed 720p comes at ten frames a second; a driver without it keeps its own format.
    The driver's queue is kept at one frame. The format comes first: on V4L2 the sizes and rates depend on it.

    Raises:
        SourceError: no such camera, or it gives no picture.
    """

    def connect() -> cv2.VideoCapture | None:
        capture = open_capture(which, _APIS.get(sys.platform, cv2.CAP_ANY))
        if capture is None:
            return None
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        capture.set(cv2.CAP_PROP_FPS, fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if not capture.grab():
            capture.release()
            return None
        return capture

    def describe(capture: cv2.VideoCapture) -> str:
        granted = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        rate = capture.get(cv2.CAP_PROP_FPS)
        asked = f"; {size[0]}x{size[1]} at {fps:g} fps were asked for"
        as_asked = granted == size and abs(rate - fps) < 0.5
        return f"camera {which} ({capture.getBackendName()}, {_format(capture)}{'' if as_asked else asked})"

    listing = "ls /dev/video*" if sys.platform == "linux" else "the system's camera settings"
    return LiveSource(
        connect,
        f"camera {which}",
        pool_size=pool_size,
        memory=memory,
        lost_after_s=lost_after_s,
        fix=f"Check that it is plugged in, allowed, and not used by another program ({listing}); or try --demo.",
        describe=describe,
    )


def _format(capture: cv2.VideoCapture) -> str:
    """The four letters of the pixel format; some drivers do not tell."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    letters = "".join(chr(code >> shift & 0xFF) for shift in (0, 8, 16, 24)) if code > 0 else ""
    return letters.strip() if letters.isascii() and letters.strip().isalnum() else "format unknown"
