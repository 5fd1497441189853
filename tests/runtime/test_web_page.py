"""The page: what it shows, whom it answers, and that nobody who looks can hold up the run."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import find_browser, open_tab

from edge_fer.core.errors import DeviceError
from edge_fer.runtime.frames import Frame
from edge_fer.runtime.results import FaceResult, FrameResult
from edge_fer.runtime.sinks import local_server
from edge_fer.runtime.sinks.local_server import LocalServer
from edge_fer.runtime.sinks.web_page import ASSETS, LARGEST_PX, WebSink

LABELS = ("happy", "sad")
ABOUT = {"model": "a-model", "backend": "onnxruntime", "precision": "int8", "source": "camera 0"}
WAIT_S = 120.0


def result(index: int, image: np.ndarray) -> FrameResult:
    frame = Frame(image.copy())
    frame.index, frame.time_ms = index, 40.0 * index
    face = FaceResult(1, (40.0, 40.0, 90.0, 90.0), "happy", False, np.array([0.75, 0.25], np.float32))
    return FrameResult(frame, (face,), LABELS, 7.5, 25.0)


class Page:
    """A page that answers, and a loop that writes to it until it is closed."""

    def __init__(self, image: np.ndarray) -> None:
        self.server = LocalServer(0, option="--web")
        self.sink = WebSink(self.server, labels=LABELS, about=ABOUT, dropped=lambda: 4)
        self.sink.start({})
        self.port, self.image = self.server.port, image
        self.written, self._ended = 0, threading.Event()
        self._writer = threading.Thread(target=self._write, daemon=True)

    def _write(self) -> None:
        while not self._ended.is_set():
            self.sink.write(result(self.written, self.image))
            self.written += 1
            time.sleep(0.005)

    def run(self) -> Page:
        self._writer.start()
        return self

    def close(self, *, complete: bool = True) -> None:
        self._ended.set()
        if self._writer.is_alive():
            self._writer.join(WAIT_S)
        self.sink.close(complete=complete)

    def get(self, path: str, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        connection.request("GET", path, headers=headers)
        return connection.getresponse()

    def raw(self, request: bytes) -> bytes:
        """The first line of the answer to these very bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as client:
            client.sendall(request)
            with client.makefile("rb") as answer:
                return answer.readline()


@pytest.fixture
def picture() -> np.ndarray:
    return np.full((120, 160, 3), 128, np.uint8)


@pytest.fixture
def page(picture: np.ndarray) -> Iterator[Page]:
    made = Page(picture)
    yield made
    made.close()


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def read_event(stream: http.client.HTTPResponse) -> tuple[str, dict[str, object]]:
    """The next server-sent event: its name and its data."""
    name, data = "", b""
    while (line := stream.readline()) != b"\n" or not name:
        assert line, "the stream ended"
        if line.startswith(b"event: "):
            name = line[7:].strip().decode()
        elif line.startswith(b"data: "):
            data = line[6:]
    return name, json.loads(data)


