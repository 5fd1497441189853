"""Ratios and their intervals: what a drifting machine must not change, and what one round cannot tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_fer.bench.statistics import LEAST_ROUNDS, interval_words, paired_ratio, unpaired_ratio, unpaired_words

times = st.lists(st.floats(min_value=0.01, max_value=1e4), min_size=2, max_size=9)


@settings(deadline=None)
@given(times, st.floats(min_value=0.1, max_value=50))
def test_a_machine_that_drifts_alike_for_both_leaves_the_ratio_alone(rounds: list[float], factor: float) -> None:
    value, interval = paired_ratio([factor * one for one in rounds], rounds)
    assert value == pytest.approx(factor)
    assert interval == (pytest.approx(factor), pytest.approx(factor))


@settings(deadline=None)
@given(times, times)
def test_intervals_hold_their_ratio_and_lie_within_what_was_seen(one: list[float], other: list[float]) -> None:
    value, interval = paired_ratio(one, other)
    ratios = [a / b for a, b in zip(one, other, strict=False)]
    assert interval is not None
    assert min(ratios) * (1 - 1e-9) <= interval[0] <= interval[1] <= max(ratios) * (1 + 1e-9)
    assert interval[0] <= value * (1 + 1e-9)
    value, interval = unpaired_ratio(one, other)
    assert interval is not None
    assert interval[0] * (1 - 1e-9) <= value <= interval[1] * (1 + 1e-9)


def test_one_round_has_no_interval_and_none_has_no_ratio() -> None:
    assert paired_ratio([4.0], [2.0]) == (2.0, None)
    assert unpaired_ratio([4.0], [2.0, 2.0]) == (2.0, None)
    with pytest.raises(ValueError, match="no round"):
        paired_ratio([], [1.0])
    with pytest.raises(ValueError, match="without rounds"):
        unpaired_ratio([], [1.0])


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Twenty rounds of two noisy runs whose true ratio is 2: 95 % means neither always nor half of the time."""
    random = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        slow, fast = (base * random.lognormal(0, 0.05, 20) for base in (2.0, 1.0))
        _, interval = paired_ratio(slow, fast)
        assert interval is not None
        hits += interval[0] <= 2.0 <= interval[1]
    assert 0.88 <= hits / 200 <= 1.0


@pytest.mark.parametrize(("rounds", "level"), [(2, 50), (3, 75), (4, 88), (5, 94)])
def test_few_rounds_give_their_range_which_is_not_called_95_percent(rounds: int, level: int) -> None:
    random = np.random.default_rng(rounds)
    hits = 0
    for _ in range(400):
        slow, fast = (base * random.lognormal(0, 0.05, rounds) for base in (2.0, 1.0))
        _, interval = paired_ratio(slow, fast)
        assert interval == (pytest.approx((slow / fast).min()), pytest.approx((slow / fast).max()))
        hits += interval[0] <= 2.0 <= interval[1]
    assert hits / 4 == pytest.approx(level, abs=7)
    assert f"range over {rounds} rounds, a {level} % interval" in interval_words(rounds)
    assert interval_words(LEAST_ROUNDS) == ", with their 95 % bootstrap interval over rounds"
    assert interval_words(1) == ""


@pytest.mark.parametrize(("rounds", "level"), [(2, 65), (3, 90), (4, 93), (5, 96)])
def test_intervals_of_two_runs_hold_the_truth_as_often_as_is_said(rounds: int, level: int) -> None:
    random = np.random.default_rng(rounds)
    hits = 0
    for _ in range(400):
        slow, fast = (list(base * random.lognormal(0, 0.05, rounds)) for base in (2.0, 1.0))
        _, interval = unpaired_ratio(slow, fast)
        assert interval is not None
        hits += interval[0] <= 2.0 <= interval[1]
    assert hits / 4 == pytest.approx(level, abs=6)
    assert (f"about {level} % of cases" in unpaired_words(rounds)) == (rounds < 5)
