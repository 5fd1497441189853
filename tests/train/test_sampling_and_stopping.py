"""Balanced sampling, early stopping and event files; all of them survive an interruption."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_fer.core.errors import MissingDependencyError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.data.samples import Samples
from edge_fer.train.event_log import EventLog
from edge_fer.train.loop import EpochLog, Trainer
from edge_fer.train.recipe import Recipe, load_recipe

SMALL = [
    "batch_size=14",
    "model_options.widths=[8, 8, 8, 8]",
    "model.preprocess.size_hw=[16, 16]",
    "sizes=[]",
    "augment={flip: false}",
    "amp=none",
]


def small(*more: str) -> Recipe:
    return load_recipe("compact", [*SMALL, *more])


def uneven() -> Samples:
    """24 pictures of the first class, 3 of every other."""
    rng = np.random.default_rng(7)
    labels = np.asarray([0] * 24 + [label for label in range(1, 7) for _ in range(3)], dtype=np.int64)
    images = [rng.integers(0, 255, (16, 16), dtype=np.uint8) for _ in labels]
    return Samples(tuple(map(str, range(len(labels)))), labels, EMOTIONS, lambda i: images[i], "noise")


def drawn(trainer: Trainer, epochs: int) -> np.ndarray:
    batches = [
        trainer.labels[index]
        for epoch in range(epochs)
        for index in trainer._batches(torch.Generator().manual_seed(epoch))
    ]
    return np.bincount(torch.cat(batches).numpy(), minlength=7) / sum(map(len, batches))


def test_balanced_sampling_draws_every_class_as_often(tmp_path: Path) -> None:
    shares = drawn(Trainer(small("epochs=1", "balance=true"), uneven(), uneven(), tmp_path), 60)
    assert np.abs(shares - 1 / 7).max() < 0.03
    plain = drawn(Trainer(small("epochs=1"), uneven(), uneven(), tmp_path), 60)
    assert plain[0] == pytest.approx(24 / 42, abs=0.03)


def rows(accuracies: list[float]) -> list[EpochLog]:
    return [EpochLog(epoch, 16, 0.1, 1.0, 0.5, 1.0, top1, 1.0, 1.0) for epoch, top1 in enumerate(accuracies)]


def test_patience_counts_epochs_since_the_first_best(tmp_path: Path) -> None:
    trainer = Trainer(small("epochs=9", "patience=2"), uneven(), uneven(), tmp_path)
    for accuracies, stalled in (([], False), ([0.3], False), ([0.3, 0.2], False), ([0.3, 0.2, 0.3], True)):
        trainer.log = rows(accuracies)
        assert trainer.stalled == stalled
    trainer.log = rows([0.3, 0.2, 0.4, 0.4])
    assert not trainer.stalled


def test_a_balanced_focal_run_with_frozen_parts_resumes_to_the_same_weights_and_stops_alike(tmp_path: Path) -> None:
    recipe = small(
        "epochs=8", "balance=true", "patience=2", "loss.kind=focal", "optimizer.kind=adam", "optimizer.lr=1.0e-8",
        "schedule={kind: restarts, first_epochs: 2}", "parts=[{match: stem., frozen: true, thaw_epoch: 1}]",
        "augment.motion_blur_probability=0.5",
    )  # fmt: skip
    samples = uneven()
    whole = Trainer(recipe, samples, samples, tmp_path / "whole")
    whole.run(lambda row: None)
    assert whole.stalled
    assert whole.epoch < 8
    while True:
        part = Trainer(recipe, samples, samples, tmp_path / "parts")
        part.resume()
        if part.stalled or part.epoch == recipe.epochs:
            break
        part.run_epoch()
    assert part.epoch == whole.epoch
    for name, value in whole.ema.state_dict().items():
        torch.testing.assert_close(value, part.ema.state_dict()[name], rtol=0, atol=0, msg=name)


def test_half_precision_of_a_gpu_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp16 is for CUDA"):
        Trainer(small("epochs=1", "amp=fp16"), uneven(), uneven(), tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_event_files_hold_what_the_log_holds(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = rows([0.25, 0.5])
    events = EventLog(tmp_path, 0)
    for row in found:
        events.add(replace(row, val_loss=0.125 * (1 + row.epoch)))
    events.close()
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert [(e.step, e.value) for e in accumulator.Scalars("top-1/held out")] == [(0, 0.25), (1, 0.5)]
    assert [e.value for e in accumulator.Scalars("loss/held out")] == [0.125, 0.25]


def test_without_tensorboard_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependencyError, match="tensorboard is not installed"):
        EventLog(tmp_path, 0)
