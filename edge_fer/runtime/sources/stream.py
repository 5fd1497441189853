"""A network stream: RTSP or HTTP, through FFmpeg."""

from __future__ import annotations

import cv2

from edge_fer.runtime.sources.capture import open_capture
from edge_fer.runtime.sources.live import LiveSource

SCHEMES = ("rtsp://", "rtsps://", "http://", "https://", "rtmp://", "udp://", "tcp://")


def open_stream(url: str, *, pool_size: int) -> LiveSource:
    """Open a stream by URL. Credentials in the URL are never shown.

    Raises:
        SourceError: nothing answers there, or it is no video.
    """
    scheme, _, rest = url.partition("://")
    shown = f"{scheme}://{rest.rpartition('@')[2]}"
    return LiveSource(
        lambda: open_capture(url, cv2.CAP_FFMPEG),
        f"stream {shown}",
        pool_size=pool_size,
        fix="Check the address with: ffplay URL",
    )
