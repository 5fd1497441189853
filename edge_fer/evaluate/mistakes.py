"""A sheet of misclassified faces, the surest mistakes first: it shows what a table cannot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import MissingDependencyError
from edge_fer.core.files import atomic_file
from edge_fer.data.samples import Image, Samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, MOST = 8, 48
TILE, WIDE, TALL = 120, 152, 175
"""Pixels of a face, and of its place on the sheet with the texts above and below."""


def worst_mistakes(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of scores (n, classes) that are taken for a wrong class, the surest first."""
    wrong = np.flatnonzero(scores.argmax(axis=1) != labels)
    return np.asarray(wrong[np.argsort(-scores[wrong].max(axis=1), kind="stable")], np.int64)


def write_mistakes(
    path: Path, samples: Samples, labels: NDArray[np.int64], scores: NDArray[np.floating], names: tuple[str, ...]
) -> int:
    """Write a PNG of up to :data:`MOST` mistakes.

    Args:
        labels: int64 (n,), indices into ``names``.
        scores: float (n, classes).

    Returns:
        how many mistakes there are in all; nothing is written when there are none.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    wrong = worst_mistakes(scores, labels)
    if len(wrong):
        figure = draw_mistakes(samples, wrong, labels, scores, names)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png")
    return len(wrong)


def draw_mistakes(
    samples: Samples,
    wrong: NDArray[np.int64],
    labels: NDArray[np.int64],
    scores: NDArray[np.floating],
    names: tuple[str, ...],
) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingDependencyError("matplotlib", extra="report", purpose="drawing the mistakes") from None
    from edge_fer.evaluate.report import GAP, INK, MUTED

    shown = wrong[:MOST]
    rows = -(-len(shown) // COLUMNS)
    height = 0.95 + rows * 1.75
    figure = Figure(figsize=(12.4, height), dpi=100, facecolor="white")
    figure.text(0.02, 1 - 0.3 / height, f"Surest mistakes: {len(shown)} of {len(wrong):,} misclassified faces",
                fontsize=15, fontweight="bold", color=INK, va="center")  # fmt: skip
    figure.text(0.02, 1 - 0.58 / height, "what the face was taken for, with its score; below, what it is labelled as. "
                "Some of the labels may be what is wrong.", fontsize=9.5, color=MUTED, va="center")  # fmt: skip
    axes = figure.add_axes((0.01, 0.0, 0.98, 1 - 0.78 / height))
    axes.set_axis_off()
    axes.set(xlim=(0, COLUMNS * WIDE), ylim=(rows * TALL, 0))
    # One picture and a text each: axes of their own would take ten times as long to draw.
    sheet = np.full((rows * TALL, COLUMNS * WIDE, 3), 255, np.uint8)
    for place, index in enumerate(shown.tolist()):
        row, column = divmod(place, COLUMNS)
        left, top = column * WIDE + (WIDE - TILE) // 2, row * TALL + (TALL - TILE) // 2
        sheet[top : top + TILE, left : left + TILE] = _tile(samples.read(index))
        best, middle = int(scores[index].argmax()), (column + 0.5) * WIDE
        axes.text(middle, top - 4, f"{names[best]} {scores[index, best]:.0%}", ha="center", va="bottom", fontsize=10,
                  color=GAP)  # fmt: skip
        truth = f"is {names[labels[index]]} ({scores[index, labels[index]]:.0%})"
        axes.text(middle, top + TILE + 4, truth, ha="center", va="top", fontsize=9, color=INK)
    axes.imshow(sheet, extent=(0, COLUMNS * WIDE, rows * TALL, 0), interpolation="none", aspect="auto")
    return figure


def _tile(image: Image) -> NDArray[np.uint8]:
    """Grey or BGR of any size to RGB (TILE, TILE, 3)."""
    rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
    way = cv2.INTER_AREA if max(image.shape[:2]) > TILE else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(rgb, (TILE, TILE), interpolation=way), np.uint8)
