"""The scores of each face over time, as one picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_fer.core.errors import UsageError
from edge_fer.core.files import atomic_file
from edge_fer.core.packages import require_package
from edge_fer.runtime.annotate import colour_of_label
from edge_fer.runtime.sinks.score_record import ScoreRecord
from edge_fer.runtime.sinks.text_file import check_target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_TRACKS = 6
INK, MUTED, RULE = "#1b1f24", "#5d6673", "#d5dae1"


def check_timeline(path: Path) -> None:
    """Refuse before the work what could only fail after it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        UsageError: the file's ending is not .png.
        BadInputError: the folder does not exist, or the path is one.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--timeline writes PNG files, not {path.name}.", fix="--timeline scores.png")
    check_target(path)
    require_package("matplotlib", extra="report", purpose="the picture of --timeline")


def draw_timeline(path: Path, record: ScoreRecord, labels: tuple[str, ...], *, title: str) -> None:
    """Write a PNG: a panel per face, the six that were seen longest; a line per class, a band of the shown label.

    Raises:
        DeviceError: the disk is full, or not writable; the old file is untouched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tracks = record.tracks()
    shown = tracks[:MOST_TRACKS]
    # A figure of its own instead of pyplot's: no display, no global state, nothing to close.
    figure = Figure(figsize=(11, 1.3 + 2.1 * max(1, len(shown))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(max(1, len(shown)), 1, sharex=True, squeeze=False)[:, 0]
    for panel, track in zip(panels, shown, strict=False):
        _draw(panel, record, track, labels)
    if not shown:
        panels[0].text(
            0.5, 0.5, "no face was seen", ha="center", va="center", color=MUTED, transform=panels[0].transAxes
        )
        panels[0].set_yticks([])
    panels[-1].set_xlabel("time in the source, s", color=INK)
    more = f"; {len(tracks) - len(shown)} more faces were seen for shorter" if len(tracks) > len(shown) else ""
    every = f"; every {record.stride}th frame" if record.stride > 1 else ""
    figure.suptitle(
        f"{title}\nsmoothed scores of each face, above them the label shown{every}{more}", color=INK, fontsize=11
    )
    if shown:
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", ncols=len(labels), frameon=False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, facecolor="white")


def _draw(panel: Axes, record: ScoreRecord, track: int, labels: tuple[str, ...]) -> None:
    times_ms, scores = record.of(track)
    seconds = times_ms / 1000
    colours = [_colour(label) for label in labels]
    # A face that was seen once is a point, which a line would not show.
    marker = "o" if len(seconds) < 3 else None
    for label, colour, values in zip(labels, colours, scores.T, strict=True):
        panel.plot(seconds, values, color=colour, linewidth=1.6, label=label, marker=marker, markersize=4)
    known = np.flatnonzero(~np.isnan(seconds))
    shown = record.shown(track)[known]
    step = float(np.median(np.diff(seconds[known]))) if len(known) > 1 else 0.04
    ends = np.flatnonzero(np.diff(shown, prepend=-1, append=-1) | (np.diff(known, prepend=-9, append=-9) > 1))
    for first, last in pairwise(ends):
        begin, end = seconds[known[first]], seconds[known[last - 1]] + step
        panel.broken_barh([(begin, end - begin)], (1.02, 0.07), facecolors=colours[shown[first]], linewidth=0)
    panel.set_xmargin(0.01)
    panel.set_ylim(0, 1.1)
    panel.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    panel.grid(axis="y", color=RULE, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.set_title(f"face #{track}", loc="left", fontsize=10, color=INK)
    panel.tick_params(colors=MUTED)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color(RULE)


def _colour(label: str) -> str:
    """The class's colour on the picture, darkened for white paper."""
    return "#" + "".join(f"{round(0.82 * value):02x}" for value in reversed(colour_of_label(label)))
