"""A local camera: V4L2, AVFoundation or Media Foundation through OpenCV."""

from __future__ import annotations

import sys

import cv2

from edge_fer.runtime.sources.capture import open_capture
from edge_fer.runtime.sources.live import LiveSource

_APIS = {"linux": cv2.CAP_V4L2, "darwin": cv2.CAP_AVFOUNDATION, "win32": cv2.CAP_MSMF}


def open_camera(index: int, *, pool_size: int, width: int = 1280, height: int = 720, fps: int = 30) -> LiveSource:
    """Open camera ``index`` and ask for MJPG at a size and rate; what was granted is in ``info``.

    MJPG, because over USB 2 uncompressed 720p comes at ten frames a second. The driver's queue is kept at one frame.

    Raises:
        SourceError: no such camera, or it gives no picture.
    """

    def connect() -> cv2.VideoCapture | None:
        capture = open_capture(index, _APIS.get(sys.platform, cv2.CAP_ANY))
        if capture is None:
            return None
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        capture.set(cv2.CAP_PROP_FPS, fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if not capture.grab():
            capture.release()
            return None
        return capture

    listing = "ls /dev/video*" if sys.platform == "linux" else "the system's camera settings"
    return LiveSource(
        connect,
        f"camera {index}",
        pool_size=pool_size,
        fix=f"Check that it is plugged in, allowed, and not used by another program ({listing}); or try --demo.",
    )
