"""Weights that make every class as frequent as any other when samples are drawn with replacement."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def class_weights(labels: ArrayLike, classes: int) -> NDArray[np.float64]:
    """``w_c = N / (C * N_c)``: the mean weight over the samples is 1, a class half as frequent weighs twice as much.

    Args:
        labels: whole numbers (N,), 0 .. ``classes`` - 1.
        classes: C, the number of classes.

    Returns:
        float64 (C,); 0 for a class without samples, which no weight can make appear. The mean over the samples is then
        smaller than 1.

    Raises:
        ValueError: no labels, or one outside the classes.
    """
    found = np.asarray(labels, dtype=np.int64)
    if found.ndim != 1 or found.size == 0 or found.min() < 0 or found.max() >= classes:
        raise ValueError("labels must be a non-empty row of numbers in 0 .. classes - 1")
    counts = np.bincount(found, minlength=classes)
    return np.divide(found.size, classes * counts, out=np.zeros(classes), where=counts > 0)


def sample_weights(labels: ArrayLike, classes: int) -> NDArray[np.float64]:
    """The weight of every sample, float64 (N,): what a weighted sampler takes."""
    return class_weights(labels, classes)[np.asarray(labels, dtype=np.int64)]
