"""Results of evaluations as a JSON file, and of one as a picture that can be drawn from that JSON alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edge_fer.core.errors import MissingDependencyError
from edge_fer.core.files import atomic_file, read_validated
from edge_fer.core.spec import Frozen
from edge_fer.evaluate.compare import ModelComparison
from edge_fer.evaluate.curves import PrecisionRecall
from edge_fer.evaluate.found_faces import FoundFaces
from edge_fer.evaluate.metrics import Metrics
from edge_fer.evaluate.score import Deduplicated
from edge_fer.evaluate.videos import Videos

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#1b1f24", "#5d6673", "#d5dae1"
PRECISION, RECALL, F1 = "#9dc3e6", "#2f6fb0", "#12355b"
WRONG, GAP = "#e08a4f", "#c8553d"
CLASSES = ("#c8553d", "#3f7d3a", "#7a4fa3", "#d9a013", "#6b7380", "#2f6fb0", "#d1701f", "#12355b")
"""Of curves, class by class; a second round of them is dashed."""


class Evaluation(Metrics):
    """Metrics, and what they are of.

    Attributes:
        model: name of the contract.
        source: the checkpoint, bundle or engine that was evaluated.
        backend: ``torch``, or the name of an inference backend.
        backend_version: of that package.
        precision: what the backend computed in.
        device: the machine's processor.
        data: the dataset's folder or file, and split.
        unit: what ``n`` counts: faces, or videos whose frames' scores were averaged.
        curves: precision against recall, by class that occurs.
        deduplicated: without near-duplicates of other splits; ``None`` when no audit was given.
        videos: each of them, when that is what was evaluated.
        found_faces: what finding and cutting the faces cost, when a detector did so; all other figures are of its cuts.
    """

    kind: Literal["edge-fer-evaluation"] = "edge-fer-evaluation"
    format: Literal[1] = 1
    edge_fer_version: str
    model: str
    source: str
    backend: str
    backend_version: str
    precision: str
    device: str
    data: str
    unit: Literal["faces", "videos"] = "faces"
    curves: dict[str, PrecisionRecall] = Field(default_factory=dict)
    deduplicated: Deduplicated | None = None
    videos: Videos | None = None
    found_faces: FoundFaces | None = None


class Comparison(Frozen):
    """Several models on the same faces.

    Attributes:
        models: by the names under which they are compared; the first is the reference.
        comparisons: every other one against it.
    """

    kind: Literal["edge-fer-comparison"] = "edge-fer-comparison"
    format: Literal[1] = 1
    models: dict[str, Evaluation]
    comparisons: tuple[ModelComparison, ...]


def write_json(path: Path, evaluation: Evaluation | Comparison) -> None:
    """Write the results; the file is replaced in one step."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(evaluation.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Evaluation:
    """Read what :func:`write_json` wrote.

    Raises:
        BadInputError: the file is missing, or is not such a file.
    """
    return read_validated(path, Evaluation, "an evaluation")


def write_png(path: Path, evaluation: Evaluation) -> None:
    """Draw confusion matrix, per-class scores, reliability diagram and confidence histogram on one page.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    drawn = as_png(evaluation)
    with atomic_file(path) as temporary:
        temporary.write_bytes(drawn)


def as_png(evaluation: Evaluation) -> bytes:
    """The same page as the bytes of a PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    buffer = io.BytesIO()
    draw(evaluation).savefig(buffer, format="png")
    return buffer.getvalue()


