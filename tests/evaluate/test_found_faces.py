"""``edge-fer eval --detector``: faces found and cut as the live loop does it, against the data set's own pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.core.errors import BadInputError, EdgeFerError, UsageError
from edge_fer.core.faces import Faces
from edge_fer.core.spec import PreprocessSpec
from edge_fer.data.datasets import open_dataset
from edge_fer.evaluate.found_faces import LEAST_PX, in_a_frame, locate
from edge_fer.runtime.detectors.haar import HaarDetector
from edge_fer.runtime.preprocess import FaceCropper, face_pixels, normalise_into

LEVEL = PreprocessSpec(size_hw=(48, 48), colour="gray", mean=(0.5,), std=(0.25,), margin=0.1, alignment="eyes")


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three crops of a smiling woman, one of them small, and a picture without a face, as class folders."""
    data = pytest.importorskip("skimage.data")
    root = tmp_path_factory.mktemp("portraits")
    woman = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    (root / "happy").mkdir()
    (root / "sad").mkdir()
    for name, (top, left, side) in {"tight": (56, 160, 128), "wide": (0, 96, 256)}.items():
        cv2.imwrite(str(root / "happy" / f"{name}.png"), woman[top : top + side, left : left + side])
    small = cv2.resize(woman[40:190, 150:300], (48, 48), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(root / "sad" / "small.png"), cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))
    cv2.imwrite(str(root / "sad" / "wall.png"), np.full((48, 48), 127, np.uint8))
    return root


def command(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments])
    if isinstance(done.exception, EdgeFerError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_what_is_not_found_and_how_it_is_cut_both_count(portraits: Path, tmp_path: Path) -> None:
    options = ("--detector", "edge-fer-face", "--backend", "onnxruntime", "--report", str(tmp_path))
    shown = command("eval", "--data", str(portraits), *options)
    record = json.loads((tmp_path / "report.json").read_text())
    found = record["found_faces"]
    assert (record["n"], found["pictures"], found["found"]) == (3, 4, 3), "nobody is on the wall"
    assert found["found_share"] == {"happy": 1.0, "sad": 0.5}
    assert found["top1_of_all"] == pytest.approx(record["top1"] * 3 / 4)
    assert found["difference"]["gain"] == pytest.approx(record["top1"] - found["top1_as_given"])
    assert found["margin"] == 0.0
    least, middle, most = found["margin_of_data"]
    assert least < middle < most, "the three were cut at different distances from the face"
    assert "3 of 4" in " ".join(shown.split())
    assert record["data"].endswith(", found by edge-fer-face"), "the picture alone says it too"
    page = (tmp_path / "report.html").read_text()
    assert page.index("Found by edge-fer-face") < page.index("Class by class"), "before any figure that is of them"
    assert ">found</th>" in page
    assert (tmp_path / "edge-fer-compact.png").exists()


def test_the_cut_is_the_loops(portraits: Path, tmp_path: Path) -> None:
    frame = in_a_frame(cv2.imread(str(portraits / "sad" / "small.png"), cv2.IMREAD_GRAYSCALE))
    assert frame.shape == (LEAST_PX * 5 // 3, LEAST_PX * 5 // 3, 3)
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    engine = ("--backend", "onnxruntime", "--precision", "int8")
    command(
        "run", "--source", str(tmp_path / "frame.png"), "--no-show", "--jsonl", str(tmp_path / "run.jsonl"), *engine
    )
    faces = [face for line in (tmp_path / "run.jsonl").read_text().splitlines() for face in json.loads(line)["faces"]]
    (face,) = faces
    alone = tmp_path / "alone" / face["label"]
    alone.mkdir(parents=True)
    (alone / "small.png").write_bytes((portraits / "sad" / "small.png").read_bytes())
    report = tmp_path / "eval.json"
    command("eval", "--data", str(alone.parent), "--detector", "edge-fer-face", *engine, "--json", str(report))
    record = json.loads(report.read_text())
    assert record["top1"] == 1.0, "the same label"
    (confidence,) = (one["confidence"] for one in record["reliability"] if one["count"])
    assert confidence == pytest.approx(max(face["scores"].values()), abs=1e-4)


def test_level_eyes_are_turned_as_the_loop_turns_them(portraits: Path) -> None:
    class Tilted:
        name, whole_frame, landmarks = "tilted", False, True

        def detect(self, image_bgr: np.ndarray) -> Faces:
            side = image_bgr.shape[0]
            box = np.array([[0.25, 0.3, 0.7, 0.8]], np.float32) * side
            eyes = np.array([[[0.4, 0.4], [0.6, 0.5], [0.5, 0.6], [0.4, 0.7], [0.6, 0.7]]], np.float32) * side
            return Faces(box, np.ones(1, np.float32), eyes)

    samples = open_dataset(portraits)
    located = locate(samples, Tilted())
    cut = located.cut(LEVEL)
    for row in range(len(samples)):
        frame = in_a_frame(samples.read(row))
        loops, ours = (np.empty((1, *LEVEL.size_hw), np.float32) for _ in range(2))
        angle = float(np.degrees(np.arctan2(0.1, 0.2)))
        FaceCropper(LEVEL).crop_into(loops, frame, located.boxes_xyxy[row], angle)
        normalise_into(ours, face_pixels(cut.read(row), LEVEL), LEVEL)
        np.testing.assert_allclose(
            ours, loops, atol=1.01 / 255 / 0.25, err_msg="grey before or after the turn: one level"
        )


def test_what_cannot_be_is_told(portraits: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes every picture for a face"):
        command("eval", "--data", str(portraits), "--detector", "none")
    with pytest.raises(UsageError, match=r"level eyes.*--detector edge-fer-face"):
        locate(open_dataset(portraits), HaarDetector(min_face_px=40)).cut(LEVEL)
    (tmp_path / "sad").mkdir()
    (tmp_path / "sad" / "wall.png").write_bytes((portraits / "sad" / "wall.png").read_bytes())
    with pytest.raises(BadInputError, match="finds no face in any of the 1 pictures"):
        command("eval", "--data", str(tmp_path), "--detector", "haar")
