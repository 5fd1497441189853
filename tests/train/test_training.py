"""Training learns, resumes to the same result, and refuses what it cannot use."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from older_states import leave_recipe
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.core.errors import BadInputError, CheckpointError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.data.samples import Samples
from edge_fer.train.loop import EpochLog, Trainer
from edge_fer.train.optim import cosine_factor, orthogonalise
from edge_fer.train.recipe import Recipe, load_recipe

SMALL = [
    "batch_size=14",
    "model_options.widths=[8, 8, 16, 16]",
    "sizes=[]",
    "augment={flip: false}",
    "amp=none",
    "ema_decay=0.5",
]


def pictures(per_class: int) -> Samples:
    """Seven easily told textures: stripes of another angle per class, with noise."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:48, 0:48]
    images, labels = [], []
    for label in range(7):
        angle = label * np.pi / 7
        stripes = 127 + 100 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.9)
        for _ in range(per_class):
            images.append(np.clip(stripes + rng.normal(0, 10, (48, 48)), 0, 255).astype(np.uint8))
            labels.append(label)
    return Samples(
        tuple(f"{i}.png" for i in range(len(images))),
        np.asarray(labels, dtype=np.int64),
        EMOTIONS,
        lambda i: images[i],
        "test textures",
    )


def small(*more: str) -> Recipe:
    return load_recipe("compact", [*SMALL, *more])


def test_a_small_network_learns_seven_textures(tmp_path: Path) -> None:
    samples = pictures(12)
    trainer = Trainer(small("epochs=15", "optimizer.lr=0.02"), samples, samples, tmp_path)
    rows: list[EpochLog] = []
    batches: list[tuple[int, int]] = []
    trainer.run(rows.append, lambda done, total: batches.append((done, total)))
    assert rows[-1].val_top1 > 0.95
    assert batches == [(i, 6) for i in range(1, 7)] * 15
    assert {p.name for p in tmp_path.iterdir()} == {"best.safetensors", "last.safetensors", "log.csv", "state.pt"}
    with (tmp_path / "log.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 15


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, optimizer: str) -> None:
    recipe = small(
        "epochs=3", f"optimizer.kind={optimizer}", "augment.mix_probability=0.5", "augment.rotate_deg=10",
        "self_target_start=1", "self_target_weight=0.3",
    )  # fmt: skip
    samples = pictures(4)
    whole = Trainer(recipe, samples, samples, tmp_path / "whole")
    whole.run(lambda row: None)
    first = Trainer(recipe, samples, samples, tmp_path / "parts")
    first.run_epoch()
    second = Trainer(recipe, samples, samples, tmp_path / "parts")
    assert second.resume()
    second.run(lambda row: None)
    for name, value in whole.ema.state_dict().items():
        torch.testing.assert_close(value, second.ema.state_dict()[name], msg=name)


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    samples = pictures(4)
    Trainer(small("epochs=2"), samples, samples, tmp_path).run_epoch()
    with pytest.raises(CheckpointError, match="another recipe"):
        Trainer(small("epochs=3"), samples, samples, tmp_path).resume()


def test_a_state_of_an_older_version_counts_by_what_its_recipe_means(tmp_path: Path) -> None:
    samples = pictures(4)
    Trainer(small("epochs=2"), samples, samples, tmp_path).run_epoch()
    leave_recipe(tmp_path, without=("patience", "balance"))
    assert Trainer(small("epochs=2"), samples, samples, tmp_path).resume()
    leave_recipe(tmp_path, warm_restarts=True)
    with pytest.raises(CheckpointError, match="another recipe"):
        Trainer(small("epochs=2"), samples, samples, tmp_path).resume()


