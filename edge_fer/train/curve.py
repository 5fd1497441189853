"""The picture of a training: loss, accuracy and learning rate over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_fer.core.errors import MissingDependencyError
from edge_fer.core.files import atomic_file
from edge_fer.train.detection_loop import DetectionEpochLog
from edge_fer.train.loop import EpochLog


def plot_log(path: Path, log: Sequence[EpochLog], title: str) -> None:
    """Write a PNG with three panels: losses, top-1 with the learning rate behind it, and what every epoch took.

    An epoch that took far longer than the others is drawn as it was: the machine did something else as well.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib", extra="train", purpose="the training curve") from None
    epochs = [row.epoch + 1 for row in log]
    figure = Figure(figsize=(13, 3.8), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    losses, accuracy, time = figure.subplots(1, 3, width_ratios=(5, 5, 3))
    losses.plot(epochs, [row.train_loss for row in log], label="training (mixed, smoothed targets)", color="#d95f02")
    losses.plot(epochs, [row.val_loss for row in log], label="held out, plain labels", color="#1b9e77")
    losses.set(xlabel="epoch", ylabel="cross-entropy", title=title)
    best = max(log, key=lambda row: row.val_top1)
    accuracy.plot(epochs, [100 * row.train_top1 for row in log], color="#d95f02", label="training (changed pictures)")
    accuracy.plot(epochs, [100 * row.val_top1 for row in log], color="#1b9e77", label="held out (moving average)")
    accuracy.plot(best.epoch + 1, 100 * best.val_top1, "o", color="#1b9e77")
    accuracy.annotate(
        f"{100 * best.val_top1:.1f} %", (best.epoch + 1, 100 * best.val_top1), xytext=(-4, -8),
        textcoords="offset points", ha="right", va="top",
    )  # fmt: skip
    accuracy.set(xlabel="epoch", ylabel="top-1, %", title="single crop")
    accuracy.margins(y=0.12)
    rate = accuracy.twinx()
    rate.fill_between(epochs, [row.lr for row in log], color="#7570b3", alpha=0.15, label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    minutes = [row.seconds / 60 for row in log]
    time.bar(epochs, minutes, width=1.0, color="#7570b3", alpha=0.6)
    time.set(xlabel="epoch", ylabel="minutes", title=f"{_duration(sum(minutes))} in all")
    for axis in (losses, accuracy, time):
        axis.grid(alpha=0.25)
        axis.xaxis.get_major_locator().set_params(integer=True)
    losses.legend(frameon=False)
    handles = [*accuracy.get_legend_handles_labels()[0], *rate.get_legend_handles_labels()[0]]
    accuracy.legend(handles=handles, frameon=False, loc="lower right")
    with atomic_file(path) as temporary:
        canvas.print_png(temporary)  # type: ignore[no-untyped-call]


def _duration(minutes: float) -> str:
    """``95.2`` -> ``1 h 35 min``."""
    if minutes < 10:
        return f"{minutes:.1f} min"
    return f"{minutes:.0f} min" if minutes < 60 else f"{int(minutes) // 60} h {int(minutes) % 60} min"


def plot_detection_log(path: Path, log: Sequence[DetectionEpochLog], title: str) -> None:
    """Write a PNG with three panels: the losses of score, boxes and landmarks over epochs."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib", extra="train", purpose="the training curve") from None
    epochs = [row.epoch + 1 for row in log]
    figure = Figure(figsize=(12, 3.4), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for axis, name in zip(panels, ("score", "box", "landmark"), strict=True):
        axis.plot(epochs, [getattr(row, f"{name}_loss") for row in log], color="#d95f02")
        axis.set(xlabel="epoch", ylabel=f"{name} loss", ylim=(0, None))
        axis.grid(alpha=0.25)
    panels[0].set_title(title)
    with atomic_file(path) as temporary:
        canvas.print_png(temporary)  # type: ignore[no-untyped-call]
