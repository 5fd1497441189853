"""A network stream: RTSP or HTTP, through FFmpeg."""

from __future__ import annotations

import cv2

from edge_fer.core.errors import SourceError
from edge_fer.runtime.frames import FrameSource, PictureMemory
from edge_fer.runtime.sources.capture import open_address, open_media
from edge_fer.runtime.sources.live import LOST_AFTER_S, LiveSource
from edge_fer.runtime.sources.video_file import VideoFile

SCHEMES = ("rtsp://", "rtsps://", "http://", "https://", "rtmp://", "udp://", "tcp://")

TIMEOUT_MS = 5000
"""A stream that is silent for this long is given up and opened again; shorter than the loop's own patience."""


def open_stream(
    url: str,
    *,
    pool_size: int,
    paced: bool = False,
    memory: PictureMemory | None = None,
    lost_after_s: float = LOST_AFTER_S,
) -> FrameSource:
    """Open a stream by URL. Credentials in the URL are never shown: neither before an ``@`` nor in a query.

    A URL whose video has an end (a file on a web server) is read as a file is: in order, nothing dropped, once.

    Raises:
        SourceError: nothing answers there, or it is no video.
    """
    shown = shown_url(url)
    first = open_address(url, timeout_ms=TIMEOUT_MS)
    if first is None:
        raise SourceError(f"stream {shown} cannot be opened.", fix="Check the address with: ffplay URL")
    if first.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        return VideoFile.of_capture(first, shown, pool_size=pool_size, paced=paced, memory=memory)
    opened = [first]
    return LiveSource(
        lambda: opened.pop() if opened else open_media(url, timeout_ms=TIMEOUT_MS),
        f"stream {shown}",
        pool_size=pool_size,
        memory=memory,
        lost_after_s=lost_after_s,
    )


def shown_url(url: str) -> str:
    """Scheme, host and path: what may be printed, stored and served."""
    scheme, _, rest = url.partition("://")
    # Nobody quotes a password's own slashes and question marks: what comes before the last @ may all be one.
    address, query, _ = rest.rpartition("@")[2].partition("?")
    return f"{scheme}://{address}{query and '?…'}"
