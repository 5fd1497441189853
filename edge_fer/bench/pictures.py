"""A result as pictures: latency against accuracy, and where a frame's time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_fer.bench.overview import YARDSTICK
from edge_fer.bench.results import BenchResult, CaseResult
from edge_fer.core.errors import MissingDependencyError
from edge_fer.core.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from edge_fer.bench.camera import CameraResult

INK, MUTED, RULE = "#1b1f24", "#5d6673", "#d5dae1"
COLOURS = {
    "torch": "#b3541e",
    "torch-compile": "#e0a24f",
    "onnxruntime": "#5b7f3b",
    "openvino": "#2f6fb0",
    "benchmark-app": "#8a8f98",
}
NAMES = {
    "torch": "torch eager",
    "torch-compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
SOAK_WINDOWS, SOAK_S = 6, 60.0
"""A camera run of fewer windows or seconds shows nothing over time."""
TOUCHING, MARK_ROWS = 1.13, 0.2
"""Marks of times whose ratio is below the first overlap; they are drawn so many rows apart."""
MARKERS = {"fp32": "o", "bf16": "D", "fp16": "v", "int8": "s"}


def write_scatter(path: Path, result: BenchResult) -> bool:
    """Draw latency (logarithmic) against accuracy, with the front; false where no case has an accuracy.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    cases = [case for case in result.cases if case.p50_ms is not None and case.top1 is not None]
    if not cases:
        return False
    _save(path, draw_scatter(cases, result))
    return True


def write_latency(path: Path, result: BenchResult) -> bool:
    """Draw the latency of every model on every engine; false where there is only one model or one engine.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    cases = [case for case in result.cases if case.p50_ms is not None and case.case.runtime != YARDSTICK]
    models, ways = {c.case.model for c in cases}, {(c.case.runtime, c.case.precision) for c in cases}
    if len(models) < 2 or len(ways) < 2:
        return False
    _save(path, draw_latency(cases, result))
    return True


def write_stages(path: Path, result: BenchResult) -> bool:
    """Draw the stages of the camera run as bars; false where there was none.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if result.camera is None:
        return False
    _save(path, draw_stages(result))
    return True


