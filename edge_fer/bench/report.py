"""Results as tables: on the terminal, as Markdown and as CSV, all from the same columns."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_fer.bench.conditions import Disturbance
from edge_fer.bench.results import BenchResult, CaseResult
from edge_fer.bench.statistics import Interval, interval_words
from edge_fer.core.files import atomic_file

SHORT = {
    "onnxruntime": "ORT",
    "openvino": "OpenVINO",
    "torch-compile": "torch.compile",
    "benchmark-app": "OpenVINO's benchmark_app",
}
OWN_CALL_BAR, OWN_CALL_BAR_US, LONG_CALL_MS = 0.03, 20.0, 2.0
"""Our engine call should take at most this fraction longer than ``benchmark_app`` where that takes more than 2 ms, and
at most so many microseconds longer where it takes less."""

FEW_CALLS = 100
"""With fewer, the 99th percentile lies between the two longest calls."""

Value = float | int | str | None


@dataclass(frozen=True)
class Column:
    """One column: its heading, what a case has there, and how that is written.

    Attributes:
        value: plain value in the unit of the heading, for sorting and CSV; ``None`` is an empty cell.
        text: the cell for people.
        brief: the cell where there is little room; the same where that is ``None``.
        wide: only where there is room for it.
        differs: only where cases differ in it: what is the same for all stands in the notes.
    """

    heading: str
    value: Callable[[CaseResult], Value]
    text: Callable[[CaseResult], str]
    wide: bool = False
    differs: bool = False
    brief: Callable[[CaseResult], str] | None = None


def engine_name(result: CaseResult) -> str:
    """Runtime and precision, with threads and batch where they are not one."""
    case = result.case
    more = [f"{case.threads} threads"] * (case.threads > 1) + [f"{case.batch} faces"] * (case.batch > 1)
    name = SHORT.get(case.runtime, case.runtime)
    return f"{name} {case.precision}" + (f", {', '.join(more)}" if more else "")


def _figure(
    heading: str,
    value: Callable[[CaseResult], float | None],
    pattern: str,
    *,
    wide: bool = False,
    differs: bool = False,
) -> Column:
    def text(case: CaseResult) -> str:
        found = value(case)
        return "" if found is None else format(found, pattern)

    return Column(heading, value, text, wide, differs)


def _ratio(
    heading: str, value: Callable[[CaseResult], float | None], interval: Callable[[CaseResult], Interval | None]
) -> Column:
    def text(case: CaseResult) -> str:
        found, sure = value(case), interval(case)
        if found is None:
            return ""
        # A ratio to itself, and one whose rounds agree to the digit shown, needs no interval.
        if sure is None or format(sure[0], ".1f") == format(sure[1], ".1f"):
            return f"{found:.1f}x"
        return f"{found:.1f}x ({sure[0]:.1f}-{sure[1]:.1f})"

    def brief(case: CaseResult) -> str:
        return text(case).partition(" ")[0]

    return Column(heading, value, text, brief=brief)


def _scaled(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def _accuracy(case: CaseResult) -> str:
    if case.top1 is None:
        return "untrained" if case.untrained and not case.error else ""
    return f"{case.top1:.2%}" + (
        f" ({case.top1_interval[0]:.1%}-{case.top1_interval[1]:.1%})" if case.top1_interval else ""
    )


def calls(case: CaseResult) -> int:
    """Calls of all rounds."""
    return sum(r.count for r in case.rounds)


def _p99(case: CaseResult) -> str:
    """In brackets where there were too few calls for it."""
    if case.p99_ms is None:
        return ""
    return f"({case.p99_ms:.3f})" if calls(case) < FEW_CALLS else f"{case.p99_ms:.3f}"


def executed_layers(case: CaseResult) -> str:
    """Weighted layers by the precision that they are computed in, most of them first."""
    return ", ".join(f"{count} {name}" for name, count in sorted(case.layers.items(), key=lambda item: -item[1]))


def _attained(case: CaseResult) -> str:
    """In brackets where the case beat what was to be its bound."""
    if case.attained is None:
        return ""
    return f"({case.attained:.0%})" if case.attained > 1 else f"{case.attained:.0%}"


def _measured(case: CaseResult) -> str:
    return "" if case.error else case.measured_utc[:16].replace("T", " ")


COLUMNS = (
    Column("model", lambda c: c.case.model, lambda c: c.case.model),
    Column("engine", engine_name, engine_name),
    Column(
        "p50 ms",
        lambda c: c.p50_ms,
        lambda c: "-" if c.p50_ms is None else f"{'~' if c.noisy else ''}{c.p50_ms:.3f}",
    ),
    _figure("p90", lambda c: c.p90_ms, ".3f", wide=True),
    Column("p99", lambda c: c.p99_ms, _p99),
    _figure("faces/s", lambda c: c.faces_per_s, ",.0f", wide=True),
    _ratio("vs torch", lambda c: c.speedup_torch, lambda c: c.speedup_torch_interval),
    _ratio("vs ORT fp32", lambda c: c.speedup_ort_fp32, lambda c: c.speedup_ort_fp32_interval),
    Column("top-1", lambda c: c.top1, _accuracy, brief=lambda c: _accuracy(c).partition(" ")[0]),
    _figure("macro-F1", lambda c: c.macro_f1, ".3f", wide=True),
    _figure("same label", lambda c: c.agreement_fp32, ".2%"),
    Column("of bound", lambda c: c.attained, _attained),
    _figure("cold start s", lambda c: _scaled(c.cold_start_ms, 1e3), ".2f", wide=True),
    _figure("file MB", lambda c: _scaled(c.file_bytes, 1e6), ".1f"),
    _figure("RSS MB", lambda c: _scaled(c.peak_rss_bytes, 1e6), ",.0f", wide=True),
    _figure("VRAM MB", lambda c: _scaled(c.vram_bytes, 1e6), ",.0f", wide=True),
    _figure("mJ/face", lambda c: _scaled(c.joules_per_face, 1e-3), ".2f", wide=True),
    _figure("MHz", lambda c: c.clock_mhz, ",.0f", wide=True, differs=True),
    _figure("°C", lambda c: c.temperature_c, ".0f", wide=True, differs=True),
    Column("executed layers", executed_layers, executed_layers, wide=True),
    Column("measured", lambda c: c.measured_utc, _measured, wide=True, differs=True),
    Column("front", lambda c: int(c.pareto), lambda c: "●" if c.pareto else ""),
)
HEADINGS = tuple(column.heading for column in COLUMNS)


def row(result: CaseResult) -> tuple[str, ...]:
    """Cells under :data:`HEADINGS`; a noisy median is marked with ``~``, a failed case shows a dash."""
    return tuple(column.text(result) for column in COLUMNS)


def used_columns(cases: Sequence[CaseResult]) -> tuple[Column, ...]:
    """Those that say something about at least one case; model, engine and median always."""

    def useful(column: Column) -> bool:
        said = {column.text(case) for case in cases} - {""}
        return len(said) > column.differs

    return tuple(c for i, c in enumerate(COLUMNS) if i < 3 or useful(c))


def notes(result: BenchResult) -> list[str]:
    """What a reader must know to read the table."""
    plan = result.plan
    found = [
        f"{result.device}; {plan.rounds} round{'s' * (plan.rounds > 1)} of at least {plan.min_seconds:g} s a case, "
        "interleaved, a fresh process for every case of every round, one alive at a time; edge-fer "
        f"{result.edge_fer_version}, "
        f"{', '.join(f'{name} {version}' for name, version in result.packages.items())}, {result.measured_utc}.",
        f"Ratios: medians of the same round{interval_words(plan.rounds)}. Cold start: process start to the first "
        "result, engine cache warm. `fp32` of OpenVINO is its f32 hint, not its default.",
        f"The machine: {_conditions(result)}. {_overhead(result)}",
    ]
    if any(case.layers for case in result.cases):
        found.append("Executed layers: convolutions and dense layers of the loaded network, by what computes them.")
    if result.data:
        found.append(
            f"Accuracy on {result.data} with a 95 % bootstrap interval; same label: as fp32 gives. ●: no other case "
            "with as many threads and faces is both faster and at least as accurate."
        )
    found += [
        f"Measured later than the others, on {run.measured_utc[:16].replace('T', ' ')}, in as many rounds, on the same "
        f"machine with the same versions: {', '.join(run.models)}" + (f" (`{run.command}`)." if run.command else ".")
        for run in result.remeasured
    ]
    if result.untrained:
        found.append(f"Untrained weights, speed only: {', '.join(result.untrained)}.")
    if result.peaks is not None:
        found.append(
            "Of bound: modelled lower bound over the median; per layer the larger of arithmetic and memory, from peaks "
            f"measured here: {_peaks(result)}."
        )
    if any(case.attained is not None and case.attained > 1 for case in result.cases):
        found.append(
            "Of bound in brackets: the case is faster than its bound, so that the peaks were measured too low here."
        )
    found += _own_call(result)
    if any(0 < calls(case) < FEW_CALLS for case in result.cases):
        found.append(f"p99 in brackets: from fewer than {FEW_CALLS} calls, so hardly more than the longest one.")
    found += [
        f"Failed: {case.case.model}, {engine_name(case)}: {case.error.rstrip('.')}."
        for case in result.cases
        if case.error
    ]
    if any(case.noisy for case in result.cases):
        found.append(
            "~: the rounds of this case differ by more than 10 %, or one call in ten takes half as long again as the "
            "median."
        )
    return found


def disturbances(result: BenchResult) -> list[str]:
    """What makes the whole result unfit to be quoted, as sentences."""
    found = []
    runs = [("", result.disturbance), *((f"{', '.join(run.models)}: ", run.disturbance) for run in result.remeasured)]
    if result.camera is not None:
        runs.append(("camera to label: ", result.camera.disturbance))
    for of, taken in runs:
        if taken is not None and taken.doubtful:
            found.append(
                f"Disturbed: {of}other programs took {taken.others:.0%} of the processor meanwhile, other guests of "
                f"its host {taken.stolen:.0%}. Measure again before quoting these figures."
            )
    if result.plan.rounds < 2:
        found.append("One round only: there is no interval, and nothing shows how well the figures repeat.")
    return found


def _conditions(result: BenchResult) -> str:
    def both(text: Callable[[float], str], before: float | None, after: float | None) -> str:
        if before is None or after is None:
            return ""
        return f"{text(before)} before, {text(after)} after"

    before, after = result.before, result.after
    parts = [
        both(lambda v: f"{v:.0f} MHz", before.clock_mhz, after.clock_mhz),
        both(lambda v: f"load {v:.1f}", before.load_1m, after.load_1m),
        both(lambda v: f"{v:.0f} °C", before.temperature_c, after.temperature_c),
    ]
    if result.disturbance is not None:
        parts.append(
            f"other programs took {result.disturbance.others:.1%} of the processor meanwhile, the hypervisor "
            f"{result.disturbance.stolen:.1%}"
        )
    parts += [sentence for sentence in before.noise if not sentence.startswith("other programs")]
    return "; ".join(part for part in parts if part) or "it tells nothing about itself"


def _overhead(result: BenchResult) -> str:
    cost = f"Taking a time costs {result.clock_overhead_us:.2f} µs a call"
    fastest = min((case.p50_ms for case in result.cases if case.p50_ms), default=None)
    share = "" if fastest is None else f", {result.clock_overhead_us / fastest / 1e3:.2%} of the fastest median"
    return f"{cost}{share}."


def _peaks(result: BenchResult) -> str:
    assert result.peaks is not None

    def threads(count: int) -> str:
        return f"with {count} thread{'s' * (count > 1)}"

    arithmetic = [
        f"{peak.precision} {peak.ops_per_s / 1e9:,.0f} Gop/s {threads(peak.threads)} "
        f"({SHORT.get(peak.engine, peak.engine)})"
        for peak in result.peaks.compute
    ]
    # The largest size stands for memory itself; smaller ones lie in caches.
    largest = {rate.threads: rate for rate in sorted(result.peaks.copy_rates, key=lambda rate: rate.size_bytes)}
    memory = [
        f"memory {rate.bytes_per_s / 1e9:.0f} GB/s {threads(rate.threads)} ({rate.way}, {rate.size_bytes >> 20} MiB)"
        for rate in largest.values()
    ]
    return ", ".join(arithmetic + memory)


def _own_call(result: BenchResult) -> list[str]:
    """How our engine calls compare with OpenVINO's own tool, in the same rounds."""
    found = []
    for case in result.cases:
        app = result.case(case.case.model_copy(update={"runtime": "benchmark-app"}).key)
        if case.speedup_benchmark_app is None or app is None or app.p50_ms is None:
            continue
        share = 1 / case.speedup_benchmark_app - 1
        extra_us = 1e3 * share * app.p50_ms
        most = OWN_CALL_BAR if app.p50_ms > LONG_CALL_MS else OWN_CALL_BAR_US / (1e3 * app.p50_ms)
        interval, least = "", share
        if case.speedup_benchmark_app_interval is not None:
            high, least = (1 / end - 1 for end in case.speedup_benchmark_app_interval)
            interval = f" ({least:+.1%} to {high:+.1%})"
        verdict = (
            "within the bar" if share <= most else "on both sides of the bar" if least <= most else "beyond the bar"
        )
        found.append(f"{case.case.model} {engine_name(case)} {share:+.1%}{interval}, {extra_us:+.0f} µs, {verdict}")
    bar = f"{OWN_CALL_BAR:.0%} above {LONG_CALL_MS:g} ms, {OWN_CALL_BAR_US:g} µs below"
    return [f"Our call against OpenVINO's benchmark_app (bar: {bar}): {'; '.join(found)}."] if found else []


