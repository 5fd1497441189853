"""``edge-fer eval`` of several models, with an audit, and as a report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.core.errors import EdgeFerError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.evaluate.report_html import p_value
from edge_fer.models.checkpoint import find_checkpoint


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("faces")
    for name in EMOTIONS:
        (root / "test" / name).mkdir(parents=True)
        (root / "train" / name).mkdir(parents=True)
        for index in range(4):
            image = cv2.resize(rng.integers(0, 255, (6, 6), dtype=np.uint8), (48, 48))
            cv2.imwrite(str(root / "test" / name / f"{index}.png"), image)
            if index == 0:  # also in the training split
                cv2.imwrite(str(root / "train" / name / "twin.png"), image)
            else:
                other = cv2.resize(rng.integers(0, 255, (6, 6), dtype=np.uint8), (48, 48))
                cv2.imwrite(str(root / "train" / name / f"{index}.png"), other)
    return root


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["eval", *arguments])
    if isinstance(done.exception, EdgeFerError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_models_are_set_side_by_side_and_against_the_first(faces: Path, tmp_path: Path) -> None:
    checkpoint = Path(__file__).resolve().parents[2] / "edge_fer" / "checkpoints" / "edge-fer-compact.safetensors"
    models = ("@fp32", "edge-fer-compact@int8", str(checkpoint))
    options = ("--split", "test", "--backend", "onnxruntime", "--report", str(tmp_path))
    shown = run(*models, "--data", str(faces), *options)
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["kind"] == "edge-fer-comparison"
    names = list(record["models"])
    assert len(names) == 3
    assert [record["models"][name]["precision"] for name in names] == ["fp32", "int8", "fp32"]
    assert [record["models"][name]["backend"] for name in names][2] == "torch"
    first, second = record["comparisons"]
    assert first["reference"] == second["reference"] == names[0]
    # The engine in fp32 and torch compute the same function.
    assert (second["gained"], second["lost"], second["mcnemar_p"]) == (0, 0, 1.0)
    for found in (first, second):
        difference = record["models"][found["model"]]["top1"] - record["models"][names[0]]["top1"]
        assert found["top1"]["gain"] == pytest.approx(difference)
    assert "McNemar p" in shown
    files = {path.name for path in tmp_path.iterdir()}
    assert {"report.json", "report.html"} <= files
    assert sum(name.startswith("mistakes-") for name in files) == 3
    assert sum(name.endswith(".png") for name in files) == 6


def test_models_of_one_name_are_told_apart_by_their_files(faces: Path, tmp_path: Path) -> None:
    trained, other = tmp_path / "first" / "best.safetensors", tmp_path / "second" / "best.safetensors"
    shipped = find_checkpoint(None)
    trained.parent.mkdir()
    other.parent.mkdir()
    shutil.copyfile(shipped, trained)
    with safe_open(shipped, "pt") as file:
        contract = file.metadata()
    weights = {name: torch.zeros_like(values) for name, values in load_file(shipped).items()}
    save_file(weights, other, contract)
    report = tmp_path / "r"
    run(str(trained), str(other), "--data", str(faces), "--split", "test", "--report", str(report))
    record = json.loads((report / "report.json").read_text())
    assert list(record["models"]) == ["first/best.safetensors", "second/best.safetensors"]
    assert {model["source"] for model in record["models"].values()} == {"best.safetensors"}
    assert {"first-best.safetensors.png", "second-best.safetensors.png"} <= {path.name for path in report.iterdir()}


def test_no_p_is_told_as_zero() -> None:
    assert [p_value(p) for p in (0.0, 9e-5, 1e-4, 0.25)] == ["< 0.0001", "< 0.0001", "0.0001", "0.2500"]


def test_an_audit_gives_the_accuracy_without_what_leaked(faces: Path, tmp_path: Path) -> None:
    audit, report = tmp_path / "audit.json", tmp_path / "r.json"
    audited = CliRunner().invoke(app, ["data", "audit", str(faces), "--json", str(audit)])
    assert audited.exit_code == 0, audited.output
    shown = run(
        "--data", str(faces), "--split", "test", "--backend", "onnxruntime", "--audit", str(audit),
        "--json", str(report), "--mistakes", str(tmp_path / "m"),
    )  # fmt: skip
    record = json.loads(report.read_text())
    assert record["n"] == 28
    assert record["deduplicated"]["removed"] == 7
    assert record["deduplicated"]["metrics"]["n"] == 21
    whole = record["deduplicated"]["metrics"]["top1"] * 21 + record["deduplicated"]["leaked_top1"] * 7
    assert whole == pytest.approx(record["top1"] * 28)
    assert "without 7 near-duplicates" in shown
    assert record["curves"].keys() == set(EMOTIONS)
    assert record["intervals"]["macro_f1"][0] <= record["macro_f1"] <= record["intervals"]["macro_f1"][1]
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["mistakes-edge-fer-compact.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a@int8", "a@int8"), "twice"),
        (("a@int8", "--precision", "fp32"), "names a precision"),
        (("a", "b", "--png", "x.png"), "one model"),
        (("a", "b", "--task", "detection"), "One detector"),
        (("--task", "detection", "--html", "x.html"), "expression networks"),
        (("--task", "detection", "--detector", "haar"), "the detector to evaluate is the model"),
        (("--task", "video", "--split", "test"), "not for videos"),
        (("--task", "dreams"), "Unknown task"),
        (("--arch", "resnet18"), "checkpoints"),
        (("a.safetensors", "--backend", "onnxruntime"), "by torch"),
        (("a.safetensors@int8",), "by torch"),
    ],
)
def test_options_that_contradict_each_other_are_refused(faces: Path, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run("--data", str(faces), *arguments)
