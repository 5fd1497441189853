"""Sources give what they hold, in order, or say in one sentence why not."""

from __future__ import annotations

import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_bytes import with_index_first

from edge_fer.core.errors import SourceError, UsageError
from edge_fer.runtime.frames import Frame, FramePool, Mailbox, ReportsState
from edge_fer.runtime.sources import capture, images, live, synthetic
from edge_fer.runtime.sources.camera import open_camera, parse_size
from edge_fer.runtime.sources.choose import open_source
from edge_fer.runtime.sources.live import LiveSource
from edge_fer.runtime.sources.stream import open_stream
from edge_fer.runtime.sources.synthetic import SyntheticCamera
from edge_fer.runtime.sources.video_file import VideoFile


def drain(source: object) -> list[tuple[int, float, np.ndarray]]:
    frames = []
    while (frame := source.read(60.0)) is not None:  # type: ignore[attr-defined]
        frames.append((frame.index, frame.time_ms, frame.image_bgr.copy()))
        frame.release()
    source.close()  # type: ignore[attr-defined]
    return frames


def test_a_file_gives_every_frame_once_and_in_order(short_clip: Path, demo_frames: list[np.ndarray]) -> None:
    frames = drain(open_source(str(short_clip), pool_size=1))
    assert [index for index, _, _ in frames] == list(range(12))
    assert [time_ms for _, time_ms, _ in frames] == pytest.approx([40.0 * i for i in range(12)])
    for (_, _, image), original in zip(frames, demo_frames, strict=True):
        assert np.abs(image.astype(int) - original).mean() < 6, "each frame is its own picture, not a later one's"


def test_a_file_goes_round_in_the_same_buffers(short_clip: Path) -> None:
    source = open_source(str(short_clip), pool_size=1)
    buffers = set()
    while (frame := source.read(60.0)) is not None:
        buffers.add(frame.image_bgr.ctypes.data)
        frame.release()
    source.close()
    assert len(buffers) <= 4


def test_a_paced_file_takes_its_time(short_clip: Path) -> None:
    source = open_source(str(short_clip), pool_size=1, paced=True)
    stamps = []
    while (frame := source.read(60.0)) is not None:
        stamps.append(frame.captured_ns)
        frame.release()
    source.close()
    assert stamps[-1] - stamps[0] >= 0.95 * 11 * 40e6


def test_pictures_come_by_name_from_folder_and_pattern(tmp_path: Path) -> None:
    for name, value in (("b.png", 20), ("a.png", 10), ("c.jpg", 30)):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), value, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    for text, expected in ((str(tmp_path), [10, 20, 30]), (str(tmp_path / "*.png"), [10, 20])):
        means = [round(float(image.mean())) for _, _, image in drain(open_source(text, pool_size=1))]
        assert means == expected
    assert len(drain(open_source(str(tmp_path / "a.png"), pool_size=1))) == 1


def test_a_picture_that_cannot_be_read_is_told_counted_and_passed_over(tmp_path: Path) -> None:
    for name, value in (("b.png", 20), ("c.png", 30), ("e.png", 50)):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), value, np.uint8))
    _write(tmp_path / "a.png", b"")
    _write(tmp_path / "d.png", b"half a pict")
    source, told = open_source(str(tmp_path), pool_size=1), []
    assert isinstance(source, ReportsState)
    source.on_state = told.append
    frames = drain(source)
    assert [(index, round(float(image.mean()))) for index, _, image in frames] == [(1, 20), (2, 30), (4, 50)]
    assert (source.dropped, source.info.frames) == (0, 5)
    assert [state.rpartition("/")[2] for state in told] == [
        "a.png is not a picture that OpenCV can decode; passed over", "",
        "d.png is not a picture that OpenCV can decode; passed over", "",
    ]  # fmt: skip


