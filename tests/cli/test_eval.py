"""``edge-fer eval`` on a folder that it was given, and on the real thing where it is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.core.bundle import Bundle
from edge_fer.core.errors import EdgeFerError, UsageError
from edge_fer.core.labels import EMOTIONS


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 1), ("test", 4)):
        for name in EMOTIONS:
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 255, (48, 48), dtype=np.uint8))
    return tmp_path / "data"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["eval", *arguments])
    if isinstance(done.exception, EdgeFerError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_everything_is_counted_printed_and_written(faces: Path, tmp_path: Path) -> None:
    report, picture = tmp_path / "r.json", tmp_path / "r.png"
    written = ("--json", str(report), "--png", str(picture))
    shown = run("--data", str(faces), "--split", "test", "--backend", "onnxruntime", *written)
    record = json.loads(report.read_text())
    assert record["n"] == 28
    assert 0 <= record["top1"] <= 1
    assert 0 <= record["macro_f1"] <= 1
    assert np.sum(record["confusion"]) == 28
    assert np.trace(record["confusion"]) == pytest.approx(28 * record["top1"])
    assert {row["support"] for row in record["per_class"].values()} == {4}
    assert (record["model"], record["backend"], record["precision"]) == ("edge-fer-compact", "onnxruntime", "int8")
    assert str(tmp_path) not in report.read_text(), "a report tells nothing about the machine's folders"
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.std() > 5
    for word in ("top-1", "macro-F1", "disgust"):
        assert word in shown


def test_a_split_must_be_named_when_there_are_several(faces: Path) -> None:
    with pytest.raises(UsageError, match="several splits"):
        run("--data", str(faces))


@pytest.mark.slow
def test_every_engine_and_the_checkpoint_agree_on_real_faces(fer2013: Path, tmp_path: Path, shipped: Bundle) -> None:
    """PublicTest, all 3,589 faces: the accuracy that the bundle's manifest certifies, within a hair."""
    recorded = {(a.backend, a.precision): a.top1 for a in shipped.manifest.accuracy}
    found = {}
    for backend, precision in (("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "int8")):
        report = tmp_path / f"{backend}-{precision}.json"
        run(
            "--data", str(fer2013), "--split", "test", "--backend", backend, "--precision", precision,
            "--json", str(report),
        )  # fmt: skip
        found[backend, precision] = json.loads(report.read_text())
        assert found[backend, precision]["n"] == 3589
    reference = found["onnxruntime", "fp32"]["top1"]
    assert reference >= 0.67
    for key, record in found.items():
        assert abs(record["top1"] - reference) <= 0.005, key
        if key in recorded:
            assert abs(record["top1"] - recorded[key]) <= 0.002, key
