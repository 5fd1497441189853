"""``edge-fer run`` with detectors that need something: a file, or eyes for the network that wants them level."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.cli.main import app
from edge_fer.cli.run import DEMO
from edge_fer.core.bundle import Bundle
from edge_fer.core.errors import UsageError
from edge_fer.runtime.preprocess import FaceCropper

FAST = ("--demo", "--backend", "onnxruntime", "--precision", "int8", "--no-show", "--max-frames", "4")
FILE = os.environ.get("EDGE_FER_MTCNN", "")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["run", *FAST, *arguments])


@pytest.fixture(scope="module")
def level_eyes(shipped: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default network under a contract that wants level eyes."""
    folder = tmp_path_factory.mktemp("bundles") / "level"
    shutil.copytree(shipped.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["preprocess"]["alignment"] = "eyes"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_network_that_wants_level_eyes_gets_them_or_one_sentence(
    level_eyes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "faces.jsonl"
    refused = run("--engine", str(level_eyes), "--detector", "haar", "--jsonl", str(lines))
    assert isinstance(refused.exception, UsageError)
    assert "tells no eyes" in str(refused.exception)
    assert list(tmp_path.iterdir()) == [], "refused before any output was begun"
    # Any engine will do for the detector, so none is timed against the others.
    opened = partial(open_face_detector, backend="onnxruntime", precision="fp32")
    monkeypatch.setattr("edge_fer.backends.face_detector.open_face_detector", opened)
    done = run("--engine", str(level_eyes), "--jsonl", str(lines))
    assert done.exit_code == 0, done.output
    assert [len(json.loads(line)["faces"]) for line in lines.read_text().splitlines()] == [1] * 4


def test_a_tilted_head_is_cut_level_under_a_contract_that_levels_eyes(
    level_eyes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command, with our detector's own landmarks: pictures of one face, upright and tilted either way."""
    opened = partial(open_face_detector, backend="onnxruntime", precision="fp32")
    monkeypatch.setattr("edge_fer.backends.face_detector.open_face_detector", opened)
    real, angles = FaceCropper.crop_into, []

    def watched(self: FaceCropper, out: Any, image: Any, box: Any, angle_deg: float = 0.0) -> None:
        angles.append(angle_deg)
        real(self, out, image, box, angle_deg)

    monkeypatch.setattr(FaceCropper, "crop_into", watched)
    film = cv2.VideoCapture(str(DEMO))
    upright, folder = film.read()[1], tmp_path / "pictures"
    film.release()
    folder.mkdir()
    height, width = upright.shape[:2]
    for index, clockwise in enumerate((0, 20, -20)):
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), -clockwise, 1.0)
        tilted = cv2.warpAffine(upright, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
        cv2.imwrite(str(folder / f"{index}.png"), tilted)
    done = CliRunner().invoke(app, ["run", "--source", str(folder), *FAST[1:], "--engine", str(level_eyes)])
    assert done.exit_code == 0, done.output
    assert np.subtract(angles[1:], angles[0]) == pytest.approx([20, -20], abs=7)


@pytest.mark.skipif(
    not Path(FILE).is_file(), reason="EDGE_FER_MTCNN names no wheel of facenet-pytorch (edge-fer fetch mtcnn)"
)
def test_mtcnn_finds_the_face_of_the_demo(tmp_path: Path) -> None:
    lines = tmp_path / "faces.jsonl"
    done = run("--detector", f"mtcnn={FILE}", "--jsonl", str(lines))
    assert done.exit_code == 0, done.output
    assert "mtcnn, faces from" in done.output
    assert [len(json.loads(line)["faces"]) for line in lines.read_text().splitlines()] == [1] * 4