def test_pictures_that_people_watch_stay_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "PACE_S", 0.1)
    monkeypatch.setattr(images, "LAST_S", 0.2)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 30, 3), np.uint8))
    source = open_source(str(tmp_path), pool_size=1, paced=True)
    first, second = source.read(60.0), source.read(60.0)
    assert first is not None
    assert second is not None
    assert second.captured_ns - first.captured_ns >= 0.1e9
    assert source.read(60.0) is None
    assert time.perf_counter_ns() - second.captured_ns >= 0.2e9


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda folder: folder / "missing.mp4", "neither a file"),
        (lambda folder: folder, "holds no pictures"),
        (lambda folder: folder / "*.png", "holds no pictures"),
        (lambda folder: _write(folder / "empty.mp4", b""), "is empty"),
        (lambda folder: _write(folder / "text.mp4", b"this is not a video\n" * 50), "is not a video"),
        (lambda folder: _write(folder / "text.png", b"this is not a picture"), "is not a picture"),
    ],
)
def test_what_is_no_source_is_told_in_one_sentence(tmp_path: Path, prepare: object, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        open_source(str(prepare(tmp_path)), pool_size=1)  # type: ignore[operator]


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["index last", "index first", "avi"])
def test_a_truncated_video_is_told(short_clip: Path, demo_frames: list[np.ndarray], tmp_path: Path, kind: str) -> None:
    """Without its end an MP4 with the index in front, and an AVI, would play a part and stop without a word."""
    whole = tmp_path / ("whole.avi" if kind == "avi" else "whole.mp4")
    if kind == "avi":
        height, width = demo_frames[0].shape[:2]
        writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 25, (width, height))
        for frame in demo_frames:
            writer.write(frame)
        writer.release()
    else:
        data = short_clip.read_bytes()
        _write(whole, with_index_first(data) if kind == "index first" else data)
    assert len(drain(open_source(str(whole), pool_size=1))) == 12
    cut = _write(tmp_path / f"cut{whole.suffix}", whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"cut\.\w+ is not whole"):
        open_source(str(cut), pool_size=1)


def test_text_is_not_rendered_as_a_video(tmp_path: Path) -> None:
    """FFmpeg knows how to film a text file."""
    path = _write(tmp_path / "notes.txt", ("Grüße aus dem Labor\n" * 200).encode())
    with pytest.raises(SourceError, match="it is a text file"):
        open_source(str(path), pool_size=1)


def test_a_device_that_opens_and_gives_nothing_is_not_opened_in_a_hot_loop() -> None:
    opened: list[Unplugged] = []

    def connect() -> Unplugged:
        opened.append(Unplugged(1 if opened else 2, 1))
        return opened[-1]

    source = LiveSource(connect, "camera 0", pool_size=1, lost_after_s=2.0)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="did not come back"):
        while (frame := source.read(60.0)) is not None:
            frame.release()
    source.close()
    assert 2 <= len(opened) <= 6


def test_a_camera_that_is_not_there_is_told_without_noise(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match="camera 97 cannot be opened"):
        open_camera(97, pool_size=1)
    assert capfd.readouterr().err == ""


def test_a_stream_that_is_not_there_hides_its_password() -> None:
    with pytest.raises(SourceError) as caught:
        open_stream("http://user:secret@127.0.0.1:9/video", pool_size=1)
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)


def test_the_mailbox_keeps_the_newest_and_counts_the_rest() -> None:
    pool, mailbox = FramePool(5), Mailbox()
    for index in range(4):
        frame = pool.take(0)
        assert frame is not None
        frame.index = index
        mailbox.put(frame)
    newest = mailbox.get(0)
    assert newest is not None
    assert (newest.index, mailbox.dropped) == (3, 3)
    assert mailbox.get(0.01) is None
    mailbox.close()
    assert mailbox.closed


def test_a_frame_returns_to_its_pool_after_the_last_release() -> None:
    pool = FramePool(1)
    frame = pool.take(0)
    assert frame is not None
    frame.retain()
    frame.release()
    assert pool.take(0) is None
    frame.release()
    assert pool.take(0) is frame


