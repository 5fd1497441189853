"""A held-out part that does not move when files come and go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.data.samples import Samples
from edge_fer.data.split import holdout


def made_of(names: list[str]) -> Samples:
    pixels = np.zeros((1, 1), np.uint8)
    labels = np.arange(len(names), dtype=np.int64) % 2
    return Samples(tuple(names), labels, ("a", "b"), lambda i: pixels + np.uint8(i), "made by the test")


MANY = [f"happy/{i}.jpg" for i in range(4000)]


def test_every_sample_lands_on_exactly_one_side_with_its_own_label_and_pixels() -> None:
    samples = made_of(MANY[:200])
    rest, held = holdout(samples, 0.3, "salt")
    assert sorted(rest.ids + held.ids) == sorted(samples.ids)
    for part in (rest, held):
        for i, name in enumerate(part.ids):
            origin = samples.ids.index(name)
            assert part.labels[i] == samples.labels[origin]
            assert part.read(i)[0, 0] == origin


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9])
def test_the_held_out_share_is_the_fraction(fraction: float) -> None:
    _, held = holdout(made_of(MANY), fraction, "salt")
    # Four standard deviations of a binomial.
    assert abs(len(held) / len(MANY) - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / len(MANY))


def test_a_larger_fraction_keeps_what_a_smaller_one_held_out() -> None:
    _, small = holdout(made_of(MANY), 0.1, "salt")
    _, large = holdout(made_of(MANY), 0.2, "salt")
    assert set(small.ids) < set(large.ids)


@given(st.sets(st.integers(0, 3999), min_size=100))
def test_removing_files_moves_no_other_across(kept: set[int]) -> None:
    _, held_of_all = holdout(made_of(MANY), 0.3, "salt")
    some = [MANY[i] for i in sorted(kept)]
    _, held = holdout(made_of(some), 0.3, "salt")
    assert set(held.ids) == set(held_of_all.ids) & set(some)


def test_the_split_is_pinned_across_versions() -> None:
    """A change of the hash would move faces that a released model was trained on into its own test set."""
    _, held = holdout(made_of([f"Training_{i}.jpg" for i in range(40)]), 0.2, "edge-fer")
    assert held.ids == tuple(f"Training_{i}.jpg" for i in (3, 5, 8, 12, 19, 22, 23, 31, 34, 36, 38))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
def test_a_fraction_that_empties_one_side_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        holdout(made_of(MANY), fraction, "salt")
