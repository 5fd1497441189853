"""A sweep searches what it was told to, continues where it stopped, and refuses what cannot be searched."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.core.errors import UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.train.recipe import load_recipe
from edge_fer.train.sweep import Axis, parse_axis

pytest.importorskip("optuna", reason="the sweep extra is not installed")

SMALL = ["epochs=2", "batch_size=14", "model_options.widths=[8, 8, 8, 8]", "sizes=[]", "amp=none",
         "holdout_fraction=0.3", "augment={flip: false}"]  # fmt: skip


def test_axes_are_read_as_written() -> None:
    assert parse_axis("optimizer.lr=1e-4..1e-1:log") == Axis("optimizer.lr", 1e-4, 0.1, log=True)
    assert parse_axis("batch_size=16..64") == Axis("batch_size", 16, 64, whole=True)
    assert parse_axis("optimizer.kind=sgd,adam") == Axis("optimizer.kind", choices=("sgd", "adam"))
    assert parse_axis("optimizer.lr=1e-3,0.01") == Axis("optimizer.lr", choices=(1e-3, 0.01))


@pytest.mark.parametrize("text", ["lr", "=1..2", "lr=", "lr=1", "lr=2..1", "lr=0..1:log", "lr=1..2:cubic", "lr=a..b",
                                  "lr=nan..1", "lr=1..inf", "lr=1..2..3"])  # fmt: skip
def test_axes_that_cannot_be_meant_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--vary does not understand"):
        parse_axis(text)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label, name in enumerate(EMOTIONS):
        folder = tmp_path / "data" / "train" / name
        folder.mkdir(parents=True)
        for i in range(8):
            image = np.clip(30 * label + rng.normal(20, 10, (48, 48)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"{label}-{i}.png"), image)
    return tmp_path / "data"


def command(data: Path, out: Path, trials: int, *more: str) -> list[str]:
    settings = [part for value in SMALL for part in ("--set", value)]
    vary = ["--vary", "optimizer.lr=1e-3..1e-1:log", "--vary", "optimizer.kind=adam,sgd", "--vary", "batch_size=7..14"]
    return ["sweep", "--data", str(data), "--out", str(out), "--trials", str(trials), *settings, *vary, *more]


def test_settings_that_let_a_training_diverge_do_not_end_the_sweep(data: Path, tmp_path: Path) -> None:
    settings = [part for value in SMALL for part in ("--set", value)]
    vary = ["--vary", "optimizer.lr=1e-2,1e30", "--set", "optimizer.warmup_epochs=0"]
    arguments = ["sweep", "--data", str(data), "--out", str(tmp_path / "sweep"), "--trials", "4", *settings, *vary]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    with (tmp_path / "sweep" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["optimizer.lr"], row["state"]) for row in rows} == {("0.01", "complete"), ("1e+30", "pruned")}
    assert load_recipe(str(tmp_path / "sweep" / "best.yaml")).optimizer.lr == 0.01


def test_a_sweep_writes_its_trials_continues_and_names_the_best(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "my sweep"
    first = CliRunner().invoke(app, command(data, out, 2))
    assert first.exit_code == 0, first.output
    assert f"--recipe '{out / 'best.yaml'}' --data" in first.output, "a line to be copied"
    again = CliRunner().invoke(app, command(data, out, 3))
    assert again.exit_code == 0, again.output
    assert again.output.count("trial ") == 2  # the third trial's line, and the best one's
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["0", "1", "2"]
    assert all(1e-3 <= float(row["optimizer.lr"]) <= 1e-1 and 7 <= int(row["batch_size"]) <= 14 for row in rows)
    assert len({row["optimizer.lr"] for row in rows}) == 3
    best = max(rows, key=lambda row: float(row["top1"]))
    recipe = load_recipe(str(out / "best.yaml"))
    assert recipe.optimizer.kind == best["optimizer.kind"]
    assert recipe.optimizer.lr == pytest.approx(float(best["optimizer.lr"]))
    assert recipe.batch_size == int(best["batch_size"])
    assert (out / "parallel.png").read_bytes().startswith(b"\x89PNG")
    other = CliRunner().invoke(app, command(data, out, 3, "--vary", "label_smoothing=0.0..0.2"))
    assert isinstance(other.exception, UsageError)
    assert "other settings" in str(other.exception)


def test_a_wrong_key_is_known_before_anything_is_trained(data: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, command(data, tmp_path / "sweep", 1, "--vary", "optimizer.learning_rate=0.1..0.2"))
    assert isinstance(result.exception, UsageError)
    assert "optimizer.learning_rate" in str(result.exception)
    assert not (tmp_path / "sweep").exists()
