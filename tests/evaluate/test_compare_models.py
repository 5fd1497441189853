"""Several models on the same faces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.evaluate.compare import compare, holm
from edge_fer.evaluate.metrics import mcnemar_exact
from edge_fer.evaluate.score import score


def scores_of(predictions: np.ndarray, classes: int = 3) -> np.ndarray:
    return 0.7 * np.eye(classes)[predictions] + 0.1


def test_every_model_is_set_against_the_first() -> None:
    labels = np.arange(600) % 3
    base, better, same = labels.copy(), labels.copy(), labels.copy()
    base[:150] = (base[:150] + 1) % 3
    better[100:150] = (better[100:150] + 1) % 3
    same[150:300] = (same[150:300] + 1) % 3
    first, second = compare(labels, {"base": scores_of(base), "better": scores_of(better), "same": scores_of(same)})
    assert (first.model, first.reference, first.gained, first.lost) == ("better", "base", 100, 0)
    assert first.top1.gain == pytest.approx(100 / 600)
    assert first.top1.interval[0] > 0
    assert first.mcnemar_p == mcnemar_exact(0, 100)
    assert first.verdict == "better"
    assert first.others["macro_f1"].gain > 0.1
    assert (second.gained, second.lost, second.verdict) == (150, 150, "not told apart")
    assert second.top1.interval[0] < 0 < second.top1.interval[1]
    (worse,) = compare(labels, {"better": scores_of(better), "base": scores_of(base)})
    assert worse.verdict == "worse"
    assert worse.top1.gain == -first.top1.gain


def test_a_model_against_itself_differs_by_nothing() -> None:
    labels = np.arange(30) % 3
    (same,) = compare(labels, {"a": scores_of(labels), "b": scores_of(labels)})
    assert str(same.top1.gain) == "0.0"
    assert same.mcnemar_p == 1.0
    assert all(d.gain == 0 and d.interval == (0, 0) for d in same.others.values())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_by_its_definition(p_values: list[float]) -> None:
    got = holm(p_values)
    for i, p in enumerate(p_values):
        # Among equal ones, the earlier counts as the smaller.
        ranked = [(q, j) for j, q in enumerate(p_values)]
        no_larger = [pair for pair in ranked if pair <= (p, i)]
        expected = max((len(p_values) - sum(o < pair for o in ranked)) * pair[0] for pair in no_larger)
        assert got[i] == pytest.approx(min(1.0, expected))


def test_a_chance_find_among_many_models_is_no_find() -> None:
    labels = np.zeros(200, np.int64)
    base = labels.copy()
    base[:10] = 1
    lucky = labels.copy()
    lucky[10:12] = 1  # ten gained, two lost: p = 0.039 alone
    (alone,) = compare(labels, {"base": scores_of(base), "lucky": scores_of(lucky)})
    assert alone.verdict == "better"
    many = compare(labels, {"base": scores_of(base), "lucky": scores_of(lucky), "c": scores_of(base)})
    assert many[0].verdict == "not told apart"


def test_leaked_samples_are_taken_out_of_the_figures() -> None:
    labels = np.arange(90) % 3
    predictions = labels.copy()
    predictions[45:75] = (predictions[45:75] + 1) % 3
    leaked = np.zeros(90, bool)
    leaked[:30] = True
    got = score(labels, scores_of(predictions), ("a", "b", "c"), leaked=leaked)
    assert got.metrics.top1 == pytest.approx(60 / 90)
    assert got.deduplicated is not None
    assert got.deduplicated.removed == 30
    assert got.deduplicated.leaked_top1 == 1.0
    assert got.deduplicated.metrics.n == 60
    assert got.deduplicated.metrics.top1 == pytest.approx(30 / 60)
    assert score(labels, scores_of(predictions), ("a", "b", "c")).deduplicated is None
    assert set(got.curves) == {"a", "b", "c"}
    assert got.metrics.intervals["top1"] == got.metrics.top1_interval