def draw(evaluation: Evaluation) -> Figure:
    """The page as a matplotlib figure; touches neither pyplot nor its global backend."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingDependencyError("matplotlib", extra="report", purpose="drawing the report") from None
    height = 17.6 if evaluation.curves else 12.2
    figure = Figure(figsize=(13.5, height), dpi=110, facecolor="white")
    grid = figure.add_gridspec(
        3 if evaluation.curves else 2, 2, left=0.085, right=0.965, top=1 - 2.44 / height, bottom=0.73 / height,
        wspace=0.26, hspace=0.38, height_ratios=(1.25, 1, 1) if evaluation.curves else (1.25, 1),
    )  # fmt: skip
    _header(figure, evaluation)
    _confusion(figure.add_subplot(grid[0, 0]), evaluation)
    _per_class(figure.add_subplot(grid[0, 1]), evaluation)
    _reliability(figure.add_subplot(grid[1, 0]), evaluation)
    _confidence(figure.add_subplot(grid[1, 1]), evaluation)
    if evaluation.curves:
        _precision_recall(figure.add_subplot(grid[2, 0]), evaluation)
        _intervals(figure.add_subplot(grid[2, 1]), evaluation)
    return figure


def percent(fraction: float, digits: int = 1) -> str:
    """``0.7012`` -> ``70.1 %``."""
    return f"{100 * fraction:.{digits}f} %"


def headline(metrics: Metrics) -> list[tuple[str, str]]:
    """(name, value) of the figures that sum a result up, as people write them."""
    low, high = metrics.top1_interval
    rows = [
        (f"top-1 (95 %: {100 * low:.1f} to {100 * high:.1f})", percent(metrics.top1)),
        ("top-3", percent(metrics.top3)),
        ("macro-F1", f"{metrics.macro_f1:.3f}"),
        ("weighted F1", f"{metrics.weighted_f1:.3f}"),
        ("balanced accuracy", percent(metrics.balanced_accuracy)),
        ("calibration error", percent(metrics.ece)),
    ]
    if metrics.macro_auc is not None:
        rows.insert(5, ("mean AUC", f"{metrics.macro_auc:.3f}"))
    return rows


def _header(figure: Figure, evaluation: Evaluation) -> None:
    height = figure.get_figheight()
    figure.text(0.03, 1 - 0.46 / height, evaluation.model, fontsize=20, fontweight="bold", color=INK, va="center")
    figure.text(
        0.03,
        1 - 0.83 / height,
        f"{evaluation.backend} {evaluation.backend_version}, {evaluation.precision}  ·  "
        f"{evaluation.n:,} {evaluation.unit} of {_shortened(evaluation.data)}",
        fontsize=11,
        color=MUTED,
        va="center",
    )
    for k, (name, value) in enumerate(headline(evaluation)):
        x = 0.03 + (k + 0.75 if k else 0) * 0.123
        figure.text(
            x, 1 - 1.33 / height, value, fontsize=18 if k == 0 else 15, fontweight="bold", color=INK, va="center"
        )
        figure.text(x, 1 - 1.61 / height, name, fontsize=9.5, color=MUTED, va="center")


def _shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else "…" + text[1 - limit :]


def _plain(axes: Axes, title: str, note: str = "") -> None:
    axes.set_title(
        title, loc="left", fontsize=12.5, fontweight="bold", color=INK, pad=24 + 13 * note.count("\n") if note else 10
    )
    if note:
        axes.annotate(
            note, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", fontsize=9.5, color=MUTED,
            va="bottom", linespacing=1.35,
        )  # fmt: skip
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=10, length=0)


def _confusion(axes: Axes, evaluation: Evaluation) -> None:
    names, counts = evaluation.class_names, evaluation.confusion
    shares = [[value / max(1, sum(row)) for value in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    large, small = (11.5, 8.5) if len(names) <= 8 else (8.0, 6.0)
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            colour = "white" if share > 0.55 else INK
            weight = "bold" if i == j else "normal"
            axes.text(
                j,
                i - 0.12,
                f"{100 * share:.0f} %",
                ha="center",
                va="center",
                fontsize=large,
                color=colour,
                weight=weight,
            )
            axes.text(
                j, i + 0.24, f"{counts[i][j]:,}", ha="center", va="center", fontsize=small, color=colour, alpha=0.75
            )
    _plain(axes, "Confusion", f"share of the true class, and number of {evaluation.unit}")
    axes.set_xticks(range(len(names)), names, rotation=30 if len(names) > 5 else 0, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted", color=MUTED, fontsize=10)
    axes.set_ylabel("true", color=MUTED, fontsize=10)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _per_class(axes: Axes, evaluation: Evaluation) -> None:
    names = evaluation.class_names
    height = 0.25
    for k, (key, colour) in enumerate((("precision", PRECISION), ("recall", RECALL), ("f1", F1))):
        values = [getattr(evaluation.per_class[name], key) for name in names]
        at = [i + (k - 1) * height for i in range(len(names))]
        axes.barh(at, values, height=height * 0.9, color=colour, label={"f1": "F1"}.get(key, key))
        for y, value in zip(at, values, strict=True):
            axes.text(
                value + 0.008, y, f"{value:.2f}", va="center", fontsize=8, color=MUTED,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )  # fmt: skip
    _plain(axes, "Per class", " ")
    axes.axvline(
        evaluation.macro_f1, color=F1, linewidth=1, linestyle=(0, (4, 3)), zorder=0,
        label=f"macro-F1 {evaluation.macro_f1:.2f}",
    )  # fmt: skip
    labels = []
    for name in names:
        one = evaluation.per_class[name]
        auc = "" if one.auc is None else f"\nAUC {one.auc:.2f}"
        labels.append(f"{name}\n{one.support:,} {evaluation.unit}{auc}")
    axes.set_yticks(range(len(names)), labels, fontsize=9, linespacing=1.25)
    axes.set_ylim(len(names) - 0.45, -0.6)
    axes.set_xlim(0, 1.06)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.015), ncols=4, frameon=False, fontsize=9.5, labelcolor=MUTED,
        handlelength=1.0, handleheight=1.0, columnspacing=1.2, borderpad=0,
    )  # fmt: skip


def _reliability(axes: Axes, evaluation: Evaluation) -> None:
    bins = [b for b in evaluation.reliability if b.accuracy is not None and b.confidence is not None]
    width = evaluation.reliability[0].upper - evaluation.reliability[0].lower
    middles = [(b.lower + b.upper) / 2 for b in bins]
    accuracies = [b.accuracy or 0.0 for b in bins]
    confidences = [b.confidence or 0.0 for b in bins]
    # A bin of a handful of faces says little: it is drawn faint in proportion to the sampling error of its accuracy.
    for x, accuracy, confidence, b in zip(middles, accuracies, confidences, bins, strict=True):
        trust = 0.35 + 0.65 * min(1.0, b.count / 50)
        axes.bar(x, accuracy, width=width * 0.92, color=RECALL, alpha=trust)
        axes.plot([b.lower + 0.003, b.upper - 0.003], [confidence] * 2, color=GAP, linewidth=2.2, alpha=trust)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.bar(0, 0, color=RECALL, label="accuracy")
    axes.plot([], [], color=GAP, linewidth=2.2, label="mean confidence")
    mean_confidence = sum(c * b.count for c, b in zip(confidences, bins, strict=True)) / evaluation.n
    side = "over" if mean_confidence > evaluation.top1 else "under"
    _plain(
        axes,
        "Reliability",
        f"expected calibration error {percent(evaluation.ece)}\nmean confidence {percent(mean_confidence)}: "
        f"{side}-confident by {100 * abs(mean_confidence - evaluation.top1):.1f} points",
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(
        f"confidence of the predicted class (faint: fewer than 50 {evaluation.unit})", color=MUTED, fontsize=10
    )
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", frameon=False, fontsize=9.5, labelcolor=MUTED)


def _confidence(axes: Axes, evaluation: Evaluation) -> None:
    bins = evaluation.reliability
    width = bins[0].upper - bins[0].lower
    middles = [(b.lower + b.upper) / 2 for b in bins]
    right = [round(b.count * (b.accuracy or 0.0)) for b in bins]
    wrong = [b.count - hits for b, hits in zip(bins, right, strict=True)]
    axes.bar(middles, right, width=width * 0.92, color=RECALL, label="right")
    axes.bar(middles, wrong, width=width * 0.92, bottom=right, color=WRONG, label="wrong")
    sure = [b for b in bins if b.lower >= 0.8 - 1e-9]
    n_sure = sum(b.count for b in sure)
    note = f"{percent(n_sure / evaluation.n, 0)} of the {evaluation.unit} are predicted with at least 80 % confidence"
    if n_sure:
        note += f"\n{percent(sum(b.count * (b.accuracy or 0) for b in sure) / n_sure, 0)} of those are right"
    _plain(axes, "Confidence", note)
    axes.set_xlim(0, 1)
    axes.set_xlabel("confidence of the predicted class", color=MUTED, fontsize=10)
    axes.set_ylabel(evaluation.unit, color=MUTED, fontsize=10)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", frameon=False, fontsize=9.5, labelcolor=MUTED)


def _precision_recall(axes: Axes, evaluation: Evaluation) -> None:
    for k, (name, curve) in enumerate(evaluation.curves.items()):
        style = ("-", (0, (4, 2)), (0, (1, 1.5)))[k // len(CLASSES) % 3]
        # A point holds until the next laxer threshold is reached: a straight line between two would flatter.
        axes.step(
            (0.0, *curve.recall), (curve.precision[0], *curve.precision), where="pre", linewidth=1.7, linestyle=style,
            color=CLASSES[k % len(CLASSES)], label=f"{name} {curve.average_precision:.2f}",
        )  # fmt: skip
    mean, few = evaluation.mean_average_precision, len(evaluation.curves) <= 8
    _plain(axes, "Precision and recall", "" if mean is None else f"mean average precision {mean:.3f}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall", color=MUTED, fontsize=10)
    axes.set_ylabel("precision", color=MUTED, fontsize=10)
    axes.grid(color=RULE, linewidth=0.7)
    axes.legend(
        loc="lower left", frameon=True, framealpha=0.85, edgecolor="none", fontsize=9 if few else 7, labelcolor=MUTED,
        title="average precision", title_fontsize=9, ncols=1 if few else 2,
    )  # fmt: skip


def _intervals(axes: Axes, evaluation: Evaluation) -> None:
    names = evaluation.class_names
    for shift, key, colour in ((-0.13, "recall", RECALL), (0.13, "auc", F1)):
        for i, name in enumerate(names):
            one = evaluation.per_class[name]
            value, found = getattr(one, key), one.intervals.get(key)
            if value is None or found is None:
                continue
            axes.plot(found, [i + shift] * 2, color=colour, linewidth=4.5, alpha=0.35, solid_capstyle="butt")
            axes.plot(value, i + shift, "o", color=colour, markersize=5.5)
    for key, colour in (("recall", RECALL), ("auc", F1)):
        axes.plot([], [], "o-", color=colour, label={"auc": "AUC"}.get(key, key))
    _plain(axes, "How sure these are", "95 % bootstrap over the " + evaluation.unit)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlim(0, 1.01)
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.015), ncols=2, frameon=False, fontsize=9.5, labelcolor=MUTED,
        borderpad=0,
    )  # fmt: skip
