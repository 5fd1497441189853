"""Explanations as pictures: faces with their heat and the outcome of the check, and feature maps stage by stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import MissingDependencyError
from edge_fer.core.files import atomic_file
from edge_fer.evaluate.deletion import DeletionCheck
from edge_fer.evaluate.explain import ExplainedFace, Explanation, Pictures
from edge_fer.evaluate.report import GAP, INK, MUTED, RECALL, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PASS, FAIL = "#14662f", "#a11d1d"
HEAT = "inferno"
COLUMNS = 4
ROWS_OF_MAPS = 8
TILE, GAP_PX = 112, 8
"""A feature map as it is drawn, and the white around it."""


def write_explanation(path: Path, explanation: Explanation, pictures: Pictures) -> None:
    """Faces, heat, scores, and below them the deletion curves with the verdict, as one PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    _save(path, draw_explanation(explanation, pictures))


def write_feature_maps(path: Path, explanation: Explanation, pictures: Pictures) -> None:
    """A row per face (at most :data:`ROWS_OF_MAPS`): what goes in, then four channels of every stage, as one PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    _save(path, draw_feature_maps(explanation, pictures))


def _save(path: Path, figure: Figure) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingDependencyError("matplotlib", extra="report", purpose="drawing the explanation") from None
    return Figure(figsize=(width, height), dpi=110, facecolor="white")


def draw_explanation(explanation: Explanation, pictures: Pictures) -> Figure:
    rows = -(-len(explanation.faces) // COLUMNS)
    head, row_height, foot = 0.95, 2.15, 3.9
    height = head + rows * row_height + foot
    figure = _figure(13.5, height)
    figure.text(0.03, 1 - 0.34 / height, f"{explanation.model}: what speaks for the class", fontsize=18,
                fontweight="bold", color=INK, va="center")  # fmt: skip
    figure.text(0.03, 1 - 0.68 / height, f"Grad-CAM at layer {explanation.layer}, {explanation.source}; bright: the "
                "class gains from what is there (relative to each picture's own largest value)", fontsize=10.5,
                color=MUTED, va="center")  # fmt: skip
    grid = figure.add_gridspec(
        rows, 2 * COLUMNS, left=0.03, right=0.985, top=1 - head / height, bottom=(foot + 0.1) / height,
        wspace=0.06, hspace=0.34,
    )  # fmt: skip
    for i, face in enumerate(explanation.faces):
        row, column = divmod(i, COLUMNS)
        plain, hot = (figure.add_subplot(grid[row, 2 * column + k]) for k in range(2))
        _face(plain, hot, face, pictures, i)
    check = figure.add_axes((0.07, 0.55 / height, 0.42, (foot - 1.5) / height))
    _check(check, explanation.check)
    _verdict(figure, explanation, 0.55, (foot - 1.0) / height)
    return figure


def _face(plain: Axes, hot: Axes, face: ExplainedFace, pictures: Pictures, i: int) -> None:
    for axes in (plain, hot):
        axes.imshow(pictures.faces[i], interpolation="nearest")
        axes.set_axis_off()
    if face.evidence:
        heat = pictures.heat[i]
        hot.imshow(heat, cmap=HEAT, vmin=0, vmax=1, alpha=0.25 + 0.5 * heat, interpolation="bilinear")
    else:
        hot.text(0.5, 0.5, "nothing here\nspeaks for it", transform=hot.transAxes, ha="center", va="center",
                 fontsize=9, color=INK, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85})  # fmt: skip
    right = face.label is None or face.label == face.predicted
    asked = (
        "" if face.explained == face.predicted else f"\nexplained: {face.explained} {face.scores[face.explained]:.0%}"
    )
    truth = "" if face.label is None else f" (is {face.label})" if not right else " (right)"
    plain.set_title(f"{face.predicted} {face.scores[face.predicted]:.0%}{truth}{asked}", loc="left", fontsize=10,
                    color=INK if right else FAIL, pad=4)  # fmt: skip
    name = face.id if len(face.id) <= 40 else "…" + face.id[-39:]
    plain.text(0, -0.035, name, transform=plain.transAxes, fontsize=7.5, color=MUTED, va="top")


def _check(axes: Axes, check: DeletionCheck | None) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.set_title("Does it mean something? Deleting pixels", loc="left", fontsize=12.5, fontweight="bold", color=INK)
    if check is None:
        axes.set_axis_off()
        return
    shares = 100 * np.asarray(check.fractions)
    axes.plot(shares, check.curve, color=GAP, linewidth=2.2, label="what the map marks, hottest first")
    axes.plot(shares, check.elsewhere.curve, color=RECALL, linewidth=1.8, label="as much elsewhere")
    if check.others is not None:
        axes.plot(shares, check.others.curve, color=MUTED, linewidth=1.5, linestyle=(0, (4, 2)),
                  label="by another face's map")  # fmt: skip
    axes.set(xlim=(0, 100), ylim=(0, None))
    axes.set_xlabel("deleted share of the picture, %", color=MUTED, fontsize=9.5)
    axes.set_ylabel("mean score of the explained class", color=MUTED, fontsize=9.5)
    axes.grid(color=RULE, linewidth=0.6)
    axes.legend(frameon=False, fontsize=9, labelcolor=MUTED, loc="upper right")


def _verdict(figure: Figure, explanation: Explanation, x: float, y: float) -> None:
    check = explanation.check
    holds = check is not None and check.holds
    text = verdict(explanation)
    head, _, rest = text.partition(": ")
    figure.text(x, y, head, fontsize=14, fontweight="bold", color=PASS if holds else FAIL, va="top")
    lines = "\n".join(_wrapped(f"{rest[0].upper()}{rest[1:]} Checked on {explanation.checked}.", 72))
    height = figure.get_figheight()
    figure.text(x, y - 0.38 / height, lines, fontsize=10.5, color=INK, va="top", linespacing=1.5)


def verdict(explanation: Explanation) -> str:
    """The outcome of the check as a sentence that begins with the outcome and a colon."""
    if explanation.check is None:
        return "NOT CHECKED: in no face anything in this layer speaks for the explained class."
    return explanation.check.sentence()


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


def draw_feature_maps(explanation: Explanation, pictures: Pictures) -> Figure:
    shown = min(len(explanation.faces), ROWS_OF_MAPS)
    across = [maps.shape[1] for maps in pictures.maps]
    cell, head = 0.86, 1.35
    height = head + shown * cell
    figure = _figure(max(9.0, (1 + sum(across)) * cell + 0.12 * len(across)), height)
    figure.text(0.02, 1 - 0.32 / height, f"{explanation.model}: feature maps", fontsize=16, fontweight="bold",
                color=INK, va="center")  # fmt: skip
    figure.text(0.02, 1 - 0.62 / height, "of every stage the four channels that vary most over the places; each from "
                "its own smallest to its own largest value", fontsize=9.5, color=MUTED, va="center")  # fmt: skip
    grid = figure.add_gridspec(
        1, 1 + len(across), left=0.02, right=0.99, top=1 - head / height, bottom=0.03, wspace=0.04,
        width_ratios=(1, *across),
    )  # fmt: skip
    faces = [cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_NEAREST) for picture in pictures.faces[:shown]]
    white = [255, 255, 255]
    framed = [cv2.copyMakeBorder(f, 0, GAP_PX, 0, GAP_PX, cv2.BORDER_CONSTANT, value=white) for f in faces]
    columns = [("input", np.vstack(framed), "gray")]
    for stage, maps in zip(explanation.stages, pictures.maps, strict=True):
        title = f"{stage.layer}\n{' x '.join(map(str, stage.shape))}"
        columns.append((title, _mosaic([list(row) for row in maps[:shown]]), "viridis"))
    for k, (title, mosaic, colours) in enumerate(columns):
        axes = figure.add_subplot(grid[k])
        axes.imshow(mosaic, cmap=colours, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        axes.set_title(title, fontsize=8.5, color=INK, loc="left")
    return figure


def _mosaic(rows: Sequence[Sequence[NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Maps side by side as one (H, W), each enlarged to a tile and from 0 to 1; NaN between them."""
    lines = []
    for row in rows:
        tiles = []
        for values in row:
            low, high = float(values.min()), float(values.max())
            scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
            tile = cv2.resize(scaled, (TILE, TILE), interpolation=cv2.INTER_NEAREST)
            tiles.append(cv2.copyMakeBorder(tile, 0, GAP_PX, 0, GAP_PX, cv2.BORDER_CONSTANT, value=[float("nan")]))
        lines.append(np.hstack(tiles))
    return np.vstack(lines).astype(np.float32)


def write_json(path: Path, explanation: Explanation) -> None:
    """Write all figures of the explanation; the file is replaced in one step."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(explanation.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
