"""Every figure of merit that the project quotes, computed in one place from labels and probabilities; numpy only.

Fractions lie in 0..1 and undefined values are ``None``, never a NaN that would leak into a JSON file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edge_fer.core.errors import BadInputError
from edge_fer.core.spec import Frozen

CALIBRATION_BINS = 15
"""Equal-width bins of the reliability diagram, as in Guo et al., "On Calibration of Modern Neural Networks", 2017."""


class ClassMetrics(Frozen):
    """One class against the rest.

    Precision of a class that is never predicted, and recall of one without samples, count as 0 (scikit-learn's
    ``zero_division=0``); ``support`` tells them apart. ``auc`` is ``None`` when the class or the rest has no sample.
    ``average_precision`` (the area under the precision-recall curve) and the 95 % ``intervals`` of these figures are
    there when they were asked for.
    """

    precision: float
    recall: float
    f1: float
    auc: float | None
    support: int
    average_precision: float | None = None
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)


class CalibrationBin(Frozen):
    """Samples whose top probability lies in ``(lower, upper]``; the means are ``None`` for an empty bin."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


class Metrics(Frozen):
    """Results over ``n`` samples.

    Attributes:
        top1_interval: 95 % percentile bootstrap of ``top1``; :func:`exact_interval` where it is 0 or 1.
        top3: the true class is among the three most probable.
        macro_precision, macro_recall, macro_f1: means over the classes that occur among the labels or the predictions
            (the first two are ``None`` in files of versions that did not write them).
        weighted_precision, weighted_recall, weighted_f1: means weighted by support; weighted recall is top-1.
        balanced_accuracy: mean recall of the classes that occur among the labels (also called UAR).
        macro_auc: mean of the defined per-class AUCs, or ``None``.
        per_class: by name, in the order of ``class_names``.
        confusion: rows are true classes, columns predictions, in the order of ``class_names``.
        ece: expected calibration error of the top label over :data:`CALIBRATION_BINS` equal-width bins.
        reliability: those bins.
        mean_average_precision: mean of the per-class areas under the precision-recall curve; ``None`` when they were
            not asked for.
        intervals: 95 % bootstrap intervals by the name of the figure, when they were asked for; of top-1 and top-3
            (and a class's precision and recall) exact ones where they are 0 or 1. Means over classes and areas that are
            0 or 1 in every resample keep an interval without width.
    """

    n: int = Field(gt=0)
    class_names: tuple[str, ...]
    top1: float
    top1_interval: tuple[float, float]
    top3: float
    macro_precision: float | None = None
    macro_recall: float | None = None
    macro_f1: float
    weighted_precision: float | None = None
    weighted_recall: float | None = None
    weighted_f1: float
    balanced_accuracy: float
    macro_auc: float | None
    ece: float
    per_class: dict[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[CalibrationBin, ...]
    mean_average_precision: float | None = None
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)


class PairedDrop(NamedTuple):
    """Loss of accuracy between two models on the same samples.

    Attributes:
        drop: top-1 before minus after, in percentage points; negative when the second is better.
        interval: 95 % percentile bootstrap of ``drop`` that resamples pairs; where all pairs are of one kind (as when
            both models are right about the same ones), the exact bound of a kind that ``n`` pairs did not show.
        mcnemar_p: two-sided exact McNemar test of "both are equally often right".
    """

    drop: float
    interval: tuple[float, float]
    mcnemar_p: float