def read_picture(stream: http.client.HTTPResponse) -> np.ndarray:
    """The next part of a multipart stream, decoded."""
    length = 0
    while (line := stream.readline()) != b"\r\n" or not length:
        assert line, "the stream ended"
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    image = cv2.imdecode(np.frombuffer(stream.read(length), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image)


def test_scores_ages_and_drops_come_as_events(page: Page) -> None:
    stream = page.run().get("/scores")
    assert stream.getheader("Content-Type") == "text/event-stream; charset=utf-8"
    name, begin = read_event(stream)
    assert name == "run"
    assert [label["name"] for label in begin["labels"]] == list(LABELS)  # type: ignore[attr-defined]
    assert begin["source"] == "camera 0"
    name, record = read_event(stream)
    assert name == "frame"
    assert (record["fps"], record["age_ms"], record["dropped"]) == (25.0, 7.5, 4)
    assert record["faces"][0]["scores"] == {"happy": 0.75, "sad": 0.25}  # type: ignore[index]


def test_the_picture_comes_annotated_one_part_a_frame(page: Page, picture: np.ndarray) -> None:
    stream = page.run().get("/video")
    assert stream.getheader("Content-Type") == "multipart/x-mixed-replace; boundary=frame"
    for _ in range(3):
        shown = read_picture(stream)
        assert shown.shape == picture.shape
        assert np.abs(shown.astype(int) - picture).max() > 80  # boxes and letters are drawn on the flat grey


def test_a_large_picture_is_sent_in_the_size_of_a_screen(picture: np.ndarray) -> None:
    page = Page(np.full((1080, 1920, 3), 90, np.uint8))
    shown = read_picture(page.run().get("/video"))
    page.close()
    assert shown.shape == (720, LARGEST_PX, 3)


def test_nothing_is_drawn_or_encoded_while_nobody_looks(page: Page, picture: np.ndarray) -> None:
    page.run()
    stream = page.get("/scores")
    for _ in range(3):
        read_event(stream)
    unseen = result(0, picture)
    time.sleep(0.03)
    page.sink.write(unseen)
    assert np.array_equal(unseen.frame.image_bgr, picture)


def test_a_client_that_never_reads_holds_up_nobody(picture: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)  # a megabyte as JPEG
    page = Page(noise).run()
    stuck = socket.create_connection(("127.0.0.1", page.port), timeout=WAIT_S)
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.sendall(b"GET /video HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % page.port)
    other = page.get("/video")
    for _ in range(20):
        read_picture(other)
    before = page.written
    wait_until(lambda: page.written > before + 20)  # the loop goes on while one client is stuck
    wait_until(lambda: page.sink.missed > 5)
    page.close()  # and does not wait for it at the end
    assert not [thread for thread in threading.enumerate() if thread.name == "web-client"]
    stuck.close()


def test_a_client_that_leaves_is_forgotten(page: Page) -> None:
    stream = page.run().get("/scores")
    read_event(stream)
    assert page.sink.clients == 1
    stream.close()
    wait_until(lambda: page.sink.clients == 0)


@pytest.mark.parametrize("complete", [True, False])
def test_the_end_of_the_run_is_told_to_whoever_looks(picture: np.ndarray, complete: bool) -> None:
    page = Page(picture).run()
    scores, video = page.get("/scores"), page.get("/video")
    read_picture(video)
    read_event(scores)
    ender = threading.Thread(target=page.close, kwargs={"complete": complete})
    ender.start()
    while (event := read_event(scores))[0] != "end":
        pass
    assert event[1] == {"complete": complete}
    assert scores.read() == b""
    video.read()  # ends too, instead of hanging
    ender.join(WAIT_S)
    assert not ender.is_alive()


def test_what_breaks_is_told_without_a_frame(page: Page) -> None:
    stream = page.get("/scores")
    read_event(stream)
    wait_until(lambda: page.sink.clients)
    page.sink.tell("camera 0 is gone; trying to open it again")
    assert read_event(stream) == ("state", {"state": "camera 0 is gone; trying to open it again", "missed": 0})
    assert read_event(page.get("/scores"))[1]["state"] == "camera 0 is gone; trying to open it again"


HEAD = b"GET / HTTP/1.1\r\n"
HOST = b"Host: 127.0.0.1:PORT\r\n"


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (HEAD + HOST, 200),
        (HEAD + b"Host: localhost:PORT\r\n", 200),
        (HEAD, 403),
        (HEAD + b"Host: evil.example:PORT\r\n", 403),
        (HEAD + b"Host: 127.0.0.1\r\n", 403),
        (HEAD + b"Host: 127.0.0.1:1\r\n", 403),
        (HEAD + HOST + b"Host: evil.example\r\n", 403),
        (HEAD + HOST + b"Origin: http://127.0.0.1:PORT\r\n", 200),
        (HEAD + HOST + b"Origin: http://evil.example\r\n", 403),
        (HEAD + HOST + b"Origin: null\r\n", 403),
        (HEAD + HOST + b"Origin: http://127.0.0.1:1\r\n", 403),
        (HEAD + HOST + b"Sec-Fetch-Site: same-origin\r\n", 200),
        (HEAD + HOST + b"no header\r\nOrigin: https://example.org\r\n", 400),
        (HEAD + HOST + b"X: y\n\nOrigin: https://example.org\r\n", 400),
        (HEAD + HOST + b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n", 403),
        (HEAD + HOST + b"Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n", 403),
        (HEAD + HOST + b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n", 403),
        (HEAD + HOST + b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n", 200),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n", 405),
        (b"HEAD / HTTP/1.1\r\n" + HOST, 405),
        (b"OPTIONS / HTTP/1.1\r\n" + HOST, 405),
        (b"GET /nothing HTTP/1.1\r\n" + HOST, 404),
        (b"GET /../page.css HTTP/1.1\r\n" + HOST, 404),
        (b"GET /page.css%00 HTTP/1.1\r\n" + HOST, 404),
        (b"GET http://evil.example/ HTTP/1.1\r\n" + HOST, 400),
        (b"GET / HTTP/2.0\r\n" + HOST, 400),
        (b"\x16\x03\x01 TLS hello\r\n", 400),
        (HEAD + HOST + b"X: 1\r\n" * 200, 400),
        (HEAD + HOST + b"Cookie: " + b"a" * 9000 + b"\r\n", 431),
    ],
)
def test_only_this_page_in_this_browser_is_answered(page: Page, request_head: bytes, status: int) -> None:
    answer = page.raw(request_head.replace(b"PORT", str(page.port).encode()) + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer


def test_every_answer_forbids_what_is_foreign(page: Page) -> None:
    for path in ("/", "/page.js", "/nothing", "/scores"):
        answer = page.get(path)
        policy = answer.getheader("Content-Security-Policy") or ""
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
        assert answer.getheader("Access-Control-Allow-Origin") is None


def test_the_page_names_no_other_place() -> None:
    for file in ASSETS.iterdir():
        places = re.findall(r"(?:https?:)?//[\w.-]+", re.sub(r"//\s.*", "", file.read_text(encoding="utf-8")))
        assert set(places) <= {"http://www.w3.org"}, file  # the name of SVG, which nothing fetches


def test_the_page_shows_what_the_law_asks_for(page: Page) -> None:
    text = page.get("/").read().decode()
    for part in ("emotion recognition system", "AI Act", "50(3)", "5(1)(f)", "prohibited"):
        assert part in text


def test_a_request_that_never_ends_is_given_up(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server, "HEAD_S", 0.3)
    assert page.raw(b"GET / HTTP/1.1\r\nHost: ").startswith(b"HTTP/1.1 408 ")


def test_too_many_connections_are_turned_away_and_room_is_made(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server, "CONNECTIONS", 3)
    monkeypatch.setattr(local_server, "STREAMS", 2)
    streams = [page.get("/scores") for _ in range(2)]
    for stream in streams:
        read_event(stream)
    assert page.get("/scores").status == 503
    wait_until(lambda: page.get("/").status == 200)  # the page itself still has room
    # The last answer's connection has to be gone, or the idle one is turned away itself and leaves room.
    wait_until(lambda: len(page.server._clients) == 2)
    with socket.create_connection(("127.0.0.1", page.port), timeout=WAIT_S):
        wait_until(lambda: len(page.server._clients) == 3)
        assert page.raw(b"").startswith(b"HTTP/1.1 503 ")
    wait_until(lambda: page.get("/").status == 200)


def test_a_port_in_use_is_one_sentence_that_names_the_way_out(page: Page) -> None:
    with pytest.raises(DeviceError, match=f"Port {page.port} .* is in use") as caught:
        LocalServer(page.port, option="--web")
    assert caught.value.exit_code == 4
    assert f"--web {page.port + 1}" in caught.value.fix


def test_only_this_machine_is_listened_to(page: Page) -> None:
    assert page.server._listener.getsockname()[0] == "127.0.0.1"


def test_the_port_is_free_again_at_once(picture: np.ndarray) -> None:
    page = Page(picture).run()
    port, stream = page.port, page.get("/scores")
    read_event(stream)
    page.close()
    again = LocalServer(port, option="--web")
    again.close()


@pytest.mark.slow
def test_a_real_browser_shows_the_page_and_its_policy_stops_nothing(
    tmp_path: Path, demo_frames: list[np.ndarray]
) -> None:
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium is installed")
    page = Page(demo_frames[0]).run()
    with open_tab(browser, tmp_path / "profile") as tab:
        tab.open(f"http://127.0.0.1:{page.port}/")
        assert tab.wait_for("document.querySelector('#video').naturalWidth") == 960
        tab.wait_for("document.querySelectorAll('.face').length == 1")
        assert tab.value("document.querySelector('.face h3').innerText").split() == ["face", "1", "happy"]
        assert tab.value("document.querySelector('[role=meter]').getAttribute('aria-valuenow')") == "75"
        assert tab.value("document.querySelector('#age').textContent") == "7.5 ms"
        assert tab.value("document.querySelector('#state').textContent") == "live"
        assert "happy" in tab.wait_for("document.querySelector('#spoken').textContent")
        # The picture is really painted: its middle is neither the page's ground nor black.
        shot = cv2.imdecode(np.frombuffer(tab.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        assert shot is not None
        assert shot[300:500, 200:700].std() > 25
        frame = "Number(document.querySelector('#frame').textContent)"
        tab.value("document.querySelector('#pause').click()")
        tab.wait_for("document.querySelector('#state').textContent == 'paused'")
        wait_until(lambda: page.sink.clients == 0)  # a paused page costs nothing
        stopped = tab.value(frame)
        assert tab.value("document.querySelector('#still').hidden") is False
        tab.value("document.querySelector('#pause').click()")
        tab.wait_for(f"{frame} > {stopped}")
        page.close()
        tab.wait_for("document.querySelector('#state').textContent == 'the run has ended'")
        assert tab.problems == []
