"""Times of the loop's stages in fixed memory."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

CAPACITY = 4096
BUCKETS_MS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 16.7, 25.0, 33.3, 50.0, 100.0, 250.0, 500.0, 1000.0)
"""Upper bounds of the histogram: decades and halves, and the lengths of a frame at 60, 40 and 30 a second."""


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds; ``count`` is of all values ever seen."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    maximum: float


class Reservoir:
    """A uniform sample of a stream of times (Vitter's algorithm R), so that a day's run needs no more memory than a
    minute's. Percentiles are exact until 4,096 values, estimates from a uniform sample of them after.

    ``buckets[i]`` counts, exactly, the values above ``BUCKETS_MS[i - 1]`` and up to ``BUCKETS_MS[i]``; the last one all
    that are longer.
    """

    def __init__(self, seed: int = 0) -> None:
        self._values = np.empty(CAPACITY, np.float64)
        self._random = np.random.default_rng(seed)
        self.buckets = [0] * (len(BUCKETS_MS) + 1)
        self.count = 0
        self.total_ms = 0.0
        self._maximum = 0.0

    def add(self, value_ms: float) -> None:
        if self.count < CAPACITY:
            self._values[self.count] = value_ms
        else:
            place = int(self._random.integers(self.count + 1))
            if place < CAPACITY:
                self._values[place] = value_ms
        self.count += 1
        self.total_ms += value_ms
        self.buckets[bisect_left(BUCKETS_MS, value_ms)] += 1
        self._maximum = max(self._maximum, value_ms)

    def percentiles(self) -> Percentiles | None:
        """``None`` when nothing was measured."""
        if not self.count:
            return None
        p50, p90, p99 = np.percentile(self._values[: min(self.count, CAPACITY)], [50, 90, 99])
        return Percentiles(self.count, self.total_ms / self.count, float(p50), float(p90), float(p99), self._maximum)


class Average:
    """An exponential moving average of seconds; 0 before the first value."""

    def __init__(self, weight: float = 0.2) -> None:
        self._weight = weight
        self.value = 0.0

    def add(self, value_s: float) -> None:
        self.value += (self._weight if self.value else 1.0) * (value_s - self.value)
