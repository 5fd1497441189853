"""Results of ``edge-fer bench`` as tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from edge_fer.bench.compare import ComparisonReport
    from edge_fer.bench.results import BenchResult

WIDE = 110
"""Columns of a terminal that has room for everything."""


def show_result(console: Console, result: BenchResult) -> None:
    """A table for each model, the notes, the camera, and other devices."""
    from rich.table import Table

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

    for sentence in disturbances(result):
        console.print(sentence, style="yellow", highlight=False, markup=False)
    for model in dict.fromkeys(case.case.model for case in result.cases):
        cases = [case for case in result.cases if case.case.model == model]
        columns = [c for c in used_columns(cases)[1:] if console.width >= WIDE or not c.wide]
        table = Table(title=model, title_justify="left", pad_edge=False, box=None, padding=(0, 1))
        for index, column in enumerate(columns):
            table.add_column(column.heading, justify="left" if index == 0 else "right", no_wrap=index < 2)
        room = console.width >= WIDE
        for case in cases:
            table.add_row(*((column.text if room else column.brief or column.text)(case) for column in columns))
        console.print(table)
        console.print()
    for note in notes(result):
        console.print(note, style="dim", highlight=False, markup=False)
    if result.camera is not None:
        _rows(console, "Camera to label", CAMERA_HEADINGS, camera_rows(result), 1)
        for sentence in camera_sentences(result):
            console.print(sentence, style="dim", highlight=False, markup=False)
    rows = bound_rows(result)
    for device in dict.fromkeys(row[0] for row in rows):
        title = f"{device} (modelled bounds are not measurements)"
        _rows(console, title, BOUND_HEADINGS[1:], [row[1:] for row in rows if row[0] == device], 2)


def _rows(console: Console, title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]], left: int) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", pad_edge=False, box=None, padding=(0, 1))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


COLOUR = {"slower": "red", "failed": "red", "faster": "green", "repaired": "green", "same": "dim"}


def show_comparison(console: Console, report: ComparisonReport, before: str, after: str) -> None:
    """A row for each case of both results; ``before`` and ``after`` are what they are called."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1))
    other_accuracy = ["top-1"] * any(case.accuracy_change for case in report.cases)
    for heading in ("case", f"{before} ms", f"{after} ms", "times as long", "interval", "verdict", *other_accuracy):
        # A key that is too long is folded, not cut: it tells the case from the others.
        table.add_column(
            escape(heading), justify="left" if heading in ("case", "verdict") else "right", overflow="fold"
        )
    for case in report.cases:
        table.add_row(
            escape(case.key),
            "-" if case.before_ms is None else f"{case.before_ms:.3f}",
            "-" if case.after_ms is None else f"{case.after_ms:.3f}",
            "" if case.ratio is None else f"{case.ratio:.3f}",
            "" if case.interval is None else f"{case.interval[0]:.3f}-{case.interval[1]:.3f}",
            f"[{COLOUR[case.verdict]}]{escape(f'{after} {case.verdict}') if case.verdict != 'same' else 'same'}[/]",
            *("" if not case.accuracy_change else f"{100 * case.accuracy_change:+.2f} points" for _ in other_accuracy),
        )
    console.print(table)
    kind = "times" if report.of == "time" else "times in units of ONNX Runtime fp32"
    console.print(
        f"\nCompared: {kind}; accepted: {report.threshold:.1%}. {len(report.worse)} of {len(report.cases)} cases worse "
        f"in {after}.",
        highlight=False,
        markup=False,
    )
    for case in report.cases:
        if case.reason:
            console.print(f"{case.key}: {case.reason}", style="dim", highlight=False, markup=False)
    for name, keys in ((before, report.only_before), (after, report.only_after)):
        if keys:
            console.print(f"Only in {name}: {', '.join(keys)}", style="yellow", highlight=False, markup=False)
    for warning in report.warnings:
        console.print(f"Note: {warning}", style="yellow", highlight=False, markup=False)