def test_a_training_that_diverges_ends_with_a_sentence_and_keeps_nothing(tmp_path: Path) -> None:
    samples = pictures(4)
    trainer = Trainer(small("epochs=2", "optimizer.lr=1e30", "optimizer.warmup_epochs=0"), samples, samples, tmp_path)
    with pytest.raises(BadInputError, match=r"diverged in epoch 1.*optimizer\.lr"):
        trainer.run(lambda row: None)
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_other_data_is_refused(tmp_path: Path) -> None:
    """Also where it has as many pictures: self-targets are remembered by number, and held-out ones were not seen."""
    samples = pictures(4)
    order = list(range(len(samples)))
    Trainer(small("epochs=2"), samples, samples, tmp_path).run_epoch()
    with pytest.raises(CheckpointError, match="begun with other data"):
        Trainer(small("epochs=2"), samples.select([*order[1:], order[0]]), samples, tmp_path).resume()
    with pytest.raises(CheckpointError, match="begun with other data"):
        Trainer(small("epochs=2"), samples, samples.select(order[1:]), tmp_path).resume()
    assert Trainer(small("epochs=2"), samples, samples, tmp_path).resume()


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    samples = pictures(4)
    trainer = Trainer(small("epochs=2"), samples, samples, tmp_path)
    trainer.run_epoch()
    (tmp_path / "state.pt").write_bytes(b"\x80\x02 not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        trainer.resume()


def test_too_little_data_is_refused(tmp_path: Path) -> None:
    samples = pictures(1)
    with pytest.raises(BadInputError, match="less than one batch"):
        Trainer(small("epochs=1", "batch_size=64"), samples, samples, tmp_path)


def test_recipes_explain_what_is_wrong_with_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Shipped recipes: .*\bcompact, "):
        load_recipe("no-such-recipe")
    with pytest.raises(UsageError, match="Wrong setting of epochs"):
        load_recipe("compact", ["epochs=0"])
    with pytest.raises(UsageError, match="not valid YAML"):
        load_recipe("compact", ["epochs=[1"])
    with pytest.raises(UsageError, match=r"unknown key optimizer\.learning_rate"):
        load_recipe("compact", ["optimizer.learning_rate=1"])
    with pytest.raises(UsageError, match="key=value"):
        load_recipe("compact", ["epochs"])
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1, 2")
    with pytest.raises(BadInputError, match="not valid YAML"):
        load_recipe(str(path))


def test_orthogonalised_updates_have_singular_values_near_one() -> None:
    matrix = torch.randn(24, 90, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix).float())
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    torch.testing.assert_close(orthogonalise(matrix.T), orthogonalise(matrix).T, atol=0.05, rtol=0)


def test_the_schedule_warms_up_and_falls_to_nothing() -> None:
    factors = [cosine_factor(i / 100, 0.1) for i in range(101)]
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[10] == 1.0
    assert factors[-1] == 0.0


def test_a_training_as_short_as_its_warm_up_ends_at_the_full_rate() -> None:
    assert [cosine_factor(progress, 1.0) for progress in (0.5, 1.0)] == [0.5, 1.0]


def test_the_command_trains_continues_and_says_what_to_do_next(tmp_path: Path) -> None:
    samples = pictures(8)
    for i in range(len(samples)):
        for split in ("train", "test"):
            folder = tmp_path / "data" / split / EMOTIONS[samples.labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / samples.ids[i]), samples.read(i))
    settings = [part for value in [*SMALL, "epochs=2", "holdout_fraction=0.3"] for part in ("--set", value)]
    command = ["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *settings]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    (last,) = [line for line in result.output.splitlines() if line.startswith("Next: ")]
    words = shlex.split(last.removeprefix("Next: edge-fer compile "))
    assert words == [
        str(tmp_path / "run" / "best.safetensors"), "--calibration", str(tmp_path / "data" / "train"),
        "--data", str(tmp_path / "data"), "--split", "test",
    ]  # fmt: skip
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names >= {"best.safetensors", "last.safetensors", "recipe.yaml", "log.csv", "curve.png"}
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")).epochs == 2
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0
    assert "Continuing" in again.output


@pytest.mark.parametrize("recipe", ["compact", "detector"])
def test_a_file_as_out_is_told_before_any_data_is_read(tmp_path: Path, recipe: str) -> None:
    (tmp_path / "notes.txt").touch()
    result = CliRunner().invoke(
        app, ["train", "--recipe", recipe, "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "notes.txt")]
    )
    assert isinstance(result.exception, UsageError)
    assert "--out names a folder" in str(result.exception)
