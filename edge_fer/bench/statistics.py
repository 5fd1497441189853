"""Ratios of latencies with intervals: what survives when a machine drifts, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEAST_ROUNDS = 6
"""Of fewer, the bootstrap gives back the smallest and the largest of them: it cannot draw what was not measured. That
range holds the true median in at most ``1 - 2 ** (1 - rounds)`` of cases, the level of the sign test's interval."""
UNPAIRED_LEVELS = {2: 65, 3: 90, 4: 93}
"""In how many per cent of cases the interval of :func:`unpaired_ratio` holds the true ratio when the shorter run has so
many rounds; of five and more, in 95 and over. Simulated with equally long runs of five distributions (normal, uniform,
skewed, heavy-tailed), which differ by two per cent at most; a longer second run only adds to it."""
LEVEL = (2.5, 97.5)
Interval = tuple[float, float]


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, Interval | None]:
    """Median over rounds of the ratio within each round, with a 95 % percentile bootstrap over rounds; of fewer than
    :data:`LEAST_ROUNDS`, their range.

    A round's two medians were taken within minutes of each other, so a machine that is slower in one round than in the
    next changes both and leaves the ratio alone. Rounds, not calls, are resampled: calls of one process are no
    independent evidence, because memory layout and clock stay the same in it.

    Args:
        above, below: medians of the same rounds, in the same unit; the longer one is cut to the shorter.

    Returns:
        the ratio, and its interval, ``None`` with fewer than two rounds.

    Raises:
        ValueError: no round in common.
    """
    count = min(len(above), len(below))
    if count == 0:
        raise ValueError("no round in common")
    ratios = np.asarray(above[:count], np.float64) / np.asarray(below[:count], np.float64)
    value = float(np.median(ratios))
    if count < 2:
        return value, None
    picks = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    return value, _interval(np.median(ratios[picks], axis=1))


def unpaired_ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, Interval | None]:
    """Ratio of the medians of two runs' rounds, which were not taken together; each run's rounds are resampled apart.

    The interval is a 95 % one from five rounds on, and one of :data:`UNPAIRED_LEVELS` below. It knows how rounds of a
    run differ, not how a machine differs from one run to the next.

    Returns:
        the ratio, and its interval, ``None`` when either run has fewer than two rounds.

    Raises:
        ValueError: a run without rounds.
    """
    if not above or not below:
        raise ValueError("a run without rounds")
    one, other = np.asarray(above, np.float64), np.asarray(below, np.float64)
    value = float(np.median(one) / np.median(other))
    if min(len(one), len(other)) < 2:
        return value, None
    random = np.random.default_rng(0)
    medians = [np.median(v[random.integers(len(v), size=(RESAMPLES, len(v)))], axis=1) for v in (one, other)]
    return value, _interval(medians[0] / medians[1])


def interval_words(rounds: int) -> str:
    """What the interval of :func:`paired_ratio` over so many rounds is, to follow "medians of the same round"."""
    if rounds < 2:
        return ""
    if rounds >= LEAST_ROUNDS:
        return ", with their 95 % bootstrap interval over rounds"
    level = 1 - 2.0 ** (1 - rounds)
    return f", with their range over {rounds} rounds, a {100 * level:.0f} % interval (95 % takes {LEAST_ROUNDS} rounds)"


def unpaired_words(rounds: int) -> str:
    """What the interval of :func:`unpaired_ratio` is when the shorter run has so many rounds, as an object."""
    if rounds < 2:
        return ""
    if (level := UNPAIRED_LEVELS.get(rounds)) is None:
        return "a 95 % bootstrap interval over the rounds of both"
    return (
        f"a bootstrap interval over the rounds of both, which with {rounds} of them holds the true ratio in about "
        f"{level} % of cases, not 95 (that takes {max(UNPAIRED_LEVELS) + 1})"
    )


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, LEVEL)
    return float(low), float(high)
