"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from edge_fer.models.hybrid import MAIN_SHARE
from edge_fer.train.losses import LossSpec, build_loss, focal_loss, over_heads

# Softmax of (log 3, 0) is (3/4, 1/4).
LOGITS = torch.tensor([[math.log(3.0), 0.0]])


def test_focal_loss_of_one_class() -> None:
    right, wrong = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert focal_loss(LOGITS, right, 0.25, 2.0).item() == pytest.approx(0.25 * 0.25**2 * math.log(4 / 3))
    assert focal_loss(LOGITS, wrong, 0.25, 2.0).item() == pytest.approx(0.25 * 0.75**2 * math.log(4))


def test_focal_loss_of_a_mixed_target_weighs_its_classes() -> None:
    mixed = torch.tensor([[0.6, 0.4]])
    expected = 0.25 * (0.6 * 0.0625 * math.log(4 / 3) + 0.4 * 0.5625 * math.log(4))
    assert focal_loss(LOGITS, mixed, 0.25, 2.0).item() == pytest.approx(expected)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 7, generator=generator)
    targets = torch.rand(5, 7, generator=generator).softmax(dim=1)
    torch.testing.assert_close(focal_loss(logits, targets, 1.0, 0.0), functional.cross_entropy(logits, targets))
    torch.testing.assert_close(build_loss(LossSpec())(logits, targets), functional.cross_entropy(logits, targets))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_stays_finite_for_a_certain_network(gamma: float) -> None:
    logits = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([[1.0, 0.0]]), 0.25, gamma).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_cross_entropy_of_a_smoothed_target() -> None:
    # Smoothing 0.1 over two classes: 0.95 and 0.05.
    loss = build_loss(LossSpec())(LOGITS, torch.tensor([[0.95, 0.05]]))
    assert loss.item() == pytest.approx(0.95 * math.log(4 / 3) + 0.05 * math.log(4))


def test_the_main_head_has_seven_tenths_and_the_others_share_the_rest() -> None:
    target = torch.tensor([[1.0, 0.0]])
    loss = build_loss(LossSpec())
    even = torch.zeros(1, 2)  # log 2
    found = over_heads(loss, LOGITS, [even, even, even], target, MAIN_SHARE).item()
    assert found == pytest.approx(0.7 * math.log(4 / 3) + 0.3 * math.log(2))
    assert over_heads(loss, LOGITS, [], target, MAIN_SHARE).item() == pytest.approx(math.log(4 / 3))
