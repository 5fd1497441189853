"""Every recipe is valid, names its network, and trains: one step at a small size, on pictures made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edge_fer.core.labels import EMOTIONS
from edge_fer.data.samples import Samples
from edge_fer.models.registry import ARCHITECTURES
from edge_fer.train.loop import Trainer
from edge_fer.train.recipe import load_recipe

RECIPES = sorted(
    recipe for found in ARCHITECTURES.values() if found.task == "classification" for recipe in found.recipes
)
PER_CLASS = 1


@pytest.fixture(scope="module")
def noise() -> Samples:
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(7 * PER_CLASS)]
    labels = np.arange(len(images), dtype=np.int64) % 7
    return Samples(tuple(map(str, range(len(images)))), labels, EMOTIONS, lambda i: images[i], "noise")


def test_there_is_a_recipe_for_every_network_of_the_papers() -> None:
    assert len(RECIPES) == len(set(RECIPES)) >= 13
    assert {ARCHITECTURES[load_recipe(name).model.arch].paper for name in RECIPES} >= {
        "Sheng & Lau; He et al. 2015",
        "Huang, ResNet50+FPN",
        "Hu & Kovásznai, +FPN+Transformer",
        "Santhapalli et al.; Roy et al. 2024",
        "Morisseau; Liu et al. 2022",
        "Santhapalli et al., baseline CNN",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_for_a_step(name: str, noise: Samples, slim_resemotenet, tmp_path: Path) -> None:
    # The last level of a pyramid would be one pixel, and torch 2.13's bf16 gradient of a convolution over that holds
    # what its memory held before, now and then NaN.
    side = 128 if "fpn" in load_recipe(name).model.arch else 64
    size = f"[{side}, {side}]"
    small = ["epochs=2", "batch_size=7", "init=null", "distill=null", "sizes=[]", f"model.preprocess.size_hw={size}"]
    if "transformer" in load_recipe(name).model.arch:
        small.append(f"model_options.size_hw={size}")
    with slim_resemotenet():
        trainer = Trainer(load_recipe(name, small), noise, noise, tmp_path)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    row = trainer.run_epoch()
    # The held-out loss may overflow: two steps are too few for fifty batch norms to learn the size of random maps.
    assert np.isfinite(row.train_loss)
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    arch = ARCHITECTURES[trainer.recipe.model.arch]
    after = trainer.model.state_dict()
    assert not torch.equal(after[arch.output_weight], before[arch.output_weight])
    frozen = any(part.frozen for part in trainer.recipe.parts)
    assert torch.equal(after[arch.input_weight], before[arch.input_weight]) == frozen
