"""``edge-fer eval --task detection`` on pictures made here: the demo's face, and scenes of nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.cli import eval_detection
from edge_fer.cli.main import app
from edge_fer.cli.run import DEMO
from edge_fer.core.errors import BadInputError, EdgeFerError, UsageError
from edge_fer.data.detection import labels
from edge_fer.data.detection.folder import HOLDOUT_FRACTION, HOLDOUT_SALT, PictureList

YUNET = os.environ.get("EDGE_FER_YUNET", "")


class Oracle:
    """What ``cv2.FaceDetectorYN`` says where no YuNet file is at hand: our own detector's finds, in YuNet's rows."""

    def __init__(self) -> None:
        self._detector = open_face_detector("edge-fer-face", min_face_px=20, backend="onnxruntime", precision="fp32")

    def setInputSize(self, _size: tuple[int, int]) -> None:  # noqa: N802
        pass

    def detect(self, image_bgr: NDArray[np.uint8]) -> tuple[int, NDArray[np.float32] | None]:
        found = self._detector.detect(image_bgr)
        if not len(found):
            return 1, None
        assert found.landmarks is not None
        low, high = found.boxes_xyxy[:, :2], found.boxes_xyxy[:, 2:]
        sure = np.full((len(found), 1), 0.95, np.float32)
        return 1, np.hstack([low, high - low, found.landmarks.reshape(-1, 10), sure]).astype(np.float32)


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if Path(YUNET).is_file():
        return Path(YUNET)
    path = tmp_path / "teacher.onnx"
    path.write_bytes(b"stands for YuNet")
    made = SimpleNamespace(create=lambda *_arguments: Oracle())
    monkeypatch.setattr(labels.cv2, "FaceDetectorYN", made)
    return path


def held_out_names() -> Iterator[str]:
    """Names whose hash puts them into the tenth that training never saw."""
    for number in count():
        name = f"{number}.png"
        if len(PictureList((Path(name),)).split(HOLDOUT_FRACTION, HOLDOUT_SALT)[1]):
            yield name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    video, rng = cv2.VideoCapture(str(DEMO)), np.random.default_rng(0)
    frame = video.read()[1]
    video.release()
    (face,) = (
        open_face_detector("edge-fer-face", min_face_px=60, backend="onnxruntime", precision="fp32")
        .detect(np.asarray(frame, np.uint8))
        .boxes_xyxy
    )
    left, top, right, bottom = (round(float(value)) for value in face)
    margin = round(0.15 * (right - left))
    crop = frame[top - margin : bottom + margin, left - margin : right + margin]
    names = held_out_names()
    for kind, pictures in (
        ("faces", [crop, crop[:, ::-1]]),
        ("scenes", [frame, *(cv2.resize(rng.integers(60, 200, (7, 9, 3), np.uint8), (400, 300)) for _ in range(3))]),
    ):
        folder = tmp_path / "data" / kind
        folder.mkdir(parents=True)
        for picture in pictures:
            cv2.imwrite(str(folder / next(names)), picture)
    return tmp_path / "data"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["eval", "--task", "detection", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_a_detector_is_measured_by_size_angle_and_light_and_its_mistakes_are_drawn(
    data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_detection, "COMPOSITES", 4)
    report, mistakes = tmp_path / "report.json", tmp_path / "mistakes"
    shown = run(
        "--data", str(data), "--teacher", str(teacher), "--backend", "onnxruntime", "--precision", "fp32",
        "--json", str(report), "--mistakes", str(mistakes),
    )  # fmt: skip
    rows = {row["kind"]: row for row in json.loads(report.read_text())}
    scenes, empty = rows["held-out scenes, faces of 40 px and more"], rows["held-out scenes without a face"]
    assert (scenes["pictures"], scenes["faces"], scenes["recall"]) == (4, 1, 1.0)
    assert (empty["pictures"], empty["faces"], empty["recall"], empty["alarms_per_100"]) == (3, 0, None, 0.0)
    conditions = [name.partition(", ")[2] for name in rows if name.startswith("composites")]
    assert {"24 px", "160 px", "turned by 30 degrees", "a quarter of the light"} <= set(conditions)
    upright = rows["composites, upright, 48-120 px"]
    assert (upright["pictures"], upright["faces"]) == (4, 4)
    assert upright["recall"] >= 0.75
    assert upright["average_precision"] > 0.7
    assert upright["landmark_error"] < 0.1
    assert len(list(mistakes.glob("*.png"))) == len(rows)
    for word in ("edge-fer-face", "recall", "AP50", "false alarms"):
        assert word in shown


def test_mistakes_of_the_command_line_are_told_before_the_work(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none was named.*--teacher"):
        run("--data", str(data))
    with pytest.raises(UsageError, match="One detector at a time"):
        run("edge-fer-face", "edge-fer-face", "--data", str(data), "--teacher", "any.onnx")
    with pytest.raises(BadInputError, match="There is no teacher model"):
        run("--data", str(data), "--teacher", str(tmp_path / "missing.onnx"))
    with pytest.raises(EdgeFerError, match="expression networks"):
        run("--data", str(data), "--teacher", "any.onnx", "--split", "test")
