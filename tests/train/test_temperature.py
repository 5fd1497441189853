"""One factor on the logits, found exactly, changing no label."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from edge_fer.train.temperature import best_temperature, scale_logits


@pytest.mark.parametrize("planted", [0.4, 1.0, 2.5])
def test_a_planted_temperature_is_found(planted: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40_000, 5, generator=generator)
    labels = torch.multinomial(functional.softmax(logits, dim=1), 1, generator=generator).flatten()
    assert best_temperature(logits * planted, labels) == pytest.approx(planted, rel=0.03)


def test_scaling_divides_the_logits_and_keeps_the_labels() -> None:
    layer = torch.nn.Linear(6, 4)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    before = layer(x).detach()
    scale_logits(layer, 1.7)
    torch.testing.assert_close(layer(x).detach(), before / 1.7)
