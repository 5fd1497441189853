"""Precision against recall, one class against the rest; numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.spec import Frozen

POINTS = 100
"""A stored curve has at most so many points; the area is that of the whole curve."""


class PrecisionRecall(Frozen):
    """The curve of one class, from the strictest threshold to the laxest.

    At ``threshold[i]``, samples whose score is at least that are taken for the class: a share ``precision[i]`` of them
    rightly, and ``recall[i]`` of the class is among them.

    Attributes:
        average_precision: sum over thresholds of (gain in recall) x (precision there), as in scikit-learn: no
            interpolation between points, which would flatter.
    """

    average_precision: float
    recall: tuple[float, ...]
    precision: tuple[float, ...]
    threshold: tuple[float, ...]


def precision_recall(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> PrecisionRecall | None:
    """The curve over all distinct scores; ``None`` without a positive.

    Args:
        positive: bool (n,), samples of the class.
        scores: float (n,), the class's score of every sample.
    """
    total = int(positive.sum())
    if total == 0:
        return None
    order = np.argsort(-scores, kind="stable")
    ranked = np.asarray(scores, np.float64)[order]
    # Samples of equal score cannot be told apart by a threshold: the curve has a point after the last of them.
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits = np.cumsum(positive[order])[ends]
    precision, recall = hits / (ends + 1.0), hits / total
    area = float((np.diff(recall, prepend=0.0) * precision).sum())
    # Where recall grows: between two such points precision only falls. The last one ends the curve.
    corners = np.append(np.flatnonzero(np.diff(hits, prepend=0) > 0), len(ends) - 1)
    kept = np.unique(corners[np.linspace(0, len(corners) - 1, min(POINTS, len(corners))).round().astype(np.int64)])
    return PrecisionRecall(
        average_precision=area,
        recall=tuple(float(v) for v in recall[kept]),
        precision=tuple(float(v) for v in precision[kept]),
        threshold=tuple(float(v) for v in ranked[ends][kept]),
    )
