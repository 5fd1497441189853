"""Several models on the same faces: is one really better than the first?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.spec import Frozen
from edge_fer.evaluate.bootstrap import Resampled, interval, resample
from edge_fer.evaluate.metrics import compute_metrics, paired_drop

SIGNIFICANT = 0.05
DIFFERENCES = ("macro_f1", "balanced_accuracy", "macro_auc", "ece")


class Difference(Frozen):
    """A figure of the model minus the reference's, with the 95 % interval of a bootstrap over the same faces."""

    gain: float
    interval: tuple[float, float]


class ModelComparison(Frozen):
    """One model against the reference, face by face.

    Attributes:
        gained: faces that only this model gets right; ``lost``: only the reference.
        top1: difference of accuracy, a fraction.
        mcnemar_p: exact two-sided McNemar test of "both are equally often right".
        holm_p: the same after Holm's step-down correction for the number of models that were compared (Holm, "A
            Simple Sequentially Rejective Multiple Test Procedure", 1979).
        others: differences of other figures, by their names in ``Metrics``.
    """

    model: str
    reference: str
    gained: int
    lost: int
    top1: Difference
    mcnemar_p: float
    holm_p: float
    others: dict[str, Difference]

    @property
    def verdict(self) -> str:
        """In words: better, worse, or not told apart by these faces."""
        if self.holm_p >= SIGNIFICANT:
            return "not told apart"
        return "better" if self.gained > self.lost else "worse"


def compare(
    labels: NDArray[np.int64],
    scores: Mapping[str, NDArray[np.floating]],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[ModelComparison, ...]:
    """Compare every model with the first.

    Args:
        labels: int64 (n,).
        scores: by model's name, float (n, classes); the first is the reference.
    """
    names = list(scores)
    reference = names[0]
    draws: dict[str, Resampled] = {
        name: resample(labels, rows, seed=seed, resamples=resamples) for name, rows in scores.items()
    }
    found = []
    for name in names[1:]:
        before, after = scores[reference].argmax(axis=1), scores[name].argmax(axis=1)
        pair = paired_drop(labels, before, after, seed=seed)
        low, high = pair.interval
        found.append(
            ModelComparison(
                model=name,
                reference=reference,
                gained=int(((before != labels) & (after == labels)).sum()),
                lost=int(((before == labels) & (after != labels)).sum()),
                # 0.0 is added because minus nothing would be written as -0.
                top1=Difference(gain=0.0 - pair.drop / 100, interval=(0.0 - high / 100, 0.0 - low / 100)),
                mcnemar_p=pair.mcnemar_p,
                holm_p=pair.mcnemar_p,
                others=_differences(labels, scores[reference], scores[name], draws[reference], draws[name]),
            )
        )
    corrected = holm([one.mcnemar_p for one in found])
    return tuple(one.model_copy(update={"holm_p": p}) for one, p in zip(found, corrected, strict=True))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def _differences(
    labels: NDArray[np.int64],
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    draws_before: Resampled,
    draws_after: Resampled,
) -> dict[str, Difference]:
    names = tuple(str(k) for k in range(before.shape[1]))
    first, second = (compute_metrics(labels, rows, names, resamples=2) for rows in (before, after))
    found = {}
    for name in DIFFERENCES:
        a, b = getattr(first, name), getattr(second, name)
        spread = interval(draws_after.overall[name] - draws_before.overall[name])
        if a is not None and b is not None and spread is not None:
            found[name] = Difference(gain=b - a, interval=spread)
    return found
