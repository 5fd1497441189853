"""From what was seen of a tensor to the range that is worth representing.

A threshold below the largest value clips outliers and buys resolution for everything else; the calibrators differ in
how they weigh the two. All work on one histogram of magnitudes, so that dialects and methods see the same data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 2048
PERCENTILE = 99.99
MOVING_AVERAGE = 0.05
"""Weight of the newest batch in the moving-average calibrator."""
_SMOOTHING = 1e-6


@dataclass(frozen=True)
class TensorStats:
    """What calibration saw of one tensor.

    Attributes:
        minimum, maximum: over all samples.
        batch_peaks: largest magnitude of each batch, in order.
        histogram: int64 (BINS,), counts of ``|x|`` in equal bins over ``[0, peak]``.
    """

    minimum: float
    maximum: float
    batch_peaks: tuple[float, ...]
    histogram: NDArray[np.int64]

    @property
    def peak(self) -> float:
        return max(abs(self.minimum), abs(self.maximum))

    @property
    def bin_width(self) -> float:
        return self.peak / len(self.histogram)


def minmax(stats: TensorStats, levels: int) -> float:
    """The largest magnitude seen: clips nothing."""
    return stats.peak


def moving_average(stats: TensorStats, levels: int) -> float:
    """Exponential moving average of the batches' largest magnitudes (Jacob et al. 2018, section 3.1)."""
    value = stats.batch_peaks[0]
    for peak in stats.batch_peaks[1:]:
        value += MOVING_AVERAGE * (peak - value)
    return value


def percentile(stats: TensorStats, levels: int) -> float:
    """The smallest bin edge that :data:`PERCENTILE` percent of all magnitudes lie below."""
    cumulative = np.cumsum(stats.histogram)
    wanted = cumulative[-1] * (PERCENTILE / 100)
    return float((int(np.searchsorted(cumulative, wanted)) + 1) * stats.bin_width)


def entropy(stats: TensorStats, levels: int) -> float:
    """The threshold whose quantised distribution loses the least information.

    After Migacz, "8-bit Inference with TensorRT", 2017. Candidates are all bin edges above ``levels`` bins. Unlike
    common implementations, whose last level swallows the remainder of an uneven division, bin ``k`` of ``i`` goes to
    level ``k * levels // i``. The first bin counts no more than the second: the many exact zeros behind a ReLU are
    represented exactly at any scale, and would only dilute what clipping costs.
    """
    counts = stats.histogram.astype(np.float64)
    counts[0] = min(counts[0], counts[1])
    occupied = counts > 0
    tail = np.concatenate([np.cumsum(counts[::-1])[::-1], [0.0]])
    best, best_divergence = len(counts), np.inf
    for i in range(levels + 1, len(counts) + 1):
        reference = counts[:i].copy()
        reference[-1] += tail[i]
        starts = -(-np.arange(levels) * i // levels)
        sums = np.add.reduceat(counts[:i], starts)
        filled = np.add.reduceat(occupied[:i].astype(np.float64), starts)
        means = np.divide(sums, filled, out=np.zeros(levels), where=filled > 0)
        quantised = np.where(occupied[:i], means[np.arange(i) * levels // i], 0.0)
        divergence = _divergence(reference, quantised)
        if divergence < best_divergence:
            best, best_divergence = i, divergence
    return best * stats.bin_width


def _divergence(reference: NDArray[np.float64], quantised: NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence in nats; the second distribution is smoothed so that it stays finite."""
    if not quantised.any():
        return float(np.inf)
    p = reference / reference.sum()
    q = (quantised / quantised.sum() + _SMOOTHING) / (1 + _SMOOTHING * len(quantised))
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / q[seen])))


def mse(stats: TensorStats, levels: int) -> float:
    """The threshold with the least mean squared error of rounding and clipping, over the same candidates as entropy."""
    counts = stats.histogram.astype(np.float64)
    centres = (np.arange(len(counts)) + 0.5) * stats.bin_width
    best, best_error = len(counts), np.inf
    for i in range(levels + 1, len(counts) + 1):
        scale = i * stats.bin_width / levels
        restored = np.minimum(np.rint(centres / scale), levels) * scale
        error = float(np.dot(counts, (centres - restored) ** 2))
        if error < best_error:
            best, best_error = i, error
    return best * stats.bin_width


CALIBRATORS: dict[str, Callable[[TensorStats, int], float]] = {
    "minmax": minmax,
    "moving-average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def threshold(stats: TensorStats, method: str, *, never_negative: bool) -> float:
    """The range of a tensor by a named method: 255 levels where it is never negative, 127 on each side elsewhere."""
    if stats.peak == 0:
        return 0.0
    return CALIBRATORS[method](stats, 255 if never_negative else 127)
