"""The table that people quote: a row for each model, a column for each engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from edge_fer.bench.plan import Runtime
from edge_fer.bench.report import engine_name
from edge_fer.bench.results import BenchResult, CaseResult

LEGEND = (
    "Median milliseconds of a call; in brackets how many times as fast as torch eager and as ONNX Runtime fp32, where "
    "those were measured in the same rounds. ~: noisy, as the notes explain."
)
RUNTIMES = get_args(Runtime)
YARDSTICK = "benchmark-app"
"""It is there to check our own calls, and nobody runs a product on it."""


@dataclass(frozen=True)
class OverviewCell:
    """``fastest`` of its row; ``ms`` is ``None`` where nothing was measured."""

    text: str
    ms: float | None = None
    fastest: bool = False


@dataclass(frozen=True)
class Overview:
    """All models and engines with as many threads and faces a call.

    Attributes:
        title: threads and faces.
        engines: headings of the columns after the model's.
        rows: the model, called untrained where its accuracy would mean nothing, and a cell for each engine.
    """

    title: str
    engines: tuple[str, ...]
    rows: tuple[tuple[str, tuple[OverviewCell, ...]], ...]


def overviews(result: BenchResult) -> tuple[Overview, ...]:
    """One for each combination of threads and faces; none where there is only one engine to show."""
    groups: dict[tuple[int, int], list[CaseResult]] = {}
    for case in result.cases:
        if case.case.runtime != YARDSTICK:
            groups.setdefault((case.case.threads, case.case.batch), []).append(case)
    made = [_overview(key, cases, result.untrained) for key, cases in groups.items()]
    return tuple(overview for overview in made if len(overview.engines) > 1)


def _overview(key: tuple[int, int], cases: list[CaseResult], untrained: tuple[str, ...]) -> Overview:
    # Runtimes in the order that plans know them in, precisions in the plan's own.
    ways = sorted(
        dict.fromkeys((case.case.runtime, case.case.precision) for case in cases),
        key=lambda way: RUNTIMES.index(way[0]),
    )
    by_way = {(case.case.model, case.case.runtime, case.case.precision): case for case in cases}
    names = {way: next(c for c in cases if (c.case.runtime, c.case.precision) == way) for way in ways}
    rows = []
    for model in dict.fromkeys(case.case.model for case in cases):
        found = [by_way.get((model, *way)) for way in ways]
        best = min((c.p50_ms for c in found if c is not None and c.p50_ms is not None), default=None)
        name = f"{model}, untrained" if model in untrained else model
        rows.append((name, tuple(_cell(case, best) for case in found)))
    threads, batch = key
    title = f"{threads} thread{'s' * (threads > 1)}, {batch} face{'s' * (batch > 1)} a call"
    return Overview(title, tuple(engine_name(names[way]).partition(",")[0] for way in ways), tuple(rows))


def _cell(case: CaseResult | None, best: float | None) -> OverviewCell:
    if case is None:
        return OverviewCell("")
    if case.p50_ms is None:
        return OverviewCell("failed")
    baseline = (case.case.runtime, case.case.precision) == ("torch", "fp32")
    ratios = [ratio for ratio in (case.speedup_torch, case.speedup_ort_fp32) if ratio is not None]
    text = f"{'~' if case.noisy else ''}{_three_figures(case.p50_ms)}"
    if ratios and not baseline:
        text += f" ({' / '.join(f'{ratio:.1f}' for ratio in ratios)})"
    return OverviewCell(text, case.p50_ms, case.p50_ms == best)


def _three_figures(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"
