"""Weights for drawing samples: w_c = N / (C N_c)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.data.sampler_weights import class_weights, sample_weights


def test_the_formula_by_hand() -> None:
    # N = 10, C = 2: 10 / (2 * 8) and 10 / (2 * 2).
    assert class_weights([0] * 8 + [1] * 2, 2).tolist() == [0.625, 2.5]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=200))
def test_every_class_that_occurs_is_drawn_equally_often(labels: list[int]) -> None:
    weights = sample_weights(labels, 7)
    drawn = np.bincount(labels, weights=weights, minlength=7)
    present = np.unique(labels)
    assert np.allclose(drawn[present], len(labels) / 7)
    assert drawn.sum() == pytest.approx(len(labels) * len(present) / 7)
    if len(present) == 7:
        assert weights.mean() == pytest.approx(1)


def test_a_class_without_samples_weighs_nothing() -> None:
    assert class_weights([0, 0, 2], 4).tolist() == [0.375, 0, 0.75, 0]


@pytest.mark.parametrize("labels", [[], [-1, 0], [0, 3], [[0, 1]]])
def test_labels_outside_the_classes_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="labels"):
        class_weights(labels, 3)
