"""Metrics against brute force, against published worked values, and against scikit-learn where it is installed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_fer.core.errors import BadInputError
from edge_fer.evaluate.metrics import (
    Metrics,
    compute_metrics,
    harmed_classes,
    mcnemar_exact,
    one_vs_rest_auc,
    paired_drop,
)
from edge_fer.evaluate.score import score

NAMES = ("a", "b", "c", "d")


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 60))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 3)))
    # Few distinct values, so that ties are common.
    weights = draw(hnp.arrays(np.int64, (n, 4), elements=st.integers(1, 4))).astype(float)
    return labels, weights / weights.sum(axis=1, keepdims=True)


def brute_auc(positive: np.ndarray, scores: np.ndarray) -> float:
    pairs = list(itertools.product(scores[positive], scores[~positive]))
    return sum(1.0 if p > q else 0.5 if p == q else 0.0 for p, q in pairs) / len(pairs)


@given(predictions())
@settings(deadline=None)
def test_every_figure_equals_its_definition(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    got = compute_metrics(labels, probabilities, NAMES, resamples=50)
    n = len(labels)
    predicted = [max(range(4), key=lambda k: (row[k], -k)) for row in probabilities]
    pairs = list(zip(labels.tolist(), predicted, strict=True))
    assert got.n == n
    assert got.top1 == pytest.approx(sum(a == b for a, b in pairs) / n)
    assert got.confusion == tuple(tuple(pairs.count((i, j)) for j in range(4)) for i in range(4))
    order = [sorted(range(4), key=lambda k: (-row[k], k)) for row in probabilities]
    assert got.top3 == pytest.approx(sum(t in o[:3] for t, o in zip(labels, order, strict=True)) / n)
    f1s, recalls = {}, {}
    for k, name in enumerate(NAMES):
        tp = pairs.count((k, k))
        fn = sum(a == k != b for a, b in pairs)
        fp = sum(b == k != a for a, b in pairs)
        one = got.per_class[name]
        assert one.support == tp + fn
        assert one.precision == pytest.approx(tp / (tp + fp) if tp + fp else 0.0)
        assert one.recall == pytest.approx(tp / (tp + fn) if tp + fn else 0.0)
        assert one.f1 == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0)
        if tp + fp + fn:
            f1s[k] = one.f1
        if tp + fn:
            recalls[k] = one.recall
        if 0 < tp + fn < n:
            assert one.auc == pytest.approx(brute_auc(labels == k, probabilities[:, k]))
        else:
            assert one.auc is None
    assert got.macro_f1 == pytest.approx(np.mean(list(f1s.values())))
    assert got.macro_precision == pytest.approx(np.mean([got.per_class[NAMES[k]].precision for k in f1s]))
    assert got.macro_recall == pytest.approx(np.mean([got.per_class[NAMES[k]].recall for k in f1s]))
    assert got.balanced_accuracy == pytest.approx(np.mean(list(recalls.values())))
    support = [got.per_class[name].support for name in NAMES]
    assert got.weighted_f1 == pytest.approx(np.average([got.per_class[name].f1 for name in NAMES], weights=support))
    weighted = np.average([got.per_class[name].precision for name in NAMES], weights=support)
    assert got.weighted_precision == pytest.approx(weighted)
    assert got.weighted_recall == pytest.approx(got.top1)
    assert got.top1_interval[0] <= got.top1_interval[1]


@given(predictions())
@settings(deadline=None)
def test_calibration_error_equals_its_definition(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    got = compute_metrics(labels, probabilities, NAMES, resamples=10)
    total = 0.0
    for b in range(15):
        inside = [
            (max(row), int(row.argmax()) == label)
            for label, row in zip(labels, probabilities, strict=True)
            if b < math.ceil(max(row) * 15) <= b + 1
        ]
        assert got.reliability[b].count == len(inside)
        if inside:
            confidence = np.mean([c for c, _ in inside])
            accuracy = np.mean([hit for _, hit in inside])
            assert got.reliability[b].confidence == pytest.approx(confidence)
            assert got.reliability[b].accuracy == pytest.approx(accuracy)
            total += len(inside) / len(labels) * abs(confidence - accuracy)
        else:
            assert got.reliability[b].accuracy is None
    assert got.ece == pytest.approx(total)


def test_agrees_with_scikit_learn() -> None:
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 500)
    logits = rng.normal(size=(500, 4)) + 1.5 * np.eye(4)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    got = compute_metrics(labels, probabilities, NAMES)
    predicted = probabilities.argmax(axis=1)
    assert got.top1 == pytest.approx(sk.accuracy_score(labels, predicted))
    assert got.macro_f1 == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert got.weighted_f1 == pytest.approx(sk.f1_score(labels, predicted, average="weighted"))
    assert got.macro_precision == pytest.approx(sk.precision_score(labels, predicted, average="macro"))
    assert got.weighted_precision == pytest.approx(sk.precision_score(labels, predicted, average="weighted"))
    assert got.macro_recall == pytest.approx(sk.recall_score(labels, predicted, average="macro"))
    assert got.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert got.macro_auc == pytest.approx(sk.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert np.array_equal(got.confusion, sk.confusion_matrix(labels, predicted))
    assert got.top3 == pytest.approx(sk.top_k_accuracy_score(labels, probabilities, k=3))


def test_what_was_always_or_never_right_has_an_interval_of_some_width() -> None:
    """Clopper and Pearson's: of 30 faces that are all right, one in eight might still be wrong."""
    labels = np.arange(30) % 2
    right = np.where(labels[:, None] == [0, 1], 0.9, 0.1)
    found = score(labels, right, ("a", "b")).metrics
    assert found.intervals["top1"] == found.intervals["top3"] == (pytest.approx(0.884297, abs=1e-6), 1.0)
    assert found.per_class["a"].intervals["recall"] == (pytest.approx(0.025 ** (1 / 15)), 1.0)
    wrong = score(labels, right[:, ::-1], ("a", "b")).metrics
    assert wrong.intervals["top1"] == (0.0, pytest.approx(0.115703, abs=1e-6))
    same, all_lost = paired_drop(labels, labels, labels), paired_drop(labels, labels, 1 - labels)
    assert same.interval == (pytest.approx(-11.5703, abs=1e-4), pytest.approx(11.5703, abs=1e-4))
    assert all_lost.interval == (pytest.approx(100 - 2 * 11.5703, abs=1e-4), 100.0)


