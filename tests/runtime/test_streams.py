"""Network sources against a real HTTP server: files end, stalls reconnect, a request to end is heard meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from obedient_parts import FixedFaces
from typer.testing import CliRunner
from video_bytes import with_index_first

from edge_fer.cli.main import app
from edge_fer.cli.run import DEMO
from edge_fer.core.engine import Engine
from edge_fer.core.errors import SourceError
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.results import FrameResult, StopRun
from edge_fer.runtime.sources import stream
from edge_fer.runtime.sources.live import LiveSource
from edge_fer.runtime.sources.stream import open_stream, shown_url
from edge_fer.runtime.sources.video_file import VideoFile


class Server(ThreadingHTTPServer):
    """Serves ``/clip.mp4``, a finished video, ``/cut.mp4``, of which half is sent, and ``/camera``, MJPEG for as
    long as ``gate`` is set."""

    daemon_threads = True

    def __init__(self, clip: bytes, picture: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.clip, self.picture = clip, picture
        self.gate, self.present, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.gate.set()
        self.present.set()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        try:
            if self.path in ("/clip.mp4", "/cut.mp4"):
                self.send_response(200)
                self.send_header("Content-Length", str(len(server.clip)))
                self.end_headers()
                self.wfile.write(server.clip[: len(server.clip) // (2 if self.path == "/cut.mp4" else 1)])
            elif not server.present.is_set():
                self.send_error(503)
            else:
                self._camera(server)
        except OSError:
            pass  # the reader went away

    def _camera(self, server: Server) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        while server.present.is_set() and not server.ended.is_set():
            if not server.gate.wait(0.05):
                continue
            head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(server.picture)
            self.wfile.write(head + server.picture + b"\r\n")
            time.sleep(0.02)


@pytest.fixture
def server(demo_frames: list[np.ndarray]) -> Iterator[Server]:
    picture = cv2.imencode(".jpg", demo_frames[0])[1].tobytes()
    running = Server(with_index_first(DEMO.read_bytes()), picture)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.ended.set()
    running.shutdown()
    running.server_close()


def test_a_file_behind_a_url_is_read_once_and_whole(server: Server) -> None:
    source = open_stream(server.url("/clip.mp4"), pool_size=1)
    assert isinstance(source, VideoFile)
    assert source.info.live is False
    indices = []
    while (frame := source.read(120.0)) is not None:
        indices.append(frame.index)
        frame.release()
    source.close()
    assert indices == list(range(source.info.frames or 0))
    assert len(indices) == 300
    assert source.dropped == 0


def test_a_film_that_its_server_cuts_is_told_as_broken_behind_what_came(server: Server) -> None:
    options = ("--no-show", "--detector", "none", "--backend", "onnxruntime", "--json")
    done = CliRunner().invoke(app, ["run", "--source", server.url("/cut.mp4"), *options])
    assert isinstance(done.exception, SourceError)
    assert "of the 10.0 s that it announces" in done.exception.message
    told = json.loads(done.stdout)
    assert told["complete"] is False
    assert 100 < told["frames"] < 200
    assert 290 <= told["frames"] + told["frames_unread"] <= 310, "of a network's film only times are known"


def test_a_stream_that_falls_silent_is_opened_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TIMEOUT_MS", 2000)
    source = open_stream(server.url("/camera"), pool_size=1)
    assert isinstance(source, LiveSource)
    first = source.read(120.0)
    assert first is not None
    first.release()
    server.gate.clear()
    wait_until_lost(source)
    server.gate.set()
    deadline = time.monotonic() + 240
    while not source.reconnections and time.monotonic() < deadline:
        again = source.read(120.0)  # first perhaps what came before the silence
        assert again is not None
        again.release()
    assert source.reconnections >= 1
    source.close()


def wait_until_lost(source: LiveSource) -> None:
    deadline = time.monotonic() + 120
    while source.state == "live" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert source.state == "reconnecting"


def test_closing_the_window_is_heard_while_the_camera_is_away(server: Server, engine: Engine) -> None:
    """No frame comes then that would tell the loop."""

    class Closed:
        """A window that is closed as soon as the picture stands still."""

        name, lossless, on_caller = "window", False, True
        idled = 0

        def write(self, result: FrameResult) -> None:
            server.present.clear()

        def idle(self) -> None:
            if source.state == "reconnecting":
                self.idled += 1
                raise StopRun

        def close(self, *, complete: bool) -> None:
            pass

    source = open_stream(server.url("/camera"), pool_size=Pipeline.frames_held(1))
    assert isinstance(source, LiveSource)
    window = Closed()
    began = time.monotonic()
    Pipeline(source, FixedFaces((4, 4, 40, 40)), engine, [window]).run()
    assert time.monotonic() - began < 55, "it went on looking for the camera"
    assert window.idled == 1
    source.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:pw@cam/live", "rtsp://cam/live"),
        ("rtsp://user:p/w?@cam:554/live", "rtsp://cam:554/live"),
        ("http://cam/v.cgi?user=admin&pwd=SECRET", "http://cam/v.cgi?…"),
        ("http://a:b@cam/v?token=x@y", "http://y"),
        ("https://example.org/clip.mp4", "https://example.org/clip.mp4"),
    ],
)
def test_what_may_be_a_password_is_never_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_a_request_to_end_is_heard_while_reconnecting(server: Server) -> None:
    source = open_stream(server.url("/camera"), pool_size=1)
    assert isinstance(source, LiveSource)
    states: list[str] = []
    source.on_state = states.append
    first = source.read(120.0)
    assert first is not None
    server.present.clear()
    wait_until_lost(source)
    while not states:  # told after the state has changed
        time.sleep(0.01)
    assert "is gone" in states[0]
    first.release()
    ended = threading.Event()

    def read() -> None:
        while (frame := source.read(60.0)) is not None:  # what came before the loss may still wait
            frame.release()
        ended.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    source.interrupt()
    assert ended.wait(55)
    source.close()
