"""``edge-fer run`` while its surroundings break: camera, stream, file, engine and output, each at a chosen moment.

The command itself runs, in this process; only the part that breaks is replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from edge_fer.backends import choose
from edge_fer.cli.main import app
from edge_fer.cli.run import DEMO
from edge_fer.core import threads as host_threads
from edge_fer.core.engine import Engine, Slot
from edge_fer.core.errors import DeviceError, EdgeFerError, SourceError, UsageError
from edge_fer.runtime import backoff, sink_runner
from edge_fer.runtime.sources import capture, live

FAST = ("--backend", "onnxruntime", "--precision", "int8", "--no-show")
Picture = NDArray[np.uint8]


class Outcome:
    """What the command printed, how it ended, and what it left in its folder."""

    def __init__(self, folder: Path, output: str, error: EdgeFerError | None) -> None:
        self.output, self.error = " ".join(output.split()), error
        summary, lines = folder / "summary.json", folder / "out.jsonl"
        self.summary: dict[str, Any] = json.loads(summary.read_text()) if summary.exists() else {}
        self.records = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []

    @property
    def adds_up(self) -> bool:
        told = self.summary
        return bool(told["frames_in"] == told["frames"] + told["dropped"] + told["failed"])


def run(folder: Path, *arguments: str) -> Outcome:
    outputs = ("--jsonl", str(folder / "out.jsonl"), "--summary", str(folder / "summary.json"))
    done = CliRunner().invoke(app, ["run", *FAST, *outputs, *arguments])
    if done.exception is not None and not isinstance(done.exception, (EdgeFerError, SystemExit)):
        raise done.exception
    return Outcome(folder, done.output, done.exception if isinstance(done.exception, EdgeFerError) else None)


def frames_of(path: Path) -> list[tuple[int, int]]:
    """Heights and widths of the pictures of a video."""
    video, sizes = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        sizes.append(read[1].shape[:2])
    video.release()
    return sizes


@pytest.fixture(scope="module")
def demo() -> list[Picture]:
    video = cv2.VideoCapture(str(DEMO))
    pictures = [np.asarray(video.read()[1], np.uint8) for _ in range(12)]
    video.release()
    return pictures


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same attempts, with shorter pauses."""
    monkeypatch.setattr(live, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(backoff, "LAST_PAUSE_S", 0.02)


class Usb:
    """A camera on a cable: ``sessions`` of pictures, between which it is unplugged; ``None`` is a damaged picture.

    The first picture is repeated until somebody looks at one: opening an engine takes as long as it likes.
    """

    def __init__(self, sessions: list[list[Picture | None] | None]) -> None:
        self._sessions = sessions
        self._now: list[Picture | None] | None = None
        self._picture: Picture | None = None
        self._watched = False

    def plug(self, _which: int | str, _api: int, _settings: list[int]) -> Usb:
        self._now = self._sessions.pop(0) if self._sessions else None
        return self

    def isOpened(self) -> bool:  # noqa: N802
        return self._now is not None

    def getBackendName(self) -> str:  # noqa: N802
        return "V4L2"

    def set(self, _key: int, _value: float) -> bool:
        return True

    def get(self, key: int) -> float:
        first = self._now[0] if self._now else None
        height, width = first.shape[:2] if first is not None else (0, 0)
        known = {cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_FPS: 30}
        return float(known.get(key, 0))

    def grab(self) -> bool:
        time.sleep(0.01)
        if not self._now:
            return False
        self._picture = self._now.pop(0) if self._watched else self._now[0]
        return True

    def retrieve(self, target: Picture) -> tuple[bool, Picture | None]:
        self._watched = True
        if self._picture is None or self._picture.shape != target.shape:
            return self._picture is not None, self._picture
        np.copyto(target, self._picture)
        return True, target

    def release(self) -> None:
        pass


def plug_in(monkeypatch: pytest.MonkeyPatch, *sessions: list[Picture | None] | None) -> None:
    """Let camera 0 be this one; videos are still read for real."""
    usb, real = Usb(list(sessions)), cv2.VideoCapture

    def open_it(target: str | int, api: int = 0, settings: list[int] = []) -> object:  # noqa: B006
        of_camera = isinstance(target, int) or Path(target).is_char_device()
        return usb.plug(target, api, settings) if of_camera else real(target, api, settings)

    monkeypatch.setattr(capture.cv2, "VideoCapture", open_it)


def test_a_camera_that_is_unplugged_comes_back_in_another_mode(
    demo: list[Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, between and after: every frame is labelled or counted, and the video has the whole of it.

    A line for each frame, on a busy machine too: a camera's lines wait in a queue of 512. While it was as short as that
    of pictures, three lines late cost the fourth.
    """
    half = [np.ascontiguousarray(cv2.resize(picture, (480, 270))) for picture in demo]
    spoilt: list[Picture | None] = [demo[0], None, *demo[1:], None]
    plug_in(monkeypatch, [*demo, *spoilt], None, None, half * 5000)
    video = tmp_path / "out.mp4"
    found = run(tmp_path, "--camera", "0", "--max-frames", "60", "--save", str(video))
    assert found.error is None
    assert "camera 0 (V4L2, format unknown; 1280x720 at 30 fps were asked for), 960x540 at 30 fps" in found.output
    for told in ("camera 0 is gone; trying", "next attempt in 0.05 s", "next attempt in 0.1 s", "working again"):
        assert told in found.output
    assert "The source went away and came back 1 time." in found.output
    assert found.summary["reconnections"] == 1
    assert found.summary["frames"] == len(found.records) == 60
    assert found.adds_up
    assert found.summary["dropped"] >= 2, "the damaged pictures"
    rights = [face["box_xyxy"][2] for record in found.records for face in record["faces"]]
    assert max(rights) > 480 > rights[-1], "faces are found in pictures of both sizes"
    assert set(frames_of(video)) == {(540, 960)}


@pytest.mark.skipif(sys.platform == "win32", reason="cameras have no paths there")
def test_a_camera_is_known_by_its_device_wherever_it_is_plugged_in(
    demo: list[Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers change with the order of plugging; the links in /dev/v4l/by-id do not. Any device stands for one here."""
    (tmp_path / "usb-webcam").symlink_to(os.devnull)
    monkeypatch.chdir(tmp_path)
    plug_in(monkeypatch, [*demo], None, demo * 5000)
    found = run(
        tmp_path, "--source", "usb-webcam", "--camera-size", "960x540", "--max-frames", "20", "--reconnect", "30"
    )
    assert found.error is None
    assert "camera usb-webcam (V4L2, format unknown), 960x540 at 30 fps" in found.output
    assert found.summary["reconnections"] == 1
    assert found.summary["frames"] == 20
    assert found.adds_up


def test_what_is_no_camera_is_told_as_one(tmp_path: Path) -> None:
    found = run(tmp_path, "--source", os.devnull)
    assert isinstance(found.error, SourceError)
    assert found.error.message == f"camera {os.devnull} cannot be opened."


def test_a_camera_that_stays_away_ends_the_run_with_what_was_seen(
    demo: list[Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(monkeypatch, list(demo))
    found = run(tmp_path, "--camera", "0", "--reconnect", "0.4")
    assert isinstance(found.error, SourceError)
    assert "went away and did not come back within 0.4 s" in found.error.message
    assert found.summary["complete"] is False
    assert found.summary["frames"] == len(found.records) > 0
    assert found.adds_up
    assert "overall: happy" in found.output


class Stream(ThreadingHTTPServer):
    """An MJPEG camera on the network: connection after connection sends its parts and is cut; ``None`` refuses.

    The first part is repeated until the loop runs.
    """

    daemon_threads = True

    def __init__(self, connections: list[list[bytes] | None], runs: Callable[[], bool]) -> None:
        super().__init__(("127.0.0.1", 0), Part)
        self.connections, self.runs = connections, runs
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Part(BaseHTTPRequestHandler):
    server: Stream

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = self.server.connections.pop(0) if self.server.connections else None
        if parts is None:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        try:
            while not self.server.runs():
                self._send(parts[0])
            for jpeg in parts:
                self._send(jpeg)
        except OSError:
            pass  # the reader has enough

    def _send(self, jpeg: bytes) -> None:
        head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
        self.wfile.write(head + jpeg + b"\r\n")
        time.sleep(0.01)


@pytest.fixture
def stream_of(tmp_path: Path) -> Iterator[Callable[[list[list[bytes] | None]], str]]:
    servers: list[Stream] = []

    def open_it(connections: list[list[bytes] | None]) -> str:
        servers.append(Stream(connections, lambda: any(tmp_path.glob(".out*.jsonl"))))
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/camera"

    yield open_it
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_stream_with_damaged_pictures_another_size_and_a_cut_goes_on(
    demo: list[Picture], tmp_path: Path, stream_of: Callable[[list[list[bytes] | None]], str]
) -> None:
    def jpeg(picture: Picture) -> bytes:
        return cv2.imencode(".jpg", picture)[1].tobytes()

    whole = [jpeg(picture) for picture in demo]
    small = [jpeg(np.asarray(cv2.resize(picture, (480, 270)), np.uint8)) for picture in demo]
    cut = [data[: len(data) // 3] for data in whole[:3]]
    junk = [b"\xff\xd8" + os.urandom(2000), b"no picture at all"]
    first = [*whole, *cut, *junk, *whole, *small]
    url = stream_of([first, None, small * 5000])
    found = run(tmp_path, "--source", url, "--max-frames", "80")
    assert found.error is None
    assert "is gone; next attempt in" in found.output
    assert "working again" in found.output
    assert found.summary["reconnections"] == 1
    assert found.summary["frames"] == len(found.records) == 80
    assert found.adds_up
    rights = [face["box_xyxy"][2] for record in found.records for face in record["faces"]]
    assert max(rights) > 480 > rights[-1], "faces are found in pictures of both sizes"


def test_a_film_with_a_damaged_middle_is_labelled_to_its_end(tmp_path: Path) -> None:
    """What cannot be decoded is counted beside what was: no frame is lost without a word."""
    data = bytearray(DEMO.read_bytes())
    begin = data.index(b"mdat") + len(data) // 3
    data[begin : begin + 4000] = np.random.default_rng(0).bytes(4000)
    film = tmp_path / "film.mp4"
    film.write_bytes(data)
    found = run(tmp_path, "--source", str(film))
    assert found.error is None
    assert found.summary["frames"] + found.summary["frames_unread"] == 300
    assert found.summary["frames"] > 150
    assert ("could not be decoded" in found.output) == (found.summary["frames_unread"] > 0)


def write_film(path: Path, code: str, fps: float, pictures: list[Picture]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, pictures[0].shape[1::-1])
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


def with_longer_sound(film: Path) -> None:
    """Let a Matroska file last 0.3 s longer than its pictures, as one does whose sound ends later."""
    data = bytearray(film.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # Duration, a float of 8 bytes, in milliseconds
    (length_ms,) = struct.unpack(">d", data[at : at + 8])
    data[at : at + 8] = struct.pack(">d", length_ms + 300)
    film.write_bytes(data)


def announced(film: Path) -> int:
    video = cv2.VideoCapture(str(film))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    return count


@pytest.mark.parametrize("kind", ["a rate that is guessed", "sound that lasts longer"])
def test_a_length_that_is_not_the_pictures_own_is_no_damage(tmp_path: Path, demo: list[Picture], kind: str) -> None:
    """Where a container holds no number of frames, OpenCV makes one of a length and a rate: more than there are."""
    if kind == "a rate that is guessed":
        film = write_film(tmp_path / "film.ts", "mp4v", 12.5, demo)
    else:
        film = write_film(tmp_path / "film.mkv", "mp4v", 30, demo)
        with_longer_sound(film)
    assert announced(film) > len(demo), "otherwise there is nothing to be misled by"
    found = run(tmp_path, "--source", str(film))
    assert found.summary["frames"] == len(demo)
    assert found.summary["frames_unread"] == 0
    assert "could not be decoded" not in found.output


def test_a_film_that_ends_long_before_its_length_is_told(tmp_path: Path, demo: list[Picture]) -> None:
    film = write_film(tmp_path / "film.mkv", "mp4v", 5, demo)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 3])
    found = run(tmp_path, "--source", str(film))
    assert found.summary["frames"] + found.summary["frames_unread"] == len(demo)
    assert "could not be decoded" in found.output


def test_a_film_trimmed_without_being_encoded_anew_is_no_damage(tmp_path: Path) -> None:
    """Its edit list hides pictures that the container's number of frames counts."""
    data = bytearray(DEMO.read_bytes())
    length_at, units_at = data.index(b"elst") + 12, data.index(b"mvhd") + 16
    (length,) = struct.unpack(">I", data[length_at : length_at + 4])
    (units,) = struct.unpack(">I", data[units_at : units_at + 4])
    data[length_at : length_at + 4] = struct.pack(">I", length - 3 * units)
    film = tmp_path / "film.mp4"
    film.write_bytes(data)
    assert announced(film) == 300, "otherwise there is nothing to be misled by"
    found = run(tmp_path, "--source", str(film))
    assert found.error is None
    assert (found.summary["frames"], found.summary["frames_unread"]) == (210, 0)
    assert "announces" not in found.output


def test_a_picture_that_cannot_be_decoded_is_named_and_not_called_dropped(tmp_path: Path, demo: list[Picture]) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(pictures / name), demo[0])
    (pictures / "b.png").write_bytes(b"half a pict")
    found = run(tmp_path, "--source", str(pictures))
    assert found.error is None
    told = found.summary
    assert (told["frames"], told["dropped"], told["frames_unread"]) == (2, 0, 1)
    assert told["pictures_unread"] == ["b.png"]
    assert found.adds_up
    assert "1 of 3 pictures could not be decoded: b.png." in found.output


def test_nothing_waits_for_the_disk_frame_by_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    counts = []
    for frames in ("1", "5", "40"):  # the first one builds the engine
        waits.clear()
        run(tmp_path, "--demo", "--max-frames", frames, "--save", str(tmp_path / "out.mp4"))
        counts.append(len(waits))
    assert counts[1] == counts[2] > 0


class Stumbling:
    """A real engine that throws at chosen calls."""

    def __init__(self, engine: Engine, throws: Callable[[int], bool]) -> None:
        self._engine, self._throws, self._calls = engine, throws, 0
        self.manifest, self.slots = engine.manifest, engine.slots

    def __enter__(self) -> Stumbling:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._engine.__exit__(kind, error, at)

    def submit(self, slot: Slot, n: int) -> None:
        self._calls += 1
        if self._throws(self._calls):
            raise EdgeFerError("the driver hiccuped")
        self._engine.submit(slot, n)

    def wait(self, slot: Slot) -> None:
        self._engine.wait(slot)


def stumble(monkeypatch: pytest.MonkeyPatch, throws: Callable[[int], bool]) -> None:
    real = choose.open_best

    def open_best(*arguments: Any, **options: Any) -> tuple[Any, str]:
        engine, why = real(*arguments, **options)
        return Stumbling(engine, throws), why

    monkeypatch.setattr(choose, "open_best", open_best)


def test_an_engine_that_throws_now_and_then_costs_a_file_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stumble(monkeypatch, lambda call: call in (3, 4, 9))
    found = run(tmp_path, "--demo", "--max-frames", "15")
    assert found.error is None
    assert "Inference failed (the driver hiccuped); next attempt in 0.002 s" in found.output
    assert "working again" in found.output
    assert [record["frame"] for record in found.records] == list(range(15))
    assert (found.summary["retries"], found.summary["failed"]) == (3, 0)


def test_an_engine_that_is_gone_ends_the_run_with_one_sentence_and_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stumble(monkeypatch, lambda call: call > 8)
    video = tmp_path / "out.mp4"
    found = run(tmp_path, "--demo", "--save", str(video))
    assert isinstance(found.error, DeviceError)
    assert str(found.error).startswith("Inference failed 8 times in a row: the driver hiccuped. Try another --backend")
    assert len(found.records) == len(frames_of(video)) == found.summary["frames"] == 8
    assert found.summary["error"] == found.error.message
    assert found.adds_up


@pytest.mark.skipif(sys.platform == "win32", reason="an open file keeps its folder there")
@pytest.mark.parametrize(("option", "name"), [("--save", "out.mp4"), ("--csv", "out.csv")])
def test_a_disk_that_is_unplugged_is_one_sentence_and_the_other_outputs_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, name: str
) -> None:
    """A folder that vanishes in the middle of the run stands for it."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def unplug(call: int) -> bool:
        if call == 12:
            shutil.rmtree(disk)
        return False

    stumble(monkeypatch, unplug)
    found = run(tmp_path, "--demo", "--max-frames", "60", option, str(disk / name))
    assert isinstance(found.error, EdgeFerError), "and no bug of ours"
    assert str(disk / name) in found.error.message
    assert "No such file or directory" in found.error.message
    assert len(found.records) == found.summary["frames"] >= 12
    assert found.summary["complete"] is False
    assert found.adds_up
    assert not disk.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_an_output_that_hangs_is_abandoned_and_the_others_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody reads: opening it waits for ever."""
    monkeypatch.setattr(sink_runner, "SINK_TIMEOUT_S", 2.0)
    monkeypatch.setattr(sink_runner, "FINISH_TIMEOUT_S", 2.0)
    pipe, video = tmp_path / "pipe", tmp_path / "out.mp4"
    os.mkfifo(pipe)
    try:
        found = run(tmp_path, "--demo", "--csv", str(pipe), "--save", str(video))
    finally:
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))  # lets the abandoned thread go
    assert isinstance(found.error, DeviceError)
    assert f"The output csv {pipe} hangs; it was abandoned." in str(found.error)
    assert len(frames_of(video)) == len(found.records) > 0
    assert found.summary["complete"] is False


@pytest.mark.parametrize(
    ("cores", "given", "threads"), [(1, (), 1), (2, (), 1), (8, (), 4), (64, (), 32), (8, ("--threads", "3"), 3)]
)
def test_the_cores_are_shared_out_deliberately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, given: tuple[str, ...], threads: int
) -> None:
    """The engine gets its half of the cores this process may use; OpenCV, which would take all of them, gets one."""
    asked: list[int] = []

    def open_best(*_arguments: Any, threads: int, **_options: Any) -> None:
        asked.append(threads)
        raise UsageError("that is enough")

    monkeypatch.setattr(choose, "open_best", open_best)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)), raising=False)
    monkeypatch.setattr(host_threads, "QUOTA", tmp_path / "none")
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        assert str(run(tmp_path, "--demo", "--detector", "none", *given).error) == "that is enough"
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)
    assert asked == [threads]
