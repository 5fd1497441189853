"""Calibrators against brute force: plain loops over the definition, on random histograms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_fer.compile import calibrators
from edge_fer.compile.calibrate import magnitude_histogram
from edge_fer.compile.calibrators import BINS, CALIBRATORS, TensorStats, entropy, mse, percentile, threshold

SMALL_BINS = 64


def stats(histogram, peak: float = 6.4, peaks=None) -> TensorStats:
    return TensorStats(-0.1 * peak, peak, tuple(peaks or (peak,)), np.asarray(histogram, np.int64))


histograms = st.lists(st.integers(0, 1000), min_size=SMALL_BINS, max_size=SMALL_BINS).filter(lambda h: sum(h) > 0)


def brute_force_entropy(histogram: list[int], levels: int) -> int:
    """The number of bins to keep, by the definition: one bin, one level, one term at a time."""
    counts = [float(c) for c in histogram]
    counts[0] = min(counts[0], counts[1])
    best, best_divergence = len(counts), math.inf
    for i in range(levels + 1, len(counts) + 1):
        reference = counts[:i]
        reference[-1] += sum(counts[i:])
        level_of = [k * levels // i for k in range(i)]
        quantised = [0.0] * i
        for level in range(levels):
            members = [k for k in range(i) if level_of[k] == level]
            filled = [k for k in members if counts[k] > 0]
            for k in filled:
                quantised[k] = sum(counts[m] for m in members) / len(filled)
        if sum(quantised) == 0:
            continue
        eps = 1e-6
        divergence = 0.0
        for p, q in zip(reference, quantised, strict=True):
            if p > 0:
                share = p / sum(reference)
                divergence += share * math.log(share / ((q / sum(quantised) + eps) / (1 + eps * i)))
        if divergence < best_divergence - 1e-12:
            best, best_divergence = i, divergence
    return best


def entropy_divergence_at(histogram: list[int], levels: int, i: int) -> float:
    counts = np.asarray(histogram, float).copy()
    counts[0] = min(counts[0], counts[1])
    reference = counts[:i].copy()
    reference[-1] += counts[i:].sum()
    quantised = np.zeros(i)
    for level in range(levels):
        members = [k for k in range(i) if k * levels // i == level]
        filled = [k for k in members if counts[k] > 0]
        for k in filled:
            quantised[k] = counts[members].sum() / len(filled)
    return calibrators._divergence(reference, quantised)


@settings(max_examples=40, deadline=None)
@given(histograms, st.sampled_from([7, 15, 16]))
def test_entropy_finds_the_threshold_that_brute_force_finds(histogram, levels):
    found = round(entropy(stats(histogram), levels) / (6.4 / SMALL_BINS))
    expected = brute_force_entropy(histogram, levels)
    if found != expected:  # ties may fall either way, the divergence may not
        assert entropy_divergence_at(histogram, levels, found) == pytest.approx(
            entropy_divergence_at(histogram, levels, expected), abs=1e-9
        )


@settings(max_examples=40, deadline=None)
@given(histograms, st.sampled_from([7, 15, 16]))
def test_mse_has_the_least_error_of_all_candidates(histogram, levels):
    width = 6.4 / SMALL_BINS

    def error(i: int) -> float:
        scale = i * width / levels
        total = 0.0
        for k, count in enumerate(histogram):
            centre = (k + 0.5) * width
            total += count * (centre - min(round(centre / scale), levels) * scale) ** 2
        return total

    found = round(mse(stats(histogram), levels) / width)
    assert levels < found <= SMALL_BINS
    assert error(found) <= min(error(i) for i in range(levels + 1, SMALL_BINS + 1)) * (1 + 1e-9) + 1e-12


@given(histograms)
def test_percentile_leaves_at_most_its_share_above(histogram):
    value = percentile(stats(histogram), 255)
    edge = round(value / (6.4 / SMALL_BINS))
    total = sum(histogram)
    allowed = total * (1 - calibrators.PERCENTILE / 100)
    assert sum(histogram[edge:]) <= allowed + 1e-6
    assert sum(histogram[edge - 1 :]) > allowed - 1e-6


def test_moving_average_follows_the_batches_and_minmax_does_not():
    steady = stats([1] * SMALL_BINS, peak=10.0, peaks=[1.0] * 50 + [10.0])
    assert CALIBRATORS["minmax"](steady, 255) == 10.0
    assert CALIBRATORS["moving-average"](steady, 255) == pytest.approx(1.0 + 0.05 * 9.0)


@pytest.mark.parametrize("method", sorted(CALIBRATORS))
@pytest.mark.parametrize("never_negative", [True, False])
def test_no_method_represents_more_than_was_seen_or_nothing(method, never_negative):
    rng = np.random.default_rng(3)
    values = np.abs(rng.standard_t(3, 20_000)).astype(np.float32)
    peak = float(values.max())
    seen = TensorStats(0.0, peak, (peak,), magnitude_histogram(values, peak))
    chosen = threshold(seen, method, never_negative=never_negative)
    assert 0 < chosen <= peak * (1 + 1e-6)
    if method in ("entropy", "mse", "percentile"):
        assert chosen < peak, "a heavy tail must be clipped"


@pytest.mark.parametrize("method", sorted(CALIBRATORS))
def test_a_tensor_that_is_always_zero_has_an_empty_range(method):
    histogram = np.zeros(BINS, np.int64)
    histogram[0] = 1000
    assert threshold(TensorStats(0.0, 0.0, (0.0,), histogram), method, never_negative=True) == 0.0


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=300))
def test_a_histogram_counts_every_value_once(values):
    array = np.asarray(values, np.float32)
    peak = float(np.abs(array).max())
    counts = magnitude_histogram(array, peak)
    assert counts.shape == (BINS,)
    assert counts.sum() == len(values)
    if peak > 1e-30:
        assert counts[-1] >= 1, "the largest value belongs to the last bin"
