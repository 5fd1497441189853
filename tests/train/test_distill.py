"""Learning from teachers: the loss by hand, pictures in each teacher's contract, and a training that follows one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_fer.core.errors import BadInputError
from edge_fer.core.spec import ModelSpec, PreprocessSpec
from edge_fer.data.samples import Samples
from edge_fer.models.checkpoint import save_checkpoint
from edge_fer.models.registry import build_model
from edge_fer.train.distill import DistillSpec, Teachers, distillation_loss, fitted
from edge_fer.train.loop import Trainer
from edge_fer.train.recipe import load_recipe

GRAY = PreprocessSpec(size_hw=(48, 48), colour="gray", mean=(0.5,), std=(0.25,))
RGB = PreprocessSpec(size_hw=(96, 96), colour="rgb", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
OPTIONS: dict[str, object] = {"widths": [8, 8, 8, 8], "depths": [1, 1, 1]}


def teacher(path: Path, favourite: int, labels: tuple[str, ...] | None = None) -> str:
    """A network that answers ``favourite`` whatever it sees."""
    spec = ModelSpec(name="teacher", arch="compact", preprocess=GRAY)
    if labels is not None:
        spec = spec.model_copy(update={"labels": labels})
    network = build_model(spec, OPTIONS)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.startswith("fc."):
                value.zero_()
        network.get_parameter("fc.bias")[favourite] = 8.0
    save_checkpoint(path, spec, OPTIONS, network)
    return str(path)


def test_the_loss_by_hand() -> None:
    # Student (log 9, 0) at temperature 2 is (3/4, 1/4); the teacher says (1/2, 1/2).
    logits, wise = torch.tensor([[math.log(9.0), 0.0]]), torch.tensor([[0.5, 0.5]])
    expected = 4 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert distillation_loss(logits, wise, 2.0).item() == pytest.approx(expected)
    assert distillation_loss(torch.zeros(1, 2), wise, 2.0).item() == pytest.approx(0, abs=1e-7)


def test_a_teacher_of_other_size_and_colour_sees_the_same_picture() -> None:
    x = torch.full((2, 1, 48, 48), 0.6)
    seen = fitted(x, (48, 48), RGB)
    assert seen.shape == (2, 3, 96, 96)
    torch.testing.assert_close(seen[0, :, 0, 0], torch.tensor([0.5, 1.0, 1.5]))
    # A window of 40 pixels out of a face of 48 stays a window at the teacher's scale.
    assert fitted(torch.zeros(1, 1, 40, 40), (48, 48), RGB).shape[2:] == (80, 80)
    red = torch.zeros(1, 3, 96, 96)
    red[:, 0] = 1.0
    torch.testing.assert_close(fitted(red, (96, 96), GRAY)[0, 0, 0, 0].item(), (0.299 - 0.5) / 0.25, rtol=1e-5, atol=0)


def test_teachers_answer_with_their_mean(tmp_path: Path) -> None:
    paths = tuple(teacher(tmp_path / f"{i}.safetensors", i) for i in (2, 5))
    spec = DistillSpec(teachers=paths, temperature=1.0)
    found = Teachers(spec, ModelSpec(name="s", arch="compact", preprocess=GRAY), torch.device("cpu"))
    answer = found.probabilities(torch.rand(3, 1, 48, 48))
    torch.testing.assert_close(answer.sum(1), torch.ones(3))
    torch.testing.assert_close(answer[:, 2], answer[:, 5])
    assert float(answer[:, [2, 5]].sum(1).min()) > 0.99


def test_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    student = ModelSpec(name="s", arch="compact", preprocess=GRAY)
    path = teacher(tmp_path / "t.safetensors", 0, labels=tuple(reversed(student.labels)))
    with pytest.raises(BadInputError, match="knows the classes"):
        Teachers(DistillSpec(teachers=(path,)), student, torch.device("cpu"))


def test_a_student_believes_its_teacher_against_the_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (48, 48)).astype(np.uint8) for _ in range(28)]
    recipe = load_recipe(
        "compact",
        [
            "epochs=4", "batch_size=14", "sizes=[]", "amp=none", "ema_decay=0.0", "optimizer.warmup_epochs=0",
            "model_options.widths=[8, 8, 8, 8]", "augment={flip: false}", "optimizer={kind: adam, lr: 0.05}",
            f"distill={{teachers: ['{teacher(tmp_path / 't.safetensors', 4)}'], weight: 1.0}}",
        ],
    )  # fmt: skip
    samples = Samples(
        tuple(f"{i}.png" for i in range(28)),
        np.zeros(28, dtype=np.int64),
        recipe.model.labels,
        lambda i: images[i],
        "noise",
    )
    trainer = Trainer(recipe, samples, samples, tmp_path / "run")
    trainer.run(lambda row: None)
    assert set(trainer.held_out_logits().argmax(1).tolist()) == {4}


def test_the_shipped_recipe_names_teachers_that_have_to_be_trained_first() -> None:
    recipe = load_recipe("compact-distilled")
    assert recipe.distill is not None
    with pytest.raises(BadInputError, match=r"no teacher runs/resnet50-sheng/best.safetensors.*distill.teachers"):
        Teachers(recipe.distill, recipe.model, torch.device("cpu"))
