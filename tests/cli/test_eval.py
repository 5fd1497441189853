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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--detector", "none"), "--detector none takes every picture for a face"),
        (("--json", "-"), "--json writes a file"),
        (("--json", "same.png", "--png", "same.png"), "--json and --png would write the same file"),
        (("--png", "figures.txt"), "--png writes a PNG picture, not figures.txt"),
        (("--html", "page.pdf"), "--html writes a page, not page.pdf"),
        (("--threads", "100000"), "100000 threads are more than"),
        (("--precision", "int3"), "Unknown precision 'int3'"),
    ],
)
def test_what_would_be_ignored_or_lost_is_refused_first(faces: Path, arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        run("--data", str(faces), "--split", "test", *arguments)


def test_a_folder_of_outputs_is_no_file(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"--mistakes .*notes\.txt is a file"):
        run("--data", str(faces), "--split", "test", "--mistakes", str(tmp_path / "notes.txt"))


def test_folders_that_are_no_class_are_named(faces: Path) -> None:
    (faces / "test" / "happy").rename(faces / "test" / "contempt")
    (faces / "test" / "sad").rename(faces / "test" / "joy")
    shown = run("--data", str(faces), "--split", "test", "--backend", "onnxruntime")
    assert "24 faces" in shown, "joy is another word for happy"
    assert "none of the seven classes: contempt (4)" in shown


def test_a_bundle_without_int8_is_evaluated_in_what_it_has(faces: Path, tmp_path: Path) -> None:
    made = ["compile", "edge-fer-compact", "--precision", "fp32", "--no-build", "--out", str(tmp_path / "b")]
    assert CliRunner().invoke(app, made).exit_code == 0
    shown = run(str(tmp_path / "b"), "--data", str(faces), "--split", "test", "--backend", "onnxruntime")
    assert "onnxruntime fp32" in shown


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
