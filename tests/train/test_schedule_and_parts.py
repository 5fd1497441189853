"""Learning rates: over time, and by part of the network; what is frozen does not move."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edge_fer.core.errors import BadInputError
from edge_fer.models.resnet import resnet18
from edge_fer.train.optim import build_optimizers, freeze, rate_factor
from edge_fer.train.recipe import OptimizerSpec, PartSpec, ScheduleSpec, load_recipe

SHENG = (PartSpec(match="fc.", lr=0.01), PartSpec(match="layer4.", lr=0.001), PartSpec(match="", frozen=True))


def test_warm_restarts_fall_and_begin_again_with_longer_periods() -> None:
    spec = ScheduleSpec(kind="restarts", first_epochs=10, multiply=2)
    factors = {at: rate_factor(spec, at, 70, 0.0) for at in (0.01, 5, 10, 10.01, 20, 30, 30.01, 50, 70)}
    assert [factors[at] for at in (5, 20, 50)] == pytest.approx([0.5, 0.5, 0.5])
    assert [factors[at] for at in (10, 30, 70)] == pytest.approx([0, 0, 0], abs=1e-9)
    assert all(factors[at] > 0.99 for at in (0.01, 10.01, 30.01))


def test_a_cosine_ends_at_its_lowest_and_a_constant_stays() -> None:
    assert rate_factor(ScheduleSpec(lowest=0.1), 20, 20, 1.0) == pytest.approx(0.1)
    assert rate_factor(ScheduleSpec(kind="constant"), 20, 20, 1.0) == 1.0
    assert rate_factor(ScheduleSpec(kind="constant"), 0.5, 20, 1.0) == pytest.approx(0.5)


def test_every_part_has_its_own_rate_and_frozen_ones_are_left_out() -> None:
    model = resnet18(7, 3)
    (optimizer,) = build_optimizers(model, OptimizerSpec(kind="adam", lr=0.5, weight_decay=0.1), SHENG)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = {name: id(p) for name, p in model.named_parameters() if id(p) in rate}
    assert {name.split(".")[0] for name in names} == {"layer4", "fc"}
    assert all(rate[found] == (0.01 if name.startswith("fc.") else 0.001) for name, found in names.items())
    assert decay[names["fc.weight"]] == 0.1
    assert decay[names["fc.bias"]] == 0.0


def test_a_frozen_trunk_does_not_move_its_statistics_included() -> None:
    torch.manual_seed(0)
    model = resnet18(7, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (optimizer,) = build_optimizers(model, OptimizerSpec(kind="sgd", lr=0.5), SHENG)
    freeze(model, SHENG, 0)
    model(torch.randn(4, 1, 32, 32)).square().sum().backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"layer4", "fc"}
    assert not torch.equal(model.state_dict()["layer4.0.bn1.running_mean"], before["layer4.0.bn1.running_mean"])


def test_a_part_thaws_at_its_epoch() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
    parts = (PartSpec(match="2.", lr=0.1), PartSpec(match="", lr=0.01, frozen=True, thaw_epoch=3))
    (optimizer,) = build_optimizers(model, OptimizerSpec(kind="adamw"), parts)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
    freeze(model, parts, 2)
    assert [module.training for module in model] == [False, False, True]
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 2
    freeze(model, parts, 3)
    assert all(module.training for module in model)
    assert all(p.requires_grad for p in model.parameters())


def test_parts_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(BadInputError, match="'layer4' matches no parameter"):
        build_optimizers(model, OptimizerSpec(), (PartSpec(match="layer4", lr=0.1),))
    with pytest.raises(BadInputError, match="nothing to train"):
        build_optimizers(model, OptimizerSpec(), (PartSpec(match="", frozen=True),))
    with pytest.raises(BadInputError, match="not for muon"):
        build_optimizers(model, OptimizerSpec(kind="muon", lr=0.1), (PartSpec(match="0", lr=0.1),))
    with pytest.raises(BadInputError, match="needs an lr, or to be frozen"):
        load_recipe("compact", ["parts=[{match: fc.}]"])
    with pytest.raises(BadInputError, match="stays frozen has no lr"):
        load_recipe("compact", ["parts=[{match: fc., frozen: true, lr: 0.1}]"])
