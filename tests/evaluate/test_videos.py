"""Videos: one label each, from the mean of its frames' scores, with the live loop's own pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_fer.backends.registry import open_engine
from edge_fer.cli.main import app
from edge_fer.cli.run import DEMO
from edge_fer.core.bundle import Bundle
from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.evaluate.predict import softmax
from edge_fer.evaluate.videos import find_videos, score_videos
from edge_fer.runtime.detectors.base import open_detector


def video(path: Path, frames: list[np.ndarray]) -> None:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()


@pytest.fixture(scope="module")
def demo() -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(DEMO))
    frames = [capture.read()[1] for _ in range(4)]
    capture.release()
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo: list[np.ndarray]) -> Path:
    """happy/ and sad/ with the same smiling person, and a video of a wall."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("Happiness", "sad"):
        (root / name).mkdir()
        video(root / name / "person.avi", demo)
    video(root / "sad" / "wall.avi", [np.full((240, 320, 3), 90, np.uint8)] * 3)
    (root / "sad" / "notes.txt").write_text("no video")
    return root


def test_a_video_has_the_mean_of_its_faces_scores(shipped: Bundle, tmp_path: Path, demo: list[np.ndarray]) -> None:
    """With frames that are faces themselves, the loop adds nothing: the mean is that of the engine's answers."""
    crops = [np.ascontiguousarray(frame[100:360, 330:590]) for frame in demo]
    (tmp_path / "happy").mkdir()
    video(tmp_path / "happy" / "a.avi", crops)
    with open_engine(shipped, backend="onnxruntime", precision="fp32") as engine:
        found = score_videos(tmp_path, engine, lambda _smallest: open_detector("none"))
        capture = cv2.VideoCapture(str(tmp_path / "happy" / "a.avi"))
        decoded = [capture.read()[1] for _ in range(4)]
        capture.release()
        from edge_fer.data.samples import Samples
        from edge_fer.evaluate.predict import predict

        samples = Samples(("0", "1", "2", "3"), np.zeros(4, np.int64), EMOTIONS, lambda i: decoded[i], "the test")
        expected = softmax(predict(engine, samples, shipped.manifest.classifier.preprocess))
    np.testing.assert_allclose(found.scores[0], expected.mean(axis=0), atol=1e-5)
    (one,) = found.videos.videos
    assert (one.frames, one.faces, one.frames_with_face) == (4, 4, 4)
    assert one.faces_right == int((expected.argmax(axis=1) == EMOTIONS.index("happy")).sum())


def test_videos_are_counted_with_and_without_those_that_show_no_face(shipped: Bundle, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    with open_engine(shipped, backend="onnxruntime", precision="int8") as engine:
        found = score_videos(
            folder, engine, lambda smallest: open_detector("haar", min_face_px=smallest), lambda *at: seen.append(at)
        )
    assert seen[-1] == (3, 3)
    assert found.labels.tolist() == [EMOTIONS.index("happy"), EMOTIONS.index("sad")]
    np.testing.assert_allclose(found.scores[0], found.scores[1])
    by_id = {one.id: one for one in found.videos.videos}
    assert by_id["Happiness/person.avi"].predicted == "happy"
    assert by_id["sad/person.avi"].predicted == "happy"
    assert by_id["sad/wall.avi"].predicted is None
    assert by_id["sad/wall.avi"].frames == 3
    assert found.videos.without_face == 1
    assert found.videos.top1_of_all == pytest.approx(1 / 3)
    assert found.videos.frame_top1 == pytest.approx(0.5)
    (track,) = by_id["sad/person.avi"].tracks
    assert track.frames == by_id["sad/person.avi"].faces


def test_the_command_reports_videos(folder: Path, tmp_path: Path) -> None:
    arguments = ["--task", "video", "--detector", "haar", "--backend", "onnxruntime", "--report", str(tmp_path / "r")]
    done = CliRunner().invoke(app, ["eval", "--data", str(folder), *arguments])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "r" / "report.json").read_text())
    assert (record["unit"], record["n"], record["top1"]) == ("videos", 2, 0.5)
    assert len(record["videos"]["videos"]) == 3
    assert "wall.avi" in (tmp_path / "r" / "report.html").read_text()
    assert "videos without a face 1" in done.output


def test_folders_that_hold_no_such_videos_are_told(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BadInputError, match="not a folder"):
        find_videos(tmp_path / "none", EMOTIONS)
    with pytest.raises(BadInputError, match="no videos"):
        find_videos(tmp_path, EMOTIONS)
    shutil.copytree(folder, tmp_path / "v")
    (tmp_path / "v" / "sad").rename(tmp_path / "v" / "bored")
    with pytest.raises(BadInputError, match="bored"):
        find_videos(tmp_path / "v", EMOTIONS)


def test_a_checkpoint_is_refused_with_the_way_out(folder: Path) -> None:
    done = CliRunner().invoke(app, ["eval", "net.safetensors", "--data", str(folder), "--task", "video"])
    assert isinstance(done.exception, UsageError)
    assert "edge-fer compile" in done.exception.fix
