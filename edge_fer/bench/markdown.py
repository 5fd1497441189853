"""Results as Markdown that GitHub renders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_fer.bench.compare import ComparisonReport
from edge_fer.bench.overview import LEGEND, overviews
from edge_fer.bench.report import (
    BOUND_HEADINGS,
    CAMERA_HEADINGS,
    bound_rows,
    camera_rows,
    camera_sentences,
    disturbances,
    notes,
    used_columns,
)
from edge_fer.bench.results import BenchResult
from edge_fer.bench.statistics import unpaired_words
from edge_fer.core.files import atomic_file


def to_markdown(result: BenchResult) -> str:
    """Tables that GitHub renders, with their notes."""
    columns = used_columns(result.cases)
    rows = [[column.text(case) for column in columns] for case in result.cases]
    parts = [f"> {sentence}\n" for sentence in disturbances(result)]
    if overview := overview_markdown(result):
        parts += [*overview, "## Every case", ""]
    parts += [
        _table([column.heading for column in columns], rows, left=2),
        *(f"- {note}" for note in notes(result)),
        "",
    ]
    if result.camera is not None:
        parts += camera_markdown(result)
    if result.bounds:
        parts += bounds_markdown(result)
    return "\n".join(parts)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    lines = [
        "| " + " | ".join(headings) + " |",
        "|" + "|".join("---" if i < left else "--:" for i in range(len(headings))) + "|",
        *("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows),
    ]
    return "\n".join([*lines, ""])


def overview_markdown(result: BenchResult) -> list[str]:
    """The overview, the fastest of each row in bold."""
    parts: list[str] = []
    for overview in overviews(result):
        rows = [
            [name, *(f"**{cell.text}**" if cell.fastest else cell.text for cell in cells)]
            for name, cells in overview.rows
        ]
        parts += [f"**{overview.title}**", "", _table(("model", *overview.engines), rows, left=1)]
    return [*parts, LEGEND, ""] if parts else []


def camera_markdown(result: BenchResult) -> list[str]:
    return [
        "## Camera to label",
        "",
        _table(CAMERA_HEADINGS, camera_rows(result), left=1),
        *(f"- {sentence}" for sentence in camera_sentences(result)),
        "",
    ]


def bounds_markdown(result: BenchResult) -> list[str]:
    return [
        "## Other devices",
        "",
        "Modelled bounds are arithmetic on data sheets (`edge_fer/bench/device_profiles.yaml` names the sources), not "
        "measurements: no engine can be faster, and real ones are slower. A submitted measurement replaces its bound.",
        "",
        _table(BOUND_HEADINGS, bound_rows(result), left=3),
    ]


def write_comparison(
    path: Path, report: ComparisonReport, before: tuple[str, BenchResult], after: tuple[str, BenchResult]
) -> None:
    """Write a page that compares two results, each given with what it is called.

    Raises:
        DeviceError: it cannot be written.
    """
    (one, older), (other, newer) = before, after
    rows = [
        (
            case.key,
            "-" if case.before_ms is None else f"{case.before_ms:.3f}",
            "-" if case.after_ms is None else f"{case.after_ms:.3f}",
            "" if case.ratio is None else f"{case.ratio:.3f}",
            "" if case.interval is None else f"{case.interval[0]:.3f}-{case.interval[1]:.3f}",
            case.verdict,
        )
        for case in report.cases
    ]
    ratios = [case.ratio for case in report.cases if case.ratio is not None]
    what = "the median" if report.of == "time" else "the median in units of ONNX Runtime fp32 of the same round"
    largest = f" Largest change: {max(abs(ratio - 1) for ratio in ratios):.1%}." if ratios else ""
    words = unpaired_words(min(older.plan.rounds, newer.plan.rounds))
    parts = [
        f"# `{one}` against `{other}`",
        "",
        f"Plan `{newer.plan.name}`, {newer.plan.rounds} rounds; {newer.device}; {older.measured_utc} and "
        f"{newer.measured_utc}; edge-fer {newer.edge_fer_version}.",
        "",
        _table(("case", f"{one} ms", f"{other} ms", "times as long", "interval", "verdict"), rows, left=1),
        f"Times as long: {what}, {other} over {one}{words and f', with {words}'}. Accepted: {report.threshold:.1%}."
        f"{largest}",
        *(f"\n> {sentence}" for sentence in dict.fromkeys((*disturbances(older), *disturbances(newer)))),
        *(f"\n- {sentence}." for sentence in report.warnings),
        "",
    ]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def write_markdown(path: Path, result: BenchResult, command: str, pictures: Sequence[tuple[str, str]] = ()) -> None:
    """Write a page with the tables and the command that repeats them.

    Args:
        command: empty where it is not known.
        pictures: (what it shows, path as the page must write it).
    """
    shown = "".join(f"![{title}]({target})\n\n" for title, target in pictures)
    repeat = f"\nRepeat with:\n\n```\n{command}\n```\n" if command else ""
    with atomic_file(path) as temporary:
        temporary.write_text(
            f"# Benchmark `{result.plan.name}`\n\n{shown}{to_markdown(result)}{repeat}", encoding="utf-8"
        )
