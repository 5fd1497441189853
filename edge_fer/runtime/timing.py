"""Times of the loop's stages in fixed memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CAPACITY = 4096


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
    minute's. Percentiles are exact until 4,096 values, estimates from a uniform sample of them after."""

    def __init__(self, seed: int = 0) -> None:
        self._values = np.empty(CAPACITY, np.float64)
        self._random = np.random.default_rng(seed)
        self.count = 0
        self._sum = 0.0
        self._maximum = 0.0

    def add(self, value_ms: float) -> None:
        if self.count < CAPACITY:
            self._values[self.count] = value_ms
        else:
            place = int(self._random.integers(self.count + 1))
            if place < CAPACITY:
                self._values[place] = value_ms
        self.count += 1
        self._sum += value_ms
        self._maximum = max(self._maximum, value_ms)

    def percentiles(self) -> Percentiles | None:
        """``None`` when nothing was measured."""
        if not self.count:
            return None
        p50, p90, p99 = np.percentile(self._values[: min(self.count, CAPACITY)], [50, 90, 99])
        return Percentiles(self.count, self._sum / self.count, float(p50), float(p90), float(p99), self._maximum)
