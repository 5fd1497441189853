"""Outputs are whole or absent, keep what was there before, and last as long as what was filmed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_fer.core.errors import BadInputError, DeviceError
from edge_fer.runtime import annotate
from edge_fer.runtime.annotate import annotated
from edge_fer.runtime.frames import Frame
from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sinks import video
from edge_fer.runtime.sinks.jsonl import JsonlSink
from edge_fer.runtime.sinks.table import CsvSink
from edge_fer.runtime.sinks.video import VideoSink

LABELS = ("happy", "sad")


def result(index: int, time_ms: float, size_hw: tuple[int, int] = (120, 160)) -> FrameResult:
    frame = Frame(np.full((*size_hw, 3), 60 + index, np.uint8))
    frame.index, frame.time_ms = index, time_ms
    return FrameResult(frame, (), LABELS, 1.0, 30.0)


def frames_in(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


@pytest.mark.parametrize("fps", [0.001, 23.976, 29.97, 59.94, 120.0048, 239.76, 240.019, 999.9])
def test_every_rate_that_a_container_announces_can_be_written(tmp_path: Path, fps: float) -> None:
    sink = VideoSink(tmp_path / "out.mp4", fps)
    for index in range(3):
        sink.write(result(index, 1000 * index / fps))
    sink.close(complete=True)
    assert frames_in(tmp_path / "out.mp4") == 3
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(max(fps, 0.01), rel=1e-3)


def test_a_picture_of_another_shape_is_neither_squeezed_nor_cut(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", 10.0)
    for index, size_hw in enumerate(((120, 160), (240, 120), (60, 160))):
        frame = Frame(np.full((*size_hw, 3), 200, np.uint8))
        frame.index, frame.time_ms = index, 100.0 * index
        sink.write(FrameResult(frame, (), LABELS, 1.0, 30.0))
    sink.close(complete=True)
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    shown = [capture.read()[1] for _ in range(3)]
    bright = [np.argwhere(image.max(axis=2) > 100) for image in shown]
    assert [tuple(found.max(axis=0) + 1 - found.min(axis=0)) for found in bright[:1]] == [(120, 160)]
    for found, (height, width) in zip(bright[1:], ((120, 60), (60, 160)), strict=True):
        assert found.max(axis=0) + 1 - found.min(axis=0) == pytest.approx((height, width), abs=4)
        assert found.mean(axis=0) == pytest.approx((60, 80), abs=6), "in the middle"


@pytest.mark.parametrize("fps_seen", [5, 10, 40])
def test_a_video_of_a_camera_lasts_as_long_as_what_was_filmed(tmp_path: Path, fps_seen: int) -> None:
    """Whether the loop dropped most frames or the camera is faster than it says."""
    sink = VideoSink(tmp_path / "out.mp4", 20.0, keep_time=True)
    for index in range(3 * fps_seen + 1):
        sink.write(result(index, 700.0 + 1000 * index / fps_seen))
    sink.close(complete=True)
    assert frames_in(tmp_path / "out.mp4") == pytest.approx(3 * 20, abs=1)


def test_an_hour_without_a_camera_is_not_an_hour_of_video(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", 10.0, keep_time=True)
    for index, time_ms in enumerate((0.0, 100.0, 3_600_000.0, 3_600_100.0)):
        sink.write(result(index, time_ms))
    sink.close(complete=True)
    assert frames_in(tmp_path / "out.mp4") == 2 + video.LONGEST_REPEAT_S * 10 + 1


@pytest.mark.parametrize("pictures", [0, 15])
def test_a_disk_that_fills_up_ends_a_video_that_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: int
) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the old one")
    sink = VideoSink(path, 25.0)
    for index in range(pictures):
        sink.write(result(index, 40.0 * index))
    monkeypatch.setattr(video, "CHECK_EVERY", 1)
    monkeypatch.setattr(video, "SPARE_BYTES", 1 << 62)  # more than any disk has: this one is full now
    says = r"it ends after 0\.6 s" if pictures else "nothing was changed there"
    with pytest.raises(DeviceError, match=f"No space left while writing .*: {says}"):
        sink.write(result(pictures, 40.0 * pictures))
    sink.close(complete=False)
    if pictures:
        assert frames_in(path) == pictures
    else:
        assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_the_disk_is_looked_at_however_often_pictures_are_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pictures for every frame: their number would step over every tenth."""
    sink = VideoSink(tmp_path / "out.mp4", 20.0, keep_time=True)
    sink.write(result(0, 0.0))
    monkeypatch.setattr(video, "SPARE_BYTES", 1 << 62)
    with pytest.raises(DeviceError, match="No space left"):
        for index in range(1, 2 * video.CHECK_EVERY):
            sink.write(result(index, 100.0 * index))
    sink.close(complete=False)


