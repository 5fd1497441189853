"""``edge-fer run`` with detectors that need something: a file, or eyes for the network that wants them level."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.cli.main import app
from edge_fer.core.bundle import Bundle
from edge_fer.core.errors import UsageError

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


@pytest.mark.skipif(
    not Path(FILE).is_file(), reason="EDGE_FER_MTCNN names no wheel of facenet-pytorch (edge-fer fetch mtcnn)"
)
def test_mtcnn_finds_the_face_of_the_demo(tmp_path: Path) -> None:
    lines = tmp_path / "faces.jsonl"
    done = run("--detector", f"mtcnn={FILE}", "--jsonl", str(lines))
    assert done.exit_code == 0, done.output
    assert "mtcnn, faces from" in done.output
    assert [len(json.loads(line)["faces"]) for line in lines.read_text().splitlines()] == [1] * 4
