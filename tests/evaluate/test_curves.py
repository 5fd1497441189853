"""Precision against recall, by its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.evaluate.curves import POINTS, precision_recall


def brute(positive: list[bool], scores: list[int]) -> tuple[list[tuple[float, float]], float]:
    """(recall, precision) at every distinct threshold, strictest first, and the area."""
    points, area, before = [], 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [p for p, s in zip(positive, scores, strict=True) if s >= threshold]
        recall, precision = sum(taken) / sum(positive), sum(taken) / len(taken)
        area += (recall - before) * precision
        before = recall
        points.append((recall, precision))
    return points, area


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=60))
def test_the_curve_and_its_area_equal_their_definition(rows: list[tuple[bool, int]]) -> None:
    positive, scores = [p for p, _ in rows], [s for _, s in rows]
    got = precision_recall(np.array(positive), np.array(scores, float))
    if not any(positive):
        assert got is None
        return
    points, area = brute(positive, scores)
    assert got is not None
    assert got.average_precision == pytest.approx(area)
    kept = list(zip(got.recall, got.precision, strict=True))
    wanted = [p for p, before in zip(points, [(0.0, 0.0), *points[:-1]], strict=True) if p[0] > before[0]]
    for point in wanted:
        assert any(point == pytest.approx(one) for one in kept), "a place where recall grows is missing"
    for point in kept:
        assert any(point == pytest.approx(one) for one in points), "a point that the curve does not have"
    assert got.recall[-1] == 1.0


def test_a_long_curve_is_thinned_and_its_area_is_not() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(5000) < 0.3
    scores = rng.random(5000) + positive
    got = precision_recall(positive, scores)
    assert got is not None
    assert len(got.recall) <= POINTS
    assert got.average_precision == pytest.approx(brute(positive.tolist(), scores.tolist())[1])
    assert list(got.recall) == sorted(got.recall)
    assert list(got.threshold) == sorted(got.threshold, reverse=True)


def test_agrees_with_scikit_learn() -> None:
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(1)
    positive, scores = rng.random(400) < 0.2, rng.integers(0, 30, 400) / 30
    got = precision_recall(positive, scores)
    assert got is not None
    assert got.average_precision == pytest.approx(sk.average_precision_score(positive, scores))
