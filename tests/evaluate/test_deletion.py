"""The check finds out maps that tell where a network looks, and maps that do not."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import Corner, contract

from edge_fer.evaluate.deletion import ENOUGH, FRACTIONS, deleted, deletion_check, hottest_first
from edge_fer.evaluate.grad_cam import Explainer


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(Corner(), contract())


def bright(n: int, *, at: tuple[slice, slice] = (slice(0, 4), slice(0, 4))) -> np.ndarray:
    """Pictures that are bright in one quarter, with some noise."""
    rng = np.random.default_rng(0)
    inputs = rng.uniform(0, 0.1, (n, 1, 8, 8)).astype(np.float32)
    inputs[:, 0, at[0], at[1]] += 0.8
    return inputs


def heat_at(n: int, rows: slice, columns: slice) -> np.ndarray:
    heat = np.zeros((n, 8, 8), np.float32)
    heat[:, rows, columns] = 1.0
    return heat


def test_a_map_of_what_counts_holds(explainer: Explainer) -> None:
    inputs = bright(4)
    check = deletion_check(
        explainer.scores, inputs, heat_at(4, slice(0, 4), slice(0, 4)), np.zeros(4, np.int64), places=6
    )
    assert check is not None
    assert check.holds
    assert check.elsewhere.interval[0] > 0
    assert check.interval_over == "places"
    assert check.others is None, "too few faces to compare with each other"
    assert check.sentence().startswith("Holds: ")
    assert check.curve[0] == pytest.approx(check.elsewhere.curve[0]), "nothing is deleted yet"
    assert check.curve[-1] == pytest.approx(check.elsewhere.curve[-1]), "everything is deleted, in whatever order"
    assert check.curve == tuple(sorted(check.curve, reverse=True))


def test_a_map_of_something_else_fails_and_says_so(explainer: Explainer) -> None:
    inputs = bright(4)
    check = deletion_check(
        explainer.scores, inputs, heat_at(4, slice(4, 8), slice(4, 8)), np.zeros(4, np.int64), places=6
    )
    assert check is not None
    assert not check.holds
    assert check.elsewhere.gain < 0
    assert check.sentence().startswith("DOES NOT HOLD: ")


def test_a_map_that_is_the_same_for_all_holds_in_part_only(explainer: Explainer) -> None:
    """It marks what counts, as a map of the middle of faces would, and nothing that is particular to a face."""
    n = ENOUGH + 4
    check = deletion_check(explainer.scores, bright(n), heat_at(n, slice(0, 4), slice(0, 4)), np.zeros(n, np.int64))
    assert check is not None
    assert check.interval_over == "faces"
    assert check.elsewhere.holds
    assert check.others is not None
    assert not check.others.holds
    assert not check.holds
    assert check.sentence().startswith("HOLDS IN PART: ")


def test_rows_without_heat_are_counted_and_left_out(explainer: Explainer) -> None:
    heat = heat_at(3, slice(0, 4), slice(0, 4))
    heat[1] = 0
    check = deletion_check(explainer.scores, bright(3), heat, np.zeros(3, np.int64))
    assert check is not None
    assert (check.faces, check.without_heat) == (2, 1)
    assert deletion_check(explainer.scores, bright(3), heat * 0, np.zeros(3, np.int64)) is None


def test_the_same_seed_gives_the_same_check(explainer: Explainer) -> None:
    heat = heat_at(3, slice(0, 4), slice(0, 4))
    one, two, other = (
        deletion_check(explainer.scores, bright(3), heat, np.zeros(3, np.int64), seed=seed) for seed in (1, 1, 2)
    )
    assert one == two
    assert one != other


def test_the_hottest_pixels_go_first_and_become_the_mean() -> None:
    rng = np.random.default_rng(0)
    picture = rng.normal(size=(3, 4, 5)).astype(np.float32)
    heat = rng.permutation(20).reshape(4, 5).astype(np.float32)
    order = hottest_first(heat, rng)
    for fraction in FRACTIONS:
        got = deleted(picture, order, fraction)
        gone = heat >= 20 - round(20 * fraction)
        np.testing.assert_array_equal(got[:, ~gone], picture[:, ~gone])
        mean = np.repeat(picture.mean(axis=(1, 2))[:, None], gone.sum(), axis=1)
        np.testing.assert_allclose(got[:, gone], mean, rtol=1e-6)


def test_ties_fall_by_lot() -> None:
    flat = np.zeros((6, 6), np.float32)
    orders = {tuple(hottest_first(flat, np.random.default_rng(seed))) for seed in range(5)}
    assert len(orders) == 5