def write_soak(path: Path, result: BenchResult) -> bool:
    """Draw labelled frames a second over the camera run; false where it was too short to show anything.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if result.camera is None or len(result.camera.windows) < SOAK_WINDOWS or result.camera.seconds < SOAK_S:
        return False
    _save(path, draw_soak(result.camera))
    return True


def _save(path: Path, figure: Figure) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingDependencyError("matplotlib", extra="report", purpose="drawing the pictures") from None
    figure = Figure(figsize=(width, height), dpi=120, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=MUTED, labelcolor=INK)
    axes.grid(color=RULE, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def draw_scatter(cases: list[CaseResult], result: BenchResult) -> Figure:
    """The scatter as a matplotlib figure; ``cases`` all have a latency and an accuracy."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure, axes = _figure(9.5, 5.8)
    axes.set_xscale("log")
    front = sorted((c for c in cases if c.pareto), key=lambda c: c.ms_per_face or 0)
    if len(front) > 1:
        axes.plot([c.ms_per_face for c in front], [100 * (c.top1 or 0) for c in front], color=INK, lw=1, ls=":")
    for case in cases:
        accuracy = 100 * (case.top1 or 0)
        colour = COLOURS.get(case.case.runtime, MUTED)
        if case.top1_interval is not None:
            axes.vlines(case.ms_per_face, *(100 * v for v in case.top1_interval), color=colour, lw=1, alpha=0.45)
        axes.scatter(
            case.ms_per_face,
            accuracy,
            marker=MARKERS[case.case.precision],
            s=70,
            color=colour,
            edgecolor=INK if case.pareto else "white",
            linewidth=1.2,
            zorder=3,
        )
    # One label a model, beside its fastest case: every label at every point would cover the points.
    for model in dict.fromkeys(case.case.model for case in cases):
        best = min((c for c in cases if c.case.model == model), key=lambda c: c.ms_per_face or 0)
        # Above every interval of the model, so that no marker lies under its name.
        top = max(c.top1_interval[1] if c.top1_interval else c.top1 or 0 for c in cases if c.case.model == model)
        axes.annotate(
            model,
            (best.ms_per_face, 100 * top),
            xytext=(-4, 5),
            textcoords="offset points",
            ha="left",
            color=INK,
            fontsize=9,
        )
    axes.set_xlabel("milliseconds a face, median (logarithmic)", color=INK)
    axes.set_ylabel(f"top-1 on {result.data or 'the data'}, %", color=INK)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        if _spread(cases) < 30
        else NullFormatter()
    )
    figure.suptitle(f"Speed and accuracy: {result.device}", color=INK, fontsize=11)
    handles = _key(cases)
    if len(front) > 1:
        handles.append(Line2D([], [], ls=":", color=INK, label="front"))
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_latency(cases: list[CaseResult], result: BenchResult) -> Figure:
    """A row for each model, a mark for each engine, at its milliseconds a face (logarithmic); the fastest is named.

    Rows are in the order of their fastest engines. Cases with several threads or faces lie in the same row.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    by_model: dict[str, list[CaseResult]] = {}
    for case in cases:
        by_model.setdefault(case.case.model, []).append(case)
    fastest = {model: min(found, key=lambda c: c.ms_per_face or 0) for model, found in by_model.items()}
    models = sorted(by_model, key=lambda model: fastest[model].ms_per_face or 0)
    figure, axes = _figure(9.5, 1.6 + 0.5 * len(models))
    axes.set_xscale("log")
    for place, model in enumerate(models):
        times = [case.ms_per_face or 0.0 for case in by_model[model]]
        axes.hlines(place, min(times), max(times), color=RULE, lw=3, zorder=1)
        for case, shift in _apart(by_model[model]):
            axes.scatter(
                case.ms_per_face,
                place + shift,
                marker=MARKERS[case.case.precision],
                s=62,
                color=COLOURS.get(case.case.runtime, MUTED),
                edgecolor="white",
                linewidth=0.8,
                zorder=3,
            )
        best = fastest[model]
        axes.annotate(
            f"{best.ms_per_face:.3g} ms",
            (best.ms_per_face, place),
            xytext=(-9, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=INK,
            fontsize=9,
        )
    names = [f"{model}\nuntrained" if model in result.untrained else model for model in models]
    axes.set_yticks(range(len(models)), names, fontsize=9)
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.06)
    # Room for the name of the leftmost mark.
    axes.set_xlim(left=0.33 * min(case.ms_per_face or 0.0 for case in cases))
    axes.set_xlabel("milliseconds a face, median (logarithmic)", color=INK)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(f"Speed of every network: {result.device}", color=INK, fontsize=11)
    axes.legend(handles=_key(cases), frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _apart(cases: list[CaseResult]) -> list[tuple[CaseResult, float]]:
    """Each case with a shift in rows, so that marks at nearly the same time lie beside each other."""
    found: list[tuple[CaseResult, float]] = []
    group: list[CaseResult] = []
    for case in [*sorted(cases, key=lambda c: c.ms_per_face or 0), None]:
        if case is not None and (not group or (case.ms_per_face or 0) < TOUCHING * (group[-1].ms_per_face or 0)):
            group.append(case)
            continue
        found += [(one, MARK_ROWS * (place - (len(group) - 1) / 2)) for place, one in enumerate(group)]
        group = [] if case is None else [case]
    return found


def draw_soak(camera: CameraResult) -> Figure:
    """Labelled frames a second in each window, with the burst as a line; temperature on the right where it is known."""
    figure, axes = _figure(9.0, 4.2)
    times = [window.start_s for window in camera.windows]
    rates = [window.fps for window in camera.windows]
    axes.plot(times, rates, color=COLOURS["openvino"], lw=2, marker="o", ms=4, label="labelled frames a second")
    if (pair := camera.burst_and_sustained()) is not None:
        axes.axhline(pair[0], color=MUTED, lw=1, ls=":", label=f"burst {pair[0]:.0f}, sustained {pair[1]:.0f}")
    axes.set_ylim(0, 1.15 * max(rates))
    axes.set_xlabel("seconds", color=INK)
    axes.set_ylabel("labelled frames a second", color=INK)
    handles, labels = axes.get_legend_handles_labels()
    degrees = [window.temperature_c for window in camera.windows]
    if all(value is not None for value in degrees):
        right = axes.twinx()
        right.plot(times, degrees, color=COLOURS["torch"], lw=1.5, label="°C")
        right.set_ylabel("hottest sensor of the processor, °C", color=INK)
        right.spines["top"].set_visible(False)
        handles, labels = ([*a, *b] for a, b in zip((handles, labels), right.get_legend_handles_labels(), strict=True))
    axes.legend(handles, labels, frameon=False, fontsize=9, loc="lower right")
    figure.suptitle(f"Burst against sustained: {camera.engine}", color=INK, fontsize=11)
    return figure


def _key(cases: list[CaseResult]) -> list[Line2D]:
    """What colours and marks mean."""
    from matplotlib.lines import Line2D

    runtimes = dict.fromkeys(case.case.runtime for case in cases)
    precisions = dict.fromkeys(case.case.precision for case in cases)
    return [
        *(
            Line2D([], [], ls="", marker="o", color=COLOURS.get(name, MUTED), label=NAMES.get(name, name))
            for name in runtimes
        ),
        *(Line2D([], [], ls="", marker=MARKERS[name], color=MUTED, label=name) for name in precisions),
    ]


def _spread(cases: list[CaseResult]) -> float:
    values = [case.ms_per_face or 1.0 for case in cases]
    return max(values) / min(values)


def draw_stages(result: BenchResult) -> Figure:
    """Median of each stage as a bar, with a line to its 99th percentile; the frame's age below."""
    camera = result.camera
    assert camera is not None
    stages = {name: spread for name, spread in camera.stages.items() if name != "wait"}
    names = [*stages, "frame age"]
    spreads = [*stages.values(), camera.age]
    figure, axes = _figure(8.5, 1.4 + 0.45 * len(names))
    places = range(len(names))
    colours = [COLOURS["openvino"]] * len(stages) + [INK]
    axes.barh(places, [s.p50 for s in spreads], color=colours, height=0.62)
    for place, spread in zip(places, spreads, strict=True):
        axes.hlines(place, spread.p50, spread.p99, color=MUTED, lw=1.2)
        axes.plot(spread.p99, place, marker="|", color=MUTED, ms=9)
        axes.annotate(
            f"{spread.p50:.2f}",
            (spread.p99, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=9,
        )
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("milliseconds; bar and number: median, line: to the 99th percentile", color=INK)
    figure.suptitle(f"Where a frame's time goes: {camera.camera}", color=INK, fontsize=11)
    return figure