CAMERA_HEADINGS = ("milliseconds", "p50", "p90", "p99", "largest")


def camera_rows(result: BenchResult) -> list[tuple[str, ...]]:
    """``(what, p50, p90, p99, largest)`` in milliseconds: each stage, then the age of a frame."""
    assert result.camera is not None
    parts = [*result.camera.stages.items(), ("frame age: arrival to labels", result.camera.age)]
    return [(name, *(f"{v:.2f}" for v in (s.p50, s.p90, s.p99, s.maximum))) for name, s in parts]


def camera_sentences(result: BenchResult) -> list[str]:
    """The camera run in words."""
    camera = result.camera
    assert camera is not None
    found = [
        f"{camera.camera}; detector {camera.detector}; {camera.engine}.",
        f"{camera.frames} frames labelled ({camera.labelled_fps:.1f} a second), {camera.dropped} dropped, "
        f"{camera.faces} faces, {camera.cpu_ms_per_frame:.1f} ms of processor time a labelled frame.",
        *camera.notes,
    ]
    if (pair := camera.burst_and_sustained()) is not None:
        first, last = camera.windows[0], camera.windows[-1]
        clocks = (
            f"; clock {first.clock_mhz:.0f} to {last.clock_mhz:.0f} MHz" if first.clock_mhz and last.clock_mhz else ""
        )
        heat = (
            f"; {first.temperature_c:.0f} to {last.temperature_c:.0f} °C"
            if first.temperature_c is not None and last.temperature_c is not None
            else ""
        )
        found.append(
            f"Burst {pair[0]:.1f} labelled frames a second, sustained {pair[1]:.1f} (median of the last third of "
            f"{camera.seconds:.0f} s){clocks}{heat}{_others(camera.disturbance)}."
        )
    return found