def compute_metrics(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    class_names: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Metrics:
    """Score predictions. The predicted class is the first of the most probable ones.

    Args:
        labels: int64 (n,), indices into ``class_names``.
        probabilities: float (n, classes), rows that sum to 1.
        class_names: distinct names.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        ValueError: shapes or label values do not fit, or the rows are not distributions.
        BadInputError: the model gave NaN or infinity.
    """
    classes = len(class_names)
    labels = np.asarray(labels)
    scores = np.asarray(probabilities, dtype=np.float64)
    n = len(labels)
    if n == 0 or scores.shape != (n, classes) or labels.ndim != 1:
        raise ValueError(f"need (n,) labels and (n, {classes}) probabilities, not {labels.shape} and {scores.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).any(axis=1).sum())
        raise BadInputError(f"The model gave NaN or infinite values for {bad} of {n} samples.")
    if scores.min() < 0 or np.abs(scores.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("each row of probabilities must be non-negative and sum to 1")

    predictions = scores.argmax(axis=1)
    confusion = confusion_matrix(labels, predictions, classes)
    hits = np.diagonal(confusion).astype(np.float64)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    precision = _ratio(hits, predicted)
    recall = _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    occurs = (support + predicted) > 0
    aucs = [one_vs_rest_auc(labels == k, scores[:, k]) for k in range(classes)]
    defined = [auc for auc in aucs if auc is not None]
    top1 = float(hits.sum() / n)
    bins, ece = _reliability(scores.max(axis=1), predictions == labels)
    return Metrics(
        n=n,
        class_names=tuple(class_names),
        top1=top1,
        top1_interval=_top1_interval(top1, n, seed, resamples),
        top3=float(among_best(labels, scores, 3).mean()),
        macro_precision=float(precision[occurs].mean()),
        macro_recall=float(recall[occurs].mean()),
        macro_f1=float(f1[occurs].mean()),
        weighted_precision=float((precision * support).sum() / n),
        weighted_recall=float((recall * support).sum() / n),
        weighted_f1=float((f1 * support).sum() / n),
        balanced_accuracy=float(recall[support > 0].mean()),
        macro_auc=float(np.mean(defined)) if defined else None,
        ece=ece,
        per_class={
            name: ClassMetrics(
                precision=float(precision[k]),
                recall=float(recall[k]),
                f1=float(f1[k]),
                auc=aucs[k],
                support=int(support[k]),
            )
            for k, name in enumerate(class_names)
        },
        confusion=tuple(tuple(int(v) for v in row) for row in confusion),
        reliability=bins,
    )


def confusion_matrix(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes): rows are true classes, columns predictions."""
    flat = np.bincount(np.asarray(labels) * classes + np.asarray(predictions), minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def among_best(labels: NDArray[np.int64], scores: NDArray[np.float64], places: int) -> NDArray[np.bool_]:
    """Whether each row's true class is among its ``places`` best scores, (n,); of equal scores the first class wins."""
    own = scores[np.arange(len(labels)), labels][:, None]
    ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    return np.asarray(ahead.sum(axis=1) < places)


def calibration_bin(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index (n,) of the :class:`CalibrationBin` that each confidence, 0..1, lies in."""
    return np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)


def one_vs_rest_auc(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> float | None:
    """Area under the ROC curve: how often a positive outranks a negative, ties counting half.

    Computed from mid-ranks (Mann-Whitney U). ``None`` without a positive or without a negative.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mid_rank = np.cumsum(counts) - (counts - 1) / 2.0
    rank_sum = float(mid_rank[inverse.reshape(-1)][positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2.0) / (n_positive * n_negative)


def paired_drop(
    labels: NDArray[np.int64],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> PairedDrop:
    """Compare two models' predicted classes on the same samples.

    Args:
        labels: int (n,), true classes.
        before: int (n,), predictions of the reference.
        after: int (n,), predictions of the candidate.

    Raises:
        ValueError: the arrays differ in shape or are empty.
    """
    labels, before, after = np.asarray(labels), np.asarray(before), np.asarray(after)
    n = len(labels)
    if n == 0 or labels.shape != (n,) or before.shape != (n,) or after.shape != (n,):
        raise ValueError(f"need three equal (n,) arrays, not {labels.shape}, {before.shape}, {after.shape}")
    right_before, right_after = before == labels, after == labels
    lost = int((right_before & ~right_after).sum())
    gained = int((~right_before & right_after).sum())
    # Resampling n pairs with replacement draws the three kinds of pair (lost, gained, unchanged) from a multinomial, so
    # it is sampled directly: the same distribution without touching n indices per resample.
    draws = np.random.default_rng(seed).multinomial(n, [lost / n, gained / n, 1 - (lost + gained) / n], size=resamples)
    limits = _paired_limits(lost, gained, n) or np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    low, high = (100.0 * float(limit) for limit in limits)
    return PairedDrop(100.0 * (lost - gained) / n, (low, high), mcnemar_exact(lost, gained))


def harmed_classes(
    labels: NDArray[np.int64],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    class_names: Sequence[str],
    max_drop: float,
    *,
    significance: float = 0.05,
) -> dict[str, PairedDrop]:
    """Classes whose recall fell by more than ``max_drop`` points, and by more than chance explains.

    One of 50 faces is two points of recall, so a limit on the drop alone would fail small classes at random. A class
    counts only when the exact McNemar test on its own faces is significant too, at ``significance`` divided by the
    number of classes (Bonferroni): were a model merely different, not worse, all classes together would raise a false
    alarm in at most that share of cases. With seven classes that takes nine faces lost and none gained.

    Args:
        labels, before, after: int (n,), as for :func:`paired_drop`.

    Returns:
        by class name, the drop of recall with its interval and p-value; empty when no class is harmed.
    """
    harmed = {}
    for index, name in enumerate(class_names):
        own = np.asarray(labels) == index
        if not own.any():
            continue
        found = paired_drop(labels[own], before[own], after[own])
        if found.drop > max_drop and found.mcnemar_p < significance / len(class_names):
            harmed[name] = found
    return harmed


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided exact p-value of the sign test on the discordant pairs (McNemar 1947), by integer arithmetic."""
    discordant = lost + gained
    term, tail = 1, 0
    for k in range(min(lost, gained) + 1):
        tail += term
        term = term * (discordant - k) // (k + 1)
    return float(min(1.0, 2 * tail / 2**discordant))


def exact_interval(right: bool, n: int) -> tuple[float, float]:
    """95 % interval of a proportion that was 1 (``right``) or 0 in all of ``n`` >= 1 samples.

    The bootstrap cannot draw what was never seen and gives no width at all. This is Clopper and Pearson's exact
    interval ("The Use of Confidence or Fiducial Limits", 1934), whose other end is ``0.025 ** (1 / n)`` here: about
    3.7 / n away.
    """
    other = 0.025 ** (1 / n)
    return (other, 1.0) if right else (0.0, 1.0 - other)


def _paired_limits(lost: int, gained: int, n: int) -> tuple[float, float] | None:
    """95 % interval of (lost - gained) / n where all pairs are of one kind, of which the bootstrap makes a point.

    The rule of three, for a two-sided level: a kind of pair that was not seen among ``n`` is rarer than
    ``1 - 0.025 ** (1 / n)``, and all the rest could be of the kind that moves the difference furthest.
    """
    rare = exact_interval(False, n)[1]
    if lost == gained == 0:
        return -rare, rare
    if lost == n:
        return 1.0 - 2.0 * rare, 1.0
    return (-1.0, 2.0 * rare - 1.0) if gained == n else None


def _top1_interval(top1: float, n: int, seed: int, resamples: int) -> tuple[float, float]:
    if top1 in (0.0, 1.0):
        return exact_interval(top1 == 1.0, n)
    # The hits among n samples drawn with replacement are binomial(n, top1): drawn directly, that is the bootstrap.
    means = np.random.default_rng(seed).binomial(n, min(1.0, top1), size=resamples) / n
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _ratio(numerator: NDArray[Any], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    quotient = np.zeros(len(numerator), dtype=np.float64)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _reliability(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_]
) -> tuple[tuple[CalibrationBin, ...], float]:
    index = calibration_bin(confidence)
    count = np.bincount(index, minlength=CALIBRATION_BINS)
    mean_confidence = _ratio(np.bincount(index, confidence, CALIBRATION_BINS), count)
    accuracy = _ratio(np.bincount(index, correct.astype(np.float64), CALIBRATION_BINS), count)
    bins = tuple(
        CalibrationBin(
            lower=b / CALIBRATION_BINS,
            upper=(b + 1) / CALIBRATION_BINS,
            count=int(count[b]),
            confidence=float(mean_confidence[b]) if count[b] else None,
            accuracy=float(accuracy[b]) if count[b] else None,
        )
        for b in range(CALIBRATION_BINS)
    )
    return bins, float((count * np.abs(accuracy - mean_confidence)).sum() / len(confidence))
