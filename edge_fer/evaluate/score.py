"""Everything that is said about one model's predictions: figures with intervals, curves, and the part without leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError
from edge_fer.core.spec import Frozen
from edge_fer.evaluate.bootstrap import resample
from edge_fer.evaluate.curves import PrecisionRecall, precision_recall
from edge_fer.evaluate.metrics import Metrics, compute_metrics, exact_interval


class Deduplicated(Frozen):
    """Results without the samples that have a near-duplicate in another split, where the model may have seen them.

    Attributes:
        removed: how many those are.
        leaked_top1: accuracy on them alone; ``None`` when there are none.
        metrics: of the rest.
    """

    removed: int
    leaked_top1: float | None
    metrics: Metrics


class Scored(NamedTuple):
    metrics: Metrics
    curves: dict[str, PrecisionRecall]
    deduplicated: Deduplicated | None


def score(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    class_names: Sequence[str],
    *,
    leaked: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Scored:
    """All figures of one model's predictions; arguments are those of :func:`compute_metrics`.

    Args:
        leaked: bool (n,), samples with a near-duplicate in another split; ``None`` when that was not audited.

    Raises:
        BadInputError: NaN among the probabilities, or every sample is leaked.
    """
    plain = compute_metrics(labels, probabilities, class_names, seed=seed)
    draws = resample(labels, probabilities, seed=seed)
    curves = {
        name: curve
        for k, name in enumerate(class_names)
        if (curve := precision_recall(labels == k, probabilities[:, k])) is not None
    }
    predicted = [sum(row[k] for row in plain.confusion) for k in range(len(class_names))]
    per_class = {
        name: one.model_copy(
            update={
                "average_precision": curves[name].average_precision if name in curves else None,
                "intervals": {
                    **draws.class_intervals(k),
                    **_exact({"precision": (one.precision, predicted[k]), "recall": (one.recall, one.support)}),
                },
            }
        )
        for k, (name, one) in enumerate(plain.per_class.items())
    }
    metrics = plain.model_copy(
        update={
            "per_class": per_class,
            "mean_average_precision": float(np.mean([c.average_precision for c in curves.values()])),
            # The accuracy keeps the interval that it always had.
            "intervals": {**draws.intervals(), **_exact({"top3": (plain.top3, plain.n)}), "top1": plain.top1_interval},
        }
    )
    return Scored(
        metrics, curves, None if leaked is None else _deduplicated(labels, probabilities, class_names, leaked)
    )


def _exact(proportions: Mapping[str, tuple[float, int]]) -> dict[str, tuple[float, float]]:
    """Intervals of the proportions, each with its number of samples, for which the bootstrap has no width."""
    return {name: exact_interval(value == 1, n) for name, (value, n) in proportions.items() if n and value in (0, 1)}


def _deduplicated(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    class_names: Sequence[str],
    leaked: NDArray[np.bool_],
) -> Deduplicated:
    if leaked.all():
        raise BadInputError("Every sample has a near-duplicate in another split: nothing is left to measure on.")
    right = probabilities.argmax(axis=1) == labels
    return Deduplicated(
        removed=int(leaked.sum()),
        leaked_top1=float(right[leaked].mean()) if leaked.any() else None,
        metrics=compute_metrics(labels[~leaked], probabilities[~leaked], class_names),
    )