def _others(taken: Disturbance | None) -> str:
    return "" if taken is None else f"; others took {taken.others + taken.stolen:.1%} of the processor meanwhile"


def bound_rows(result: BenchResult) -> list[tuple[str, ...]]:
    """``(device, model, precision, faces, GMAC, ms, kind, memory-bound part)`` of every bound."""
    return [
        (
            bound.device if bound.measured_ms is None else bound.measured_by,
            bound.model,
            bound.precision,
            str(bound.batch),
            f"{bound.gmac:.3f}",
            f"≥ {bound.bound_ms:.2f}" if bound.measured_ms is None else f"{bound.measured_ms:.2f}",
            bound.kind if bound.measured_ms is None else f"measured, {bound.bound_ms / bound.measured_ms:.0%} of bound",
            f"{bound.memory_share:.0%}",
        )
        for bound in result.bounds
    ]


BOUND_HEADINGS = ("device", "model", "precision", "faces", "GMAC", "ms", "kind", "memory-bound")


def write_csv(path: Path, result: BenchResult) -> None:
    """Write plain values, a row a case: every column, empty where there is nothing, ratios with their intervals."""
    extra: tuple[tuple[str, Callable[[CaseResult], Interval | None]], ...] = (
        ("vs torch", lambda c: c.speedup_torch_interval),
        ("vs ORT fp32", lambda c: c.speedup_ort_fp32_interval),
        ("top-1", lambda c: c.top1_interval),
    )
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        bounds = [f"{name} {end}" for name, _ in extra for end in ("low", "high")]
        writer.writerow(["key", *HEADINGS, *bounds, "noisy", "error"])
        for case in result.cases:
            cells = [column.value(case) for column in COLUMNS]
            ends = [end for _, interval in extra for end in (interval(case) or (None, None))]
            writer.writerow([case.case.key, *cells, *ends, int(case.noisy), case.error])
