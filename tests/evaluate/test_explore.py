"""The page of ``edge-fer explore``: what it answers, whom, and that a real browser shows it."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.cli.run import DEMO
from edge_fer.core.errors import BadInputError
from edge_fer.core.labels import EMOTIONS
from edge_fer.evaluate.explore import ASK_BYTES, ASSETS, PICTURE_BYTES, Explore
from edge_fer.evaluate.grad_cam import Explainer
from edge_fer.evaluate.picture_bytes import MOST_PX, decode_picture, picture_size
from edge_fer.models.checkpoint import find_checkpoint, load_checkpoint
from edge_fer.runtime.detectors.base import open_detector
from edge_fer.runtime.frames import Frame
from edge_fer.runtime.results import FaceResult, FrameResult
from edge_fer.runtime.sinks import local_server
from edge_fer.runtime.sinks.local_server import TOKEN_HEADER, LocalServer
from edge_fer.runtime.sinks.web_page import WebSink

sys.path.append(str(Path(__file__).resolve().parents[1] / "runtime"))
from browser import find_browser, open_tab

TOKEN = "a-token-of-the-test"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    """A frame of the demo: one person."""
    capture = cv2.VideoCapture(str(DEMO))
    image = capture.read()[1]
    capture.release()
    return np.asarray(image)


class Page:
    def __init__(self, camera_port: int | None = None) -> None:
        checkpoint = load_checkpoint(find_checkpoint())
        self.explainer = Explainer(checkpoint.model, checkpoint.spec)
        self.server = LocalServer(0, option="--port")
        explore = Explore(self.explainer, open_detector("haar"), camera_port=camera_port)
        self.server.start(explore.routes(), explore.posts(), token=TOKEN)

    def send(
        self, path: str, body: bytes, *, method: str = "POST", **headers: str
    ) -> tuple[int, http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=WAIT_S)
        connection.request(method, path, body, headers={name.replace("_", "-"): v for name, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer, answer.read()

    def ask(self, path: str, body: bytes | dict[str, Any]) -> tuple[int, dict[str, Any]]:
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, told = self.send(path, data, Content_Type=kind, **{TOKEN_HEADER: TOKEN})
        return status, json.loads(told)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    made = Page()
    yield made
    made.server.close()


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def test_the_network_is_told_layer_by_layer(page: Page) -> None:
    status, told = page.ask("/network", {})
    assert status == 200
    assert told["model"] == "edge-fer-compact"
    assert [label["name"] for label in told["labels"]] == list(EMOTIONS)
    assert told["parameters"] == sum(layer["parameters"] for layer in told["layers"])
    assert told["layers"][0]["shape"] == [1, 48, 48]
    assert told["layers"][-1]["shape"] == [7]
    assert told["camera"] is False


def test_a_face_is_explained_and_checked(page: Page, frame: np.ndarray) -> None:
    status, taken = page.ask("/picture", png(frame))
    assert status == 200
    assert len(taken["faces"]) == 1
    assert max(taken["shown"]["width"], taken["shown"]["height"]) == 480
    question = {"picture": taken["picture"], "face": 0}
    status, heat = page.ask("/heat", question)
    assert status == 200
    assert heat["explained"] == heat["predicted"] == max(heat["scores"], key=heat["scores"].get)
    assert sum(heat["scores"].values()) == pytest.approx(1)
    values = np.frombuffer(base64.b64decode(heat["heat"]["values"]), np.uint8)
    assert values.shape == (48 * 48,)
    assert values.max() == 255
    assert len(base64.b64decode(heat["face"]["rgb"])) == 48 * 48 * 3
    assert [len(stage["maps"]) for stage in heat["stages"]] == [4] * len(heat["stages"])
    _, other = page.ask("/heat", {**question, "explained": "fear", "layer": "stages.1"})
    assert (other["explained"], other["layer"]) == ("fear", "stages.1")
    assert other["heat"] != heat["heat"]
    status, check = page.ask("/check", question)
    assert status == 200
    assert check["sentence"].startswith("Holds" if check["holds"] else "DOES NOT")
    assert len(check["curves"]["marked"]) == len(check["curves"]["fractions"])
    status, maps = page.ask("/maps", {**question, "layer": "stages.0"})
    assert (status, maps["shape"], len(maps["maps"])) == (200, [64, 24, 24], 4)


def test_a_picture_without_a_face_can_be_taken_for_one(page: Page) -> None:
    _, taken = page.ask("/picture", png(np.full((60, 50), 128, np.uint8)))
    assert taken["faces"] == []
    status, heat = page.ask("/heat", {"picture": taken["picture"]})
    assert (status, heat["face"]["width"]) == (200, 48)


def test_only_the_newest_picture_is_kept(page: Page, frame: np.ndarray) -> None:
    _, first = page.ask("/picture", png(frame))
    _, second = page.ask("/picture", png(frame[:, ::-1]))
    assert second["picture"] != first["picture"]
    status, told = page.ask("/heat", {"picture": first["picture"]})
    assert status == 422
    assert "not here any more" in told["error"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/heat", {"picture": 0, "face": 99}, "no face 100"),
        ("/heat", {"picture": 0, "face": -1}, "face"),
        ("/heat", {"picture": 0, "explained": "joyful"}, "no class 'joyful'"),
        ("/heat", {"picture": 0, "layer": "nowhere"}, "no layer 'nowhere'"),
        ("/heat", {"picture": 0, "layer": "fc"}, "not a map"),
        ("/heat", {"picture": 0, "more": 1}, "more"),
        ("/heat", {}, "picture"),
        ("/heat", b"{", "JSON"),
        ("/maps", {"picture": 0}, "layer"),
        ("/camera", {}, "--camera-page"),
        ("/picture", b"", "no PNG or JPEG"),
        ("/picture", b"GIF89a", "no PNG or JPEG"),
        ("/picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "no PNG or JPEG"),
        ("/picture", b"\xff\xd8\xff\xe0", "no PNG or JPEG"),
    ],
)
def test_what_is_wrong_with_a_request_is_told_in_words(
    page: Page, frame: np.ndarray, path: str, body: bytes | dict[str, Any], said: str
) -> None:
    if isinstance(body, dict) and "picture" in body:
        body = {**body, "picture": page.ask("/picture", png(frame))[1]["picture"]}
    status, told = page.ask(path, body)
    assert status == 422
    assert said in told["error"]


def test_a_small_file_of_a_huge_picture_is_not_decoded(page: Page) -> None:
    rows = zlib.compress(b"\0" * 100)
    chunk = b"IHDR" + (60000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + chunk + zlib.crc32(chunk).to_bytes(4, "big") + b"\0\0\0\x10IDAT" + rows
    status, told = page.ask("/picture", bomb)
    assert status == 422
    assert "60000x60000" in told["error"]
    assert MOST_PX < 60000 * 60000


GOOD = {"Content_Type": "application/json", TOKEN_HEADER: TOKEN}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (GOOD, 200),
        ({**GOOD, "Origin": "http://127.0.0.1:PORT"}, 200),
        ({**GOOD, TOKEN_HEADER: ""}, 403),
        ({**GOOD, TOKEN_HEADER: TOKEN[:-1]}, 403),
        ({**GOOD, TOKEN_HEADER: "\xe9"}, 403),
        ({"Content_Type": "application/json"}, 403),
        ({**GOOD, "Origin": "http://evil.example"}, 403),
        ({**GOOD, "Origin": "null"}, 403),
        ({**GOOD, "Host": "evil.example"}, 403),
        ({**GOOD, "Sec_Fetch_Site": "cross-site"}, 403),
        ({**GOOD, "Content_Type": "text/plain"}, 415),
        ({**GOOD, "Content_Type": "multipart/form-data; boundary=x"}, 415),
        ({**GOOD, "Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({**GOOD, "Transfer_Encoding": "chunked"}, 411),
        ({**GOOD, "Content_Length": str(ASK_BYTES + 1)}, 413),
        ({**GOOD, "Content_Length": "9" * 5000}, 413),
        ({**GOOD, "Content_Length": "-1"}, 411),
        ({**GOOD, "Content_Length": "two"}, 411),
    ],
)
def test_only_the_page_itself_with_its_token_is_answered(page: Page, headers: dict[str, str], status: int) -> None:
    filled = {name: value.replace("PORT", str(page.server.port)) for name, value in headers.items()}
    assert page.send("/network", b"{}", **filled)[0] == status


def test_the_token_alone_opens_nothing_that_is_not_there(page: Page) -> None:
    assert page.send("/nothing", b"{}", **GOOD)[0] == 405
    assert page.send("/network", b"", method="GET")[0] == 404
    assert page.send("/", b"{}", **GOOD)[0] == 405
    assert page.send("/", b"", method="GET")[0] == 200


def test_a_body_that_never_comes_is_given_up(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server, "BODY_S", 0.3)
    head = f"POST /network HTTP/1.1\r\nHost: 127.0.0.1:{page.server.port}\r\n{TOKEN_HEADER}: {TOKEN}\r\n"
    with socket.create_connection(("127.0.0.1", page.server.port), timeout=WAIT_S) as client:
        client.sendall(head.encode() + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{}")
        assert client.makefile("rb").readline().startswith(b"HTTP/1.1 408 ")


def test_a_large_picture_arrives_whole_in_whatever_pieces(page: Page) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8)
    data = png(noise)
    assert 1 << 20 < len(data) < PICTURE_BYTES
    status, taken = page.ask("/picture", data)
    assert status == 200
    assert taken["shown"]["width"] == 480


def test_posts_without_a_token_cannot_be_set_up() -> None:
    server = LocalServer(0, option="--port")
    with pytest.raises(ValueError, match="token"):
        server.start({}, {"/x": local_server.Post(lambda body: local_server.Reply("text/plain", body), 10)})
    server.close()


def test_the_page_names_no_other_place_and_builds_no_markup_from_text() -> None:
    for file in ASSETS.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", re.sub(r"//\s.*", "", text)), file
        assert "innerHTML" not in text
        assert "eval(" not in text


@given(st.binary(max_size=64), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd8\xff\xc0"]))
def test_whatever_bytes_come_there_is_a_size_or_none(tail: bytes, head: bytes) -> None:
    found = picture_size(head + tail)
    assert found is None or len(found) == 2
    with pytest.raises(BadInputError):
        decode_picture(b"x" + tail)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([".png", ".jpg"]), st.booleans())
def test_the_size_that_is_read_is_that_of_the_picture(height: int, width: int, kind: str, progressive: bool) -> None:
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)] if kind == ".jpg" else []
    data = cv2.imencode(kind, image, options)[1].tobytes()
    assert picture_size(data) == (width, height)
    assert decode_picture(data).shape == (height, width, 3)


class Run:
    """A page of ``edge-fer run --web`` with frames that are drawn on."""

    def __init__(self, image: np.ndarray) -> None:
        self.server = LocalServer(0, option="--web")
        self._sink = WebSink(self.server, labels=EMOTIONS, about={})
        self._sink.start({})
        self._image, self._ended = image, threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        scores = np.full(7, 1 / 7, np.float32)
        face = FaceResult(1, (40.0, 40.0, 300.0, 300.0), "happy", False, scores)
        while not self._ended.wait(0.03):
            self._sink.write(FrameResult(Frame(self._image.copy()), (face,), EMOTIONS, 1.0, 25.0))

    def close(self) -> None:
        self._ended.set()
        self._thread.join(WAIT_S)
        self._sink.close(complete=True)


def test_the_cameras_picture_comes_without_what_the_run_draws_on_it(frame: np.ndarray) -> None:
    run = Run(frame)
    page = Page(camera_port=run.server.port)
    try:
        assert page.ask("/network", {})[1]["camera"] is True
        # Somebody looks at the drawn picture all the while.
        video = http.client.HTTPConnection("127.0.0.1", run.server.port, timeout=WAIT_S)
        video.request("GET", "/video")
        stream = video.getresponse()
        stream.read(1000)
        status, taken = page.ask("/camera", {})
        assert status == 200, taken
        rgb = np.frombuffer(base64.b64decode(taken["shown"]["rgb"]), np.uint8)
        shown = rgb.reshape(taken["shown"]["height"], taken["shown"]["width"], 3)[..., ::-1]
        plain = cv2.resize(frame, shown.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(shown.astype(int) - plain).max() < 40, "JPEG differs a little, a drawn box much"
        assert page.ask("/heat", {"picture": taken["picture"], "face": 0})[0] == 200
        stream.close()
    finally:
        page.server.close()
        run.close()
    gone = Page(camera_port=run.server.port)
    status, told = gone.ask("/camera", {})
    gone.server.close()
    assert status == 422
    assert f"--web {run.server.port}" in told["error"]


@pytest.mark.slow
def test_a_real_browser_shows_the_face_the_heat_and_the_network(page: Page, frame: np.ndarray, tmp_path: Path) -> None:
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium is installed")
    picture = tmp_path / "face.png"
    cv2.imwrite(str(picture), frame)

    def drawn(canvas: str) -> str:
        """An expression: how many different pixels a canvas has."""
        return (
            f"new Set(new Uint32Array(document.querySelector('{canvas}').getContext('2d').getImageData(0, 0, "
            f"document.querySelector('{canvas}').width, document.querySelector('{canvas}').height).data.buffer)).size"
        )

    with open_tab(browser, tmp_path / "profile") as tab:
        tab.open(f"http://127.0.0.1:{page.server.port}/#{TOKEN}")
        tab.wait_for("document.querySelector('#state').dataset.kind == 'ready'")
        document = tab.call("DOM.getDocument")["root"]["nodeId"]
        node = tab.call("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
        tab.call("DOM.setFileInputFiles", files=[str(picture)], nodeId=node)
        tab.wait_for("['holds', 'fails'].includes(document.querySelector('#verdict').dataset.kind)")
        tab.wait_for("document.querySelector('#state').dataset.kind == 'ready'")
        assert tab.value("document.querySelector('.row.top').textContent").startswith("happy")
        assert "deleting what the map marks" in tab.value("document.querySelector('#outcome').textContent")
        assert tab.value("document.querySelectorAll('#stages canvas').length") == 16
        assert tab.value("document.querySelectorAll('#layers option').length") == len(page.explainer.graph.layers)
        for canvas in ("#heat", "#input", "#shown", "#network"):
            assert tab.value(drawn(canvas)) > 50, canvas
        # The network turns with the keys, and the layers are walked through with them.
        tab.value("document.querySelector('#network').focus()")
        before = tab.value("document.querySelector('#network').toDataURL()")
        tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
        assert tab.value("document.querySelector('#network').toDataURL()") != before
        for _ in range(5):
            tab.call("Input.dispatchKeyEvent", type="keyDown", key=".", text=".")
        tab.wait_for("document.querySelector('#details').textContent.includes('stages.0.2')")
        tab.wait_for("document.querySelectorAll('#layer-maps canvas').length == 4")
        # A click picks what is there; dragging turns and picks nothing.
        box = (
            "(() => { const { left, top, width, height } = document.querySelector('#network').getBoundingClientRect();"
        )
        tab.value("document.querySelector('#network').scrollIntoView({ block: 'center' })")
        x, y = tab.value(f"{box} return [left + width / 2, top + height / 2]; }})()")
        chosen = "document.querySelector('#layers').value"
        held = tab.value(chosen)
        for kind, dx in (("mousePressed", 0), ("mouseMoved", 60), ("mouseReleased", 60)):
            tab.call("Input.dispatchMouseEvent", type=kind, x=x + dx, y=y, button="left", buttons=1, clickCount=1)
        assert tab.value(chosen) == held
        # Another layer gives another heat; the page's waiting in between may be too short to be seen.
        tab.value("(window.heatBefore = document.querySelector('#heat').toDataURL()).length")
        tab.value("document.querySelector('#layer').value = 'stages.0'")
        tab.value("document.querySelector('#layer').dispatchEvent(new Event('change'))")
        tab.wait_for(
            "document.querySelector('#state').dataset.kind == 'ready' && "
            "document.querySelector('#heat').toDataURL() != window.heatBefore"
        )
        assert not tab.problems
    with open_tab(browser, tmp_path / "other") as tab:
        tab.open(f"http://127.0.0.1:{page.server.port}/")
        tab.wait_for("document.querySelector('#outcome').textContent.includes('Open the address')")
