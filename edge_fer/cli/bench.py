"""``edge-fer bench``: the latency and accuracy table of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from edge_fer.bench.results import BenchResult

WIDE = 110
NARROW = frozenset({"p90", "faces/s", "RSS MB", "cold start s"})
"""Columns that a narrow terminal goes without; the files have them."""


def bench(
    plan: Path | None = typer.Option(None, help="A YAML plan; default: the shipped model and ResNet18@224."),
    data: Path | None = typer.Option(None, help="Labelled faces, for the accuracy of trained models."),
    split: str | None = typer.Option(None, help="Part of the data, such as test."),
    threads: int | None = typer.Option(None, min=1, help="Threads of every case, instead of the plan's."),
    rounds: int | None = typer.Option(None, min=1, help="Rounds, instead of the plan's."),
    min_seconds: float | None = typer.Option(None, min=0.01, help="Seconds a round, instead of the plan's."),
    json: Path | None = typer.Option(None, help="Write everything, raw samples too, to this file."),
    markdown: Path | None = typer.Option(None, help="Write the table to this Markdown file."),
) -> None:
    """Measure what each engine costs here: every case in a process of its own, rounds interleaved.

    Leave the machine alone meanwhile; a case whose rounds disagree is marked with ~.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from edge_fer.bench.measure import run_plan
    from edge_fer.bench.plan import default_plan, load_plan
    from edge_fer.bench.report import write_markdown
    from edge_fer.bench.results import summarise, write_json

    chosen = default_plan() if plan is None else load_plan(plan)
    changes = {"threads": (threads,) if threads else None, "rounds": rounds, "min_seconds": min_seconds}
    chosen = chosen.model_copy(update={key: value for key, value in changes.items() if value is not None})
    if data is not None:
        from edge_fer.data.datasets import open_dataset

        open_dataset(data, split)  # a wrong path should be told now, not after minutes
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        outcomes = run_plan(
            chosen,
            data=data,
            split=split,
            progress=lambda text, done, total: bar.update(task, description=text, completed=done, total=total),
        )
    folder = None if data is None else data.resolve().name
    named = f"{folder}/{split}" if folder and split else folder
    result = summarise(chosen, outcomes, named)
    _show(console, result)
    if json is not None:
        write_json(json, result)
    if markdown is not None:
        parts = ["edge-fer bench"] + ([f"--plan {plan.as_posix()}"] if plan else [])
        parts += [f"--threads {threads}"] if threads else []
        parts += [f"--rounds {rounds}"] if rounds else []
        parts += [f"--min-seconds {min_seconds:g}"] if min_seconds else []
        parts += [f"--data DIR/{folder}"] if data else []
        parts += [f"--split {split}"] if split else []
        write_markdown(markdown, result, " ".join(parts))


def _show(console: Console, result: BenchResult) -> None:
    from rich.table import Table

    from edge_fer.bench.report import HEADINGS, notes, row

    for model in dict.fromkeys(case.case.model for case in result.cases):
        rows = [row(case)[1:] for case in result.cases if case.case.model == model]
        headings = HEADINGS[1:]
        hidden = NARROW if console.width < WIDE else frozenset[str]()
        used = [
            i for i in range(len(headings)) if headings[i] not in hidden and (i < 2 or any(cells[i] for cells in rows))
        ]
        table = Table(title=model, title_justify="left", pad_edge=False, box=None, padding=(0, 1))
        for i in used:
            table.add_column(headings[i], justify="left" if i == 0 else "right", no_wrap=i < 2)
        for cells in rows:
            table.add_row(*(cells[i] for i in used))
        console.print(table)
        console.print()
    for note in notes(result):
        console.print(note, style="dim", highlight=False, markup=False)
