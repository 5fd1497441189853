"""Every resampled figure is the figure of the resample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_fer.evaluate import bootstrap
from edge_fer.evaluate.bootstrap import interval, resample
from edge_fer.evaluate.curves import precision_recall
from edge_fer.evaluate.metrics import compute_metrics

NAMES = ("a", "b", "c")


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 30))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 2)))
    weights = draw(hnp.arrays(np.int64, (n, 3), elements=st.integers(1, 4))).astype(float)
    return labels, weights / weights.sum(axis=1, keepdims=True)


@given(predictions(), st.integers(0, 3))
@settings(max_examples=60)
def test_a_resample_has_the_figures_of_the_samples_that_were_drawn(
    case: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    labels, scores = case
    got = resample(labels, scores, seed=seed, resamples=3)
    drawn = np.random.default_rng(seed).integers(len(labels), size=(3, len(labels)))
    for k, rows in enumerate(drawn):
        expected = compute_metrics(labels[rows], scores[rows], NAMES, resamples=2)
        for name, values in got.overall.items():
            if name == "mean_average_precision":
                curves = [precision_recall(labels[rows] == c, scores[rows, c]) for c in range(3)]
                wanted = np.mean([c.average_precision for c in curves if c is not None])
            else:
                wanted = getattr(expected, name)
            if wanted is None:
                assert np.isnan(values[k]), name
            else:
                assert values[k] == pytest.approx(wanted), name
        for c, name in enumerate(NAMES):
            one = expected.per_class[name]
            assert got.per_class["precision"][k, c] == pytest.approx(one.precision)
            if one.support:
                assert got.per_class["recall"][k, c] == pytest.approx(one.recall)
                assert got.per_class["f1"][k, c] == pytest.approx(one.f1)
            else:
                assert np.isnan(got.per_class["recall"][k, c])
            if one.auc is None:
                assert np.isnan(got.per_class["auc"][k, c])
            else:
                assert got.per_class["auc"][k, c] == pytest.approx(one.auc)


def test_intervals_are_as_wide_as_theory_says() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    right = rng.random(2000) < 0.7
    of_first = np.where((labels == 0) == right, 0.8, 0.2)
    scores = np.stack([of_first, 1 - of_first], axis=1)
    low, high = resample(labels, scores, resamples=2000).intervals()["top1"]
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert low == pytest.approx(right.mean() - half, abs=2e-3)
    assert high == pytest.approx(right.mean() + half, abs=2e-3)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(0, 3, 40), rng.dirichlet([1, 1, 1], 40)
    whole = resample(labels, scores, resamples=20)
    monkeypatch.setattr(bootstrap, "CELLS", 120)
    pieces = resample(labels, scores, resamples=20)
    for name, values in whole.overall.items():
        np.testing.assert_allclose(values, pieces.overall[name], err_msg=name)


def test_what_is_never_defined_has_no_interval() -> None:
    got = resample(np.zeros(10, np.int64), np.full((10, 2), 0.5), resamples=10)
    assert "macro_auc" not in got.intervals()
    assert got.class_intervals(1) == {"precision": (0.0, 0.0)}
    assert interval(np.array([np.nan, 1.0, 3.0])) == pytest.approx((1.05, 2.95))