def test_a_video_that_lost_its_end_is_not_published(tmp_path: Path) -> None:
    """OpenCV's writer says nothing when the disk refuses the last bytes."""
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the old one")
    sink = VideoSink(path, 25.0)
    for index in range(30):
        sink.write(result(index, 40.0 * index))
    temporary = next(tmp_path.glob(".out.*"))
    limit_after = 1000

    class Cut:
        def __init__(self, writer: object) -> None:
            self._writer = writer

        def release(self) -> None:
            self._writer.release()  # type: ignore[attr-defined]
            os.truncate(temporary, limit_after)

    sink._writer = Cut(sink._writer)  # type: ignore[assignment]
    with pytest.raises(DeviceError, match="could not be written whole"):
        sink.close(complete=True)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_outputs_that_were_never_used_leave_nothing(tmp_path: Path) -> None:
    """When a later output or the source cannot be opened, the earlier ones have touched nothing."""
    (tmp_path / "old.jsonl").write_text("old\n")
    JsonlSink(tmp_path / "old.jsonl").close(complete=False)
    CsvSink(tmp_path / "new.csv", LABELS).close(complete=False)
    VideoSink(tmp_path / "new.mp4", 25.0).close(complete=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "old.jsonl"]
    assert (tmp_path / "old.jsonl").read_text() == "old\n"


def test_a_complete_run_without_frames_writes_empty_tables(tmp_path: Path) -> None:
    JsonlSink(tmp_path / "a.jsonl").close(complete=True)
    CsvSink(tmp_path / "a.csv", LABELS).close(complete=True)
    assert (tmp_path / "a.jsonl").read_text() == ""
    assert (tmp_path / "a.csv").read_text().startswith("frame,time_ms")


@pytest.mark.parametrize("make", [JsonlSink, lambda p: CsvSink(p, LABELS), lambda p: VideoSink(p, 25.0)])
def test_a_folder_in_the_place_of_the_output_is_refused_before_the_work(tmp_path: Path, make: type) -> None:
    folder = tmp_path / "out.mp4"
    folder.mkdir()
    with pytest.raises(BadInputError, match="is a folder"):
        make(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    """Replacing it by a file would, for root, replace /dev/null too."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    sink = JsonlSink(pipe)
    sink.write(result(0, 0.0))
    sink.close(complete=True)
    reader.join(120)
    assert pipe.is_fifo()
    assert read[0].startswith('{"frame": 0')


def test_sinks_that_show_the_same_frame_draw_it_once_and_copy_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, drawn = result(0, 0.0), []
    real = annotate.annotate
    together = threading.Barrier(3)

    def slow(image: np.ndarray, of: FrameResult) -> None:
        drawn.append(of)
        time.sleep(0.05)  # the others ask meanwhile
        real(image, of)

    monkeypatch.setattr(annotate, "annotate", slow)
    pictures: list[np.ndarray] = []

    def sink() -> None:
        together.wait(120)
        pictures.append(annotated(shown))

    sinks = [threading.Thread(target=sink) for _ in range(3)]
    for thread in sinks:
        thread.start()
    for thread in sinks:
        thread.join(120)
    assert drawn == [shown]
    assert all(picture is shown.frame.image_bgr for picture in pictures)
    assert len(pictures) == 3
    assert np.ptp(shown.frame.image_bgr) > 0  # the status line is on it


def test_a_frame_repeated_in_a_video_is_the_one_before_and_not_a_recycled_buffer(tmp_path: Path) -> None:
    """The frame goes back to its pool when it is written; the repeated picture must not change with it."""
    sink = VideoSink(tmp_path / "out.mp4", 10.0, keep_time=True)
    first = result(0, 0.0)
    first.frame.image_bgr[:] = 40
    sink.write(first)
    first.frame.image_bgr[:] = 250  # the pool has given it to the next picture
    late = result(5, 500.0)
    late.frame.image_bgr[:] = 120
    sink.write(late)
    sink.close(complete=True)
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    middle = [float(capture.read()[1][60:, :].mean()) for _ in range(6)]
    capture.release()
    assert middle == pytest.approx([40] * 5 + [120], abs=6)
