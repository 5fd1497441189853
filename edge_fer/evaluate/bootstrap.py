"""How far every figure would move with other faces of the same kind: the bootstrap over samples, for all at once.

Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979. A resample is a weight per sample (how often it was
drawn), so that every figure is a weighted sum and a thousand resamples are a few products of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_fer.evaluate.metrics import CALIBRATION_BINS, among_best, calibration_bin

RESAMPLES = 1000
CELLS = 4_000_000
"""Weights that are held at a time: resamples x samples."""
LEVEL = (0.025, 0.975)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Resampled:
    """Figures of every resample; NaN where one is not defined because a class was not drawn.

    Attributes:
        overall: name -> (resamples,), the names being those of the fields of ``Metrics``.
        per_class: name -> (resamples, classes).
    """

    overall: dict[str, Array]
    per_class: dict[str, Array]

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % percentile interval of each overall figure that is defined at all."""
        return {name: found for name, values in self.overall.items() if (found := interval(values)) is not None}

    def class_intervals(self, index: int) -> dict[str, tuple[float, float]]:
        """The same of one class's figures."""
        return {
            name: found for name, values in self.per_class.items() if (found := interval(values[:, index])) is not None
        }


def interval(values: Array) -> tuple[float, float] | None:
    """95 % percentile interval; ``None`` when nothing is defined."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, LEVEL)
    return float(low), float(high)


def resample(
    labels: NDArray[np.int64], scores: NDArray[np.floating], *, seed: int = 0, resamples: int = RESAMPLES
) -> Resampled:
    """Draw as many samples with replacement as there are, again and again.

    The same ``seed`` and number of samples give the same draws, so that two models' figures can be subtracted.

    Args:
        labels: int64 (n,), indices of classes.
        scores: float (n, classes), rows that sum to 1.
    """
    statistics = _Statistics(np.asarray(labels), np.asarray(scores, np.float64))
    n, rng = len(labels), np.random.default_rng(seed)
    step = max(1, CELLS // n)
    parts = []
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)
        parts.append(statistics.of(weights))
    return Resampled(
        {name: np.concatenate([overall[name] for overall, _ in parts]) for name in parts[0][0]},
        {name: np.concatenate([single[name] for _, single in parts]) for name in parts[0][1]},
    )


class _Statistics:
    """What does not change from resample to resample."""

    def __init__(self, labels: NDArray[np.int64], scores: Array) -> None:
        n, self._classes = scores.shape
        rows = np.arange(n)
        predictions = scores.argmax(axis=1)
        self._cells = np.zeros((n, self._classes**2))
        self._cells[rows, labels * self._classes + predictions] = 1
        self._among_three = among_best(labels, scores, 3).astype(np.float64)
        confidence = scores.max(axis=1)
        # Summed with weights, a bin's excess of accuracy over confidence times its count.
        self._excess = np.zeros((n, CALIBRATION_BINS))
        self._excess[rows, calibration_bin(confidence)] = (predictions == labels) - confidence
        self._ranked = [_Ranked(labels == k, scores[:, k]) for k in range(self._classes)]

    def of(self, weights: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Overall and per-class figures of weights (resamples, n)."""
        n = weights.shape[1]
        confusion = (weights @ self._cells).reshape(-1, self._classes, self._classes)
        hits = np.diagonal(confusion, axis1=1, axis2=2)
        support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
        precision, recall = _ratio(hits, predicted), _ratio(hits, support)
        f1 = _ratio(2 * hits, support + predicted)
        occurs = (support + predicted) > 0
        curves = [ranked.areas(weights) for ranked in self._ranked]
        auc, average = (np.stack([pair[k] for pair in curves], axis=1) for k in range(2))
        overall = {
            "top1": hits.sum(axis=1) / n,
            "top3": weights @ self._among_three / n,
            "macro_precision": _mean_where(precision, occurs),
            "macro_recall": _mean_where(recall, occurs),
            "macro_f1": _mean_where(f1, occurs),
            "weighted_precision": (precision * support).sum(axis=1) / n,
            "weighted_recall": (recall * support).sum(axis=1) / n,
            "weighted_f1": (f1 * support).sum(axis=1) / n,
            "balanced_accuracy": _mean_where(recall, support > 0),
            "macro_auc": _mean_where(auc, ~np.isnan(auc)),
            "mean_average_precision": _mean_where(average, ~np.isnan(average)),
            "ece": np.abs(weights @ self._excess).sum(axis=1) / n,
        }
        absent = support == 0
        recall_if_any = np.where(absent, np.nan, recall)
        return overall, {
            "precision": precision,
            "recall": recall_if_any,
            "f1": np.where(occurs, f1, np.nan),
            "auc": auc,
            "average_precision": average,
        }


class _Ranked:
    """One class's samples in the order of its score, equal scores together."""

    def __init__(self, positive: NDArray[np.bool_], scores: Array) -> None:
        self._order = np.argsort(scores, kind="stable")
        ranked = scores[self._order]
        self._starts = np.flatnonzero(np.append(True, np.diff(ranked) > 0))
        self._positive = positive[self._order].astype(np.float64)

    def areas(self, weights: Array) -> tuple[Array, Array]:
        """(resamples,) area under the ROC curve, and average precision; NaN where not defined."""
        ranked = weights[:, self._order]
        found = np.add.reduceat(ranked * self._positive, self._starts, axis=1)
        every = np.add.reduceat(ranked, self._starts, axis=1)
        others = every - found
        positives, negatives = found.sum(axis=1), others.sum(axis=1)
        below = np.cumsum(others, axis=1) - 0.5 * others
        auc = _ratio((found * below).sum(axis=1), positives * negatives, np.nan)
        # From the highest score down: what is at or above each score.
        taken = np.cumsum(every[:, ::-1], axis=1)
        right = np.cumsum(found[:, ::-1], axis=1)
        average = _ratio((found[:, ::-1] * _ratio(right, taken)).sum(axis=1), positives, np.nan)
        return auc, average


def _ratio(numerator: Array, denominator: Array, otherwise: float = 0.0) -> Array:
    quotient = np.full(numerator.shape, otherwise)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _mean_where(values: Array, which: NDArray[np.bool_]) -> Array:
    """Mean of some columns of each row; NaN where there are none."""
    return _ratio(np.where(which, values, 0.0).sum(axis=1), which.sum(axis=1).astype(np.float64), np.nan)