def test_half_a_video_is_no_synthetic_camera(short_clip: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(short_clip.read_bytes()[: short_clip.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"cut\.mp4"):
        SyntheticCamera(cut, pool_size=1)


@pytest.mark.parametrize("rounds", [None, 2.5])
def test_a_clip_that_memory_does_not_hold_plays_as_one_that_it_holds(
    short_clip: Path, monkeypatch: pytest.MonkeyPatch, rounds: float | None
) -> None:
    probe = SyntheticCamera(short_clip, pool_size=1)
    length = probe.info.frames
    probe.close()
    assert length is not None
    frames = None if rounds is None else int(rounds * length)

    def play() -> tuple[dict[int, int], str]:
        """The sum of the pixels of every frame that arrived, by its number, and what the camera calls itself."""
        camera, seen = SyntheticCamera(short_clip, pool_size=1, fps=25, frames=frames), {}
        while (frame := camera.read(60.0)) is not None:
            seen[frame.index] = int(frame.image_bgr.astype(int).sum())
            frame.release()
        camera.close()
        assert len(seen) + camera.dropped == (frames or length)
        return seen, camera.info.description

    kept, name = play()
    assert "decoded" not in name
    monkeypatch.setattr(synthetic, "MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr(synthetic, "AHEAD_BYTES", 1 << 21)
    decoded, name = play()
    assert name.endswith("decoded while it plays")
    common = kept.keys() & decoded.keys()
    assert len(common) > len(kept) // 2
    assert all(kept[index] == decoded[index] for index in common)


def test_a_clip_that_is_not_decoded_in_time_is_told(short_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr(synthetic, "AHEAD_BYTES", 1)
    camera = SyntheticCamera(short_clip, pool_size=1, fps=100_000, frames=10_000)
    with pytest.raises(SourceError, match="cannot be decoded as fast") as told:
        while (frame := camera.read(60.0)) is not None:
            frame.release()
    camera.close()
    assert told.value.fix is not None
    assert "--source" in told.value.fix


def test_a_synthetic_camera_that_breaks_says_so(short_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = SyntheticCamera(short_clip, pool_size=1)
    monkeypatch.setattr(np, "copyto", lambda *_: (_ for _ in ()).throw(MemoryError("no room for a frame")))
    with pytest.raises(MemoryError, match="no room"):
        camera.read(5.0)
    camera.close()


def test_every_frame_of_a_synthetic_camera_is_labelled_or_counted_as_dropped(short_clip: Path) -> None:
    camera = SyntheticCamera(short_clip, pool_size=1, fps=200, frames=60)
    seen = []
    while (frame := camera.read(60.0)) is not None:
        seen.append(frame.index)
        time.sleep(0.02)
        frame.release()
    camera.close()
    assert seen == sorted(set(seen))
    assert len(seen) + camera.dropped == 60
    assert camera.dropped > 0


class Unplugged:
    """A capture that gives a few frames and then nothing, as a camera whose cable is pulled."""

    def __init__(self, frames: int, value: int) -> None:
        self.left, self.value = frames, value

    def get(self, _property: int) -> float:
        return 30.0

    def grab(self) -> bool:
        time.sleep(0.002)
        self.left -= self.left > 0
        return self.left > 0

    def retrieve(self, _image: np.ndarray) -> tuple[bool, np.ndarray | None]:
        return True, np.full((8, 8, 3), self.value, np.uint8)

    def release(self) -> None:
        pass


def test_a_camera_that_is_plugged_in_again_goes_on() -> None:
    captures = [Unplugged(5, 1), None, Unplugged(10_000, 2)]
    source = LiveSource(lambda: captures.pop(0), "camera 0", pool_size=1)  # type: ignore[arg-type,return-value]
    deadline, values = time.monotonic() + 120, set()
    while 2 not in values and time.monotonic() < deadline:
        frame = source.read(60.0)
        assert frame is not None
        values.add(int(frame.image_bgr[0, 0, 0]))
        frame.release()
    assert 2 in values
    assert source.reconnections == 1
    source.close()


def test_a_camera_may_stay_away_longer_than_a_frame_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt is told with the pause after it; whoever is told slowly does not end the run."""
    monkeypatch.setattr(live, "RETRY_FIRST_S", 0.05)
    captures = [Unplugged(5, 1), None, None, None, Unplugged(10_000, 2)]
    source = LiveSource(lambda: captures.pop(0), "camera 0", pool_size=1)  # type: ignore[arg-type,return-value]
    states: list[str] = []

    def tell(state: str) -> None:
        states.append(state)
        time.sleep(0.0 if state else 0.4)

    source.on_state = tell
    value = 1
    while value == 1:
        frame = source.read(0.1)
        assert frame is not None
        value = int(frame.image_bgr[0, 0, 0])
        frame.release()
    frame = source.read(60.0)
    assert frame is not None
    source.close()
    pauses = ("0.05", "0.1", "0.2")
    attempts = [f"camera 0 is gone; next attempt in {pause} s" for pause in pauses]
    assert states == ["camera 0 is gone; trying to open it again", *attempts, ""]
    assert source.reconnections == 1


class Flickering(Unplugged):
    """A camera of which every third picture arrives damaged."""

    def retrieve(self, _image: np.ndarray) -> tuple[bool, np.ndarray | None]:
        return (False, None) if self.left % 3 == 0 else super().retrieve(_image)


def test_damaged_pictures_are_dropped_and_counted_and_the_camera_stays_open() -> None:
    opened: list[Flickering] = []

    def connect() -> Flickering:
        opened.append(Flickering(10_000, 1))
        return opened[-1]

    source = LiveSource(connect, "camera 0", pool_size=3)  # type: ignore[arg-type,return-value]
    indices = []
    for _ in range(20):
        frame = source.read(60.0)
        assert frame is not None
        indices.append(frame.index)
        frame.release()
    source.interrupt()
    source.close()
    assert len(opened) == 1
    assert source.state == "live"
    assert source.dropped >= indices[-1] + 1 - len(indices) > 0


def test_a_bug_in_the_capture_thread_is_not_taken_for_the_end_of_the_stream() -> None:
    class Broken(Unplugged):
        def retrieve(self, _image: np.ndarray) -> tuple[bool, np.ndarray | None]:
            raise TypeError("a bug of ours")

    source = LiveSource(lambda: Broken(10, 1), "camera 0", pool_size=1)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="a bug of ours"):
        source.read(60.0)
    source.close()
    file = VideoFile.of_capture(BrokenFile(), "film", pool_size=1)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="film cannot be decoded any further: no memory left"):
        drain(file)
    file.close()


class BrokenFile(Unplugged):
    """A decoder that gives two frames and then throws."""

    def __init__(self) -> None:
        super().__init__(3, 1)

    def read(self, image: np.ndarray) -> tuple[bool, np.ndarray | None]:
        if not self.grab():
            error = cv2.error("no memory left")
            error.err = "no memory left"
            raise error
        return self.retrieve(image)


def test_a_camera_that_stays_away_ends_the_run_with_a_sentence() -> None:
    captures = [Unplugged(2, 1)]
    source = LiveSource(
        lambda: captures.pop(0) if captures else None, "camera 0", pool_size=1, lost_after_s=0.5  # type: ignore[arg-type,return-value]
    )  # fmt: skip
    with pytest.raises(SourceError, match="did not come back"):
        while (frame := source.read(60.0)) is not None:
            frame.release()
    source.close()
    assert threading.active_count() < 20


def test_a_consumer_that_holds_all_frames_does_not_stop_the_camera() -> None:
    source = LiveSource(lambda: Unplugged(10_000, 1), "camera 0", pool_size=1)  # type: ignore[arg-type,return-value]
    held: list[Frame] = []
    for _ in range(3):
        frame = source.read(60.0)
        assert frame is not None
        held.append(frame)
    before, deadline = source.dropped, time.monotonic() + 120
    while source.dropped < before + 10 and time.monotonic() < deadline:
        time.sleep(0.002)
    assert source.dropped >= before + 10
    held[0].release()
    fresh = source.read(60.0)
    assert fresh is not None
    assert fresh.index > held[-1].index + 5
    source.close()


class Driver:
    """``cv2.VideoCapture`` as a camera's driver behaves: it grants what it likes. Only the device is made up."""

    granted: dict[int, float] = {}  # noqa: RUF012
    asked: list[tuple[int, float]] = []  # noqa: RUF012
    opened: tuple[int, int] = (-1, -1)
    letters = "MJPG"

    def __init__(self, index: int, api: int, _settings: list[int]) -> None:
        Driver.opened = (index, api)

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def getBackendName(self) -> str:  # noqa: N802
        return "V4L2"

    def set(self, key: int, value: float) -> bool:
        Driver.asked.append((key, value))
        return True

    def get(self, key: int) -> float:
        if key == cv2.CAP_PROP_FOURCC:
            return float(cv2.VideoWriter.fourcc(*Driver.letters)) if Driver.letters else -1.0
        return Driver.granted.get(key, 0.0)

    def grab(self) -> bool:
        time.sleep(0.002)
        return True

    def retrieve(self, _image: np.ndarray) -> tuple[bool, np.ndarray]:
        size = (int(self.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(self.get(cv2.CAP_PROP_FRAME_WIDTH)))
        return True, np.zeros((*size, 3), np.uint8)

    def release(self) -> None:
        pass


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> type[Driver]:
    monkeypatch.setattr(capture.cv2, "VideoCapture", Driver)
    Driver.asked, Driver.letters = [], "MJPG"
    Driver.granted = {cv2.CAP_PROP_FRAME_WIDTH: 1280, cv2.CAP_PROP_FRAME_HEIGHT: 720, cv2.CAP_PROP_FPS: 30}
    return Driver


def test_a_camera_is_asked_for_its_format_first_then_for_size_and_rate(driver: type[Driver]) -> None:
    source = open_camera(2, pool_size=1, size=(1280, 720), fps=30)
    source.close()
    apis = {"linux": cv2.CAP_V4L2, "darwin": cv2.CAP_AVFOUNDATION, "win32": cv2.CAP_MSMF}
    assert driver.opened == (2, apis.get(sys.platform, cv2.CAP_ANY))
    assert driver.asked == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 30),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]
    assert source.info.description == "camera 2 (V4L2, MJPG)"


@pytest.mark.parametrize(("letters", "shown"), [("YUYV", "YUYV"), ("", "format unknown")])
def test_what_a_camera_grants_is_told_beside_what_it_was_asked_for(
    driver: type[Driver], letters: str, shown: str
) -> None:
    driver.letters = letters
    driver.granted = {cv2.CAP_PROP_FRAME_WIDTH: 640, cv2.CAP_PROP_FRAME_HEIGHT: 480, cv2.CAP_PROP_FPS: 15}
    source = open_camera(0, pool_size=1, size=(1920, 1080), fps=30)
    frame = source.read(60.0)
    assert frame is not None
    assert frame.image_bgr.shape == (480, 640, 3)
    frame.release()
    source.close()
    assert source.info.description == f"camera 0 (V4L2, {shown}; 1920x1080 at 30 fps were asked for)"
    assert (source.info.width, source.info.height, source.info.fps) == (640, 480, 15)


def test_frames_that_came_before_anybody_read_are_neither_shown_nor_missed(driver: type[Driver]) -> None:
    """Building an engine may take a minute while the camera is already on."""
    source = open_camera(0, pool_size=1)
    time.sleep(0.05)
    assert source.dropped == 0
    frame = source.read(60.0)
    assert frame is not None
    assert (frame.index, frame.time_ms) == (0, 0.0)
    frame.release()
    source.close()


@pytest.mark.parametrize("text", ["720p", "1280", "x720", "0x0", "1280x720x3", "99999x1"])
def test_what_is_no_size_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="WIDTHxHEIGHT"):
        parse_size(text)
    assert parse_size("640X480") == (640, 480)


def test_the_time_of_a_frame_is_the_containers(tmp_path: Path) -> None:
    """A phone's variable rate: counting frames would be wrong by seconds."""
    av = pytest.importorskip("av", reason="writes the file with times of its own")
    stamps = [0, 33, 100, 400, 420, 900, 933]
    path = tmp_path / "variable.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * index, np.uint8), format="bgr24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    times = [time_ms for _, time_ms, _ in drain(open_source(str(path), pool_size=1))]
    assert times == pytest.approx(stamps, abs=1)
