"""Percentiles are exact while they can be and bounded in memory for ever."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.runtime.timing import CAPACITY, Reservoir


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=300))
def test_few_values_give_exact_percentiles(values: list[float]) -> None:
    reservoir = Reservoir()
    for value in values:
        reservoir.add(value)
    found = reservoir.percentiles()
    assert found is not None
    np.testing.assert_allclose([found.p50, found.p90, found.p99], np.percentile(values, [50, 90, 99]))
    assert found.maximum == max(values)
    assert found.count == len(values)


def test_many_values_are_sampled_uniformly() -> None:
    reservoir = Reservoir()
    total = 20 * CAPACITY
    for value in range(total):
        reservoir.add(float(value))
    found = reservoir.percentiles()
    assert found is not None
    assert abs(found.p50 / total - 0.5) < 0.03
    assert abs(found.p90 / total - 0.9) < 0.02
    assert found.maximum == total - 1
    assert found.mean == (total - 1) / 2


def test_nothing_measured_is_nothing() -> None:
    assert Reservoir().percentiles() is None
