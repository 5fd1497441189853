"""The run as a page for browsers on this machine: the labelled picture, a bar per class, ages, rates and drops.

``/video`` is MJPEG (multipart/x-mixed-replace), which other programs can read too; ``/scores`` are server-sent events;
``/picture`` is the next frame as it was taken, with nothing drawn on it.
Every client reads from a mailbox of one: a slow one misses pictures, counted, and holds up neither the loop nor others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping
from http import HTTPStatus
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import DeviceError
from edge_fer.runtime.annotate import annotated, colour_of_label
from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sinks.jsonl import as_record
from edge_fer.runtime.sinks.latest import Latest
from edge_fer.runtime.sinks.local_server import LocalServer, Reply, Route

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "web"
PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
LARGEST_PX = 1280
"""Longer side of the picture that is sent; the page shows none that is larger."""
QUALITY = 80
SHORTEST_S = 0.025
"""Pictures are sent no faster than screens and eyes follow; a file may run at hundreds of frames a second."""
ALIVE_S = 5.0
"""A silent client is asked this often whether it is still there."""
BOUNDARY = b"frame"
PLAIN_QUALITY, PLAIN_S = 95, 5.0
"""JPEG quality of ``/picture``, and how long it waits for a frame."""


class WebSink:
    """A page on 127.0.0.1. Pictures are drawn and encoded only while somebody looks.

    Args:
        server: has its port already; ``start`` makes it answer, and ``close`` ends it.
        labels: the model's classes.
        about: what the page says about the run, such as ``{"model": ..., "source": ...}``.
        dropped: how many frames the source has dropped so far.
    """

    name, lossless = "web page", False

    def __init__(
        self,
        server: LocalServer,
        *,
        labels: tuple[str, ...],
        about: Mapping[str, str],
        dropped: Callable[[], int] = lambda: 0,
    ) -> None:
        self._server, self._dropped = server, dropped
        self._begin = {"labels": [{"name": name, "colour": _hex(name)} for name in labels], **about}
        self._pictures: Latest[bytes] = Latest()
        self._events: Latest[dict[str, object]] = Latest()
        self._plain: Latest[bytes] = Latest()
        self._small = np.empty((0, 0, 3), np.uint8)
        self._next_s = 0.0
        self._state, self._complete = "", True

    @property
    def clients(self) -> int:
        """How many look at the picture or read the scores now."""
        return self._pictures.readers + self._events.readers

    @property
    def missed(self) -> int:
        """Pictures and events that slow clients did not get."""
        return self._pictures.missed + self._events.missed

    def start(self, routes: Mapping[str, Route]) -> None:
        """Begin to answer; ``routes`` are served beside the page's own."""
        pages: dict[str, Route] = {path: _page(file, kind) for path, (file, kind) in PAGES.items()}
        multipart = f"multipart/x-mixed-replace; boundary={BOUNDARY.decode()}"
        pages["/video"] = lambda: Reply(multipart, self._video())
        pages["/picture"] = self._picture
        pages["/scores"] = lambda: Reply("text/event-stream; charset=utf-8", self._scores())
        self._server.start({**pages, **routes})

    def tell(self, state: str) -> None:
        """Something broke and is tried again, in words; "" when it works again. Called from the loop's threads."""
        self._state = state
        self._events.put({"state": state})

    def write(self, result: FrameResult) -> None:
        now = time.perf_counter()
        if now < self._next_s:
            return
        # From the time that was planned, not from now: otherwise a camera at 40 frames a second would lose every other.
        self._next_s = max(self._next_s + SHORTEST_S, now)
        if self._events.readers:
            dropped = self._dropped()
            self._events.put(
                {**as_record(result), "fps": round(result.fps, 1), "dropped": dropped, "state": self._state}
            )
        if self._plain.readers:
            # Before this sink draws, and only if no other one has.
            result.drawn.unless_done(lambda: self._plain.put(_jpeg(result.frame.image_bgr, PLAIN_QUALITY)))
        if self._pictures.readers:
            self._pictures.put(self._encode(annotated(result)))

    def close(self, *, complete: bool) -> None:
        self._complete = complete
        self._pictures.close()
        self._events.close()
        self._plain.close()
        self._server.close()

    def _encode(self, picture: NDArray[np.uint8]) -> bytes:
        height, width = picture.shape[:2]
        scale = LARGEST_PX / max(height, width)
        if scale < 1:
            shape = (round(height * scale), round(width * scale), 3)
            if self._small.shape != shape:
                self._small = np.empty(shape, np.uint8)
            picture = np.asarray(
                cv2.resize(picture, shape[1::-1], dst=self._small, interpolation=cv2.INTER_AREA), np.uint8
            )
        return _jpeg(picture, QUALITY)

    # In a client's thread.

    def _picture(self) -> Reply:
        with self._plain.reader() as reader:
            jpeg = reader.take(PLAIN_S)
        if jpeg is not None:
            return Reply("image/jpeg", jpeg)
        why = b"No frame came in time, or another output draws on them first: run with --web alone.\n"
        return Reply("text/plain; charset=utf-8", why, HTTPStatus.SERVICE_UNAVAILABLE)

    def _video(self) -> Generator[bytes, None, None]:
        with self._pictures.reader() as reader:
            piece = b"--%s\r\n" % BOUNDARY
            yield piece
            while True:
                jpeg = reader.take(ALIVE_S)
                if jpeg is not None:
                    # The boundary follows at once instead of with the next picture: browsers show a part when it ends.
                    head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                    piece = b"%s%s\r\n--%s\r\n" % (head, jpeg, BOUNDARY)
                    yield piece
                elif reader.ended:
                    return
                elif len(piece) > len(BOUNDARY) + 4:
                    yield piece

    def _scores(self) -> Generator[bytes, None, None]:
        with self._events.reader() as reader:
            yield b"retry: 1000\n\n" + _event("run", {**self._begin, "state": self._state})
            while True:
                record = reader.take(ALIVE_S)
                if record is not None:
                    yield _event("frame" if "frame" in record else "state", {**record, "missed": reader.missed})
                elif reader.ended:
                    yield _event("end", {"complete": self._complete})
                    return
                else:
                    yield b": still here\n\n"


def _jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    encoded, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        height, width = picture.shape[:2]
        raise DeviceError(f"OpenCV cannot encode a picture of {width}x{height} as JPEG.")
    return jpeg.tobytes()


def _event(name: str, data: Mapping[str, object]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _page(file: str, kind: str) -> Route:
    content = (ASSETS / file).read_bytes()
    return lambda: Reply(kind, content)


def _hex(label: str) -> str:
    blue, green, red = colour_of_label(label)
    return f"#{red:02x}{green:02x}{blue:02x}"