def test_the_interval_has_the_width_of_the_binomial_and_the_same_seed_repeats_it() -> None:
    labels = np.zeros(3589, np.int64)
    probabilities = np.where(np.arange(3589)[:, None] < 2512, [0.9, 0.1], [0.1, 0.9])
    got = compute_metrics(labels, probabilities, ("a", "b"), resamples=20000)
    half = 1.96 * math.sqrt(0.7 * 0.3 / 3589)
    low, high = got.top1_interval
    assert low == pytest.approx(got.top1 - half, abs=1e-3)
    assert high == pytest.approx(got.top1 + half, abs=1e-3)
    assert compute_metrics(labels, probabilities, ("a", "b"), resamples=20000) == got
    assert (
        compute_metrics(labels, probabilities, ("a", "b"), resamples=20000, seed=1).top1_interval != got.top1_interval
    )


def test_results_survive_a_round_trip_through_json() -> None:
    got = compute_metrics(np.array([0, 1]), np.array([[0.6, 0.4], [0.7, 0.3]]), ("a", "b"), resamples=10)
    assert Metrics.model_validate_json(got.model_dump_json()) == got


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        ([], np.zeros((0, 2))),
        ([0], [[0.5, 0.3, 0.2]]),
        ([2], [[0.5, 0.5]]),
        ([-1], [[0.5, 0.5]]),
        ([0], [[0.5, 0.6]]),
        ([0], [[1.5, -0.5]]),
        ([0, 1], [[0.5, 0.5]]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(labels: list[int], probabilities: object) -> None:
    with pytest.raises(ValueError, match=r"need|must"):
        compute_metrics(np.array(labels, np.int64), np.asarray(probabilities, float), ("a", "b"))


def test_a_model_that_gives_nan_is_bad_input_not_a_score() -> None:
    with pytest.raises(BadInputError, match="1 of 2"):
        compute_metrics(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]), ("a", "b"))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auc_of_ties_counts_half(rows: list[tuple[bool, int]]) -> None:
    positive = np.array([p for p, _ in rows])
    scores = np.array([s for _, s in rows], float)
    expected = brute_auc(positive, scores) if 0 < positive.sum() < len(positive) else None
    assert one_vs_rest_auc(positive, scores) == (expected if expected is None else pytest.approx(expected))


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_equals_the_binomial_sum(lost: int, gained: int) -> None:
    n = lost + gained
    expected = 1.0
    if n:
        as_extreme = [k for k in range(n + 1) if abs(k - n / 2) >= abs(lost - n / 2)]
        expected = sum(math.comb(n, k) for k in as_extreme) / 2**n
    assert mcnemar_exact(lost, gained) == pytest.approx(expected)


def test_mcnemar_holds_for_thousands_of_discordant_pairs() -> None:
    # Normal approximation with continuity correction, good to three digits here.
    z = (abs(1450 - 1550) - 1) / math.sqrt(3000)
    assert mcnemar_exact(1450, 1550) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=2e-3)


def test_paired_drop_counts_pairs_not_totals() -> None:
    labels = np.zeros(1000, np.int64)
    before, after = labels.copy(), labels.copy()
    before[:40] = 1  # gained by the second model
    after[40:100] = 1  # lost by it
    drop, (low, high), p = paired_drop(labels, before, after, resamples=20000)
    assert drop == pytest.approx(2.0)
    # Variance of the mean of -1/0/+1 with 60 losses and 40 gains in 1000.
    half = 1.96 * 100 * math.sqrt((0.1 - 0.02**2) / 1000)
    assert (low, high) == (pytest.approx(2.0 - half, abs=0.15), pytest.approx(2.0 + half, abs=0.15))
    assert p == pytest.approx(mcnemar_exact(60, 40))
    assert paired_drop(labels, after, before).drop == pytest.approx(-2.0)


def test_equal_predictions_have_no_drop_and_a_width_that_so_few_pairs_leave() -> None:
    labels = np.array([0, 1, 2, 1])
    drop, (low, high), p = paired_drop(labels, labels, labels)
    assert (drop, p) == (0.0, 1.0)
    assert low == -high == pytest.approx(-60.2365, abs=1e-4)


def test_arrays_of_different_length_are_refused_by_paired_drop() -> None:
    with pytest.raises(ValueError, match="equal"):
        paired_drop(np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros(2, np.int64))


def test_a_class_is_harmed_only_beyond_the_limit_and_beyond_chance():
    names = ("rare", "common")
    labels = np.repeat([0, 1], [50, 1000])
    before = labels.copy()

    def lose(rare: int, common: int) -> np.ndarray:
        after = before.copy()
        after[:rare] = 1
        after[50 : 50 + common] = 0
        return after

    assert harmed_classes(labels, before, lose(1, 0), names, 0.5) == {}, "one face of 50 is two points, and chance"
    assert harmed_classes(labels, before, lose(6, 5), names, 0.5) == {}
    harmed = harmed_classes(labels, before, lose(12, 5), names, 0.5)
    assert list(harmed) == ["rare"]
    assert harmed["rare"].drop == pytest.approx(24.0)
    assert harmed_classes(labels, before, lose(12, 0), names, 25.0) == {}
    assert list(harmed_classes(labels, before, lose(0, 40), names, 0.5)) == ["common"]
    assert harmed_classes(labels[:50], before[:50], before[:50], names, 0.0) == {}, "a class without faces is left out"
