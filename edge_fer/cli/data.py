"""``edge-fer data``: datasets become faces that can be trained on, and what is wrong with them is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_fer.cli.output_files import check_outputs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edge_fer.data.audit_report import AuditReport
    from edge_fer.data.class_distribution import Distribution
    from edge_fer.data.prepared import PreparedSummary

app = typer.Typer(
    help="Prepare, audit and count datasets: FER-2013, FER+, RAF-DB, AffectNet (YOLO), KDEF, class folders.",
    add_completion=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
)
DATA = typer.Argument(..., help="Datasets: PATH, or FORMAT=PATH, such as ferplus=FER. The layout is recognised.")


@app.command()
def prepare(
    config: str = typer.Option(..., help="A recipe: a YAML file, or a shipped one's name (fer2013, three-sources)."),
    out: Path = typer.Option(..., help="Folder of the faces: OUT/{train,val,test}/<class>/*, with a manifest."),
    workers: int | None = typer.Option(None, min=1, help="Processes that cut faces; default: all cores."),
    fresh: bool = typer.Option(False, "--fresh", help="Throw unfinished work away; replace a dataset prepared before."),
) -> None:
    """Find, align and cut the faces of several datasets, leave out what shows nothing, and divide them without leaks.

    An interrupted run is continued by the same command; OUT appears when everything is done.
    """

    from rich.console import Console

    from edge_fer.core.threads import usable_threads
    from edge_fer.data.prepare import collect
    from edge_fer.data.prepare import prepare as run
    from edge_fer.data.prepare_recipe import load_recipe

    console = Console()
    recipe, beside = load_recipe(config)
    collected = collect(recipe, beside)
    table = _table("Classes", ("source", False), ("their class", False), ("becomes", False), ("pictures", True))
    for row in collected.mapping:
        table.add_row(row.source, row.theirs, row.ours or "[yellow]left out[/]", str(row.pictures))
    console.print(table)
    for source, reasons in collected.passed_over.items():
        for reason, count in reasons.items():
            console.print(f"{source}: {count} passed over: {reason}", highlight=False)
    try:
        with _Bar(console) as bar:
            summary = run(recipe, collected, out, workers=workers or usable_threads(), fresh=fresh, progress=bar.tell)
    except KeyboardInterrupt:
        console.print("Interrupted; the same command goes on from here.")
        raise
    _show_prepared(console, out, summary)


@app.command()
def audit(
    data: list[Path] = DATA,
    split: list[str] = typer.Option([], help="Only these splits. Repeatable; default: all."),
    radius: int = typer.Option(10, min=0, max=11, help="Hashes that differ in so many of 64 bits are compared."),
    correlation: float = typer.Option(0.9, min=0.5, max=1.0, help="Twins' pixels must correlate this much."),
    mirrored: bool = typer.Option(True, help="Whether mirror images count as twins."),
    json: Path | None = typer.Option(None, help="Write everything here; `edge-fer eval` reads it."),
    png: Path | None = typer.Option(None, help="Draw pairs to this file. It shows pictures of the dataset."),
    pairs: int = typer.Option(60, min=1, help="How many pairs --png shows."),
    threads: int | None = typer.Option(None, min=1, help="Threads that decode; default: all cores, at most 8."),
) -> None:
    """Find pictures that lie in two splits, copies within one, and copies with different labels."""
    from rich.console import Console

    from edge_fer.data.audit import audit as run
    from edge_fer.data.audit import collect, draw_pairs
    from edge_fer.data.audit_report import write_audit
    from edge_fer.data.readers.registry import split_format
    from edge_fer.data.twins import TwinSpec

    check_outputs({"--json": json, "--png": png}, png=".png")
    console = Console()
    entries = collect(data, split)
    spec = TwinSpec(radius=radius, correlation=correlation, mirrored=mirrored)
    source = ", ".join(split_format(path)[1].resolve().name for path in data)
    with _Bar(console) as bar:
        report, good, found = run(entries, spec, source, threads=threads, progress=bar.tell)
    _show_audit(console, report)
    if json is not None:
        write_audit(json, report)
        console.print(f"everything: {json}", highlight=False, soft_wrap=True)
    if png is not None and not found:
        console.print(f"There are no twins to draw, so {png} was not written.", highlight=False)
    elif png is not None:
        console.print(f"{draw_pairs(png, good, found, pairs)} pairs drawn to {png}.", highlight=False)


@app.command()
def stats(
    data: list[Path] = DATA,
    png: Path | None = typer.Option(None, help="Draw the distribution to this file."),
    json: Path | None = typer.Option(None, help="Write the counts to this file."),
) -> None:
    """Count the classes of every split and source, and tell the weights that would balance them."""
    from json import dumps

    from rich.console import Console

    from edge_fer.core.files import atomic_file
    from edge_fer.core.packages import require_package
    from edge_fer.data.class_distribution import distribution_of, plot_distribution
    from edge_fer.data.readers.registry import split_format

    check_outputs({"--json": json, "--png": png}, png=".png")
    if png is not None:
        require_package("matplotlib", extra="report", purpose="the picture of the distribution (--png)")
    console = Console()
    found = distribution_of(data)
    _show_distribution(console, found)
    if png is not None:
        plot_distribution(png, found, ", ".join(split_format(path)[1].resolve().name for path in data))
        console.print(f"picture: {png}", highlight=False, soft_wrap=True)
    if json is not None:
        rows = [{"split": share.split, "source": share.source, "counts": share.counts} for share in found.shares]
        with atomic_file(json) as temporary:
            temporary.write_text(dumps(rows, indent=1) + "\n", encoding="utf-8")
        console.print(f"counts: {json}", highlight=False, soft_wrap=True)


class _Bar:
    """A progress bar whose task changes its name; silent where there is no terminal."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=None)

    def tell(self, what: str, done: int, total: int) -> None:
        self._progress.update(self._task, description=what, completed=done, total=total)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _table(title: str, *columns: tuple[str, bool]) -> Table:
    """A table whose columns are (name, whether it holds numbers)."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name, number in columns:
        table.add_column(name, justify="right" if number else "left")
    return table


def _show_prepared(console: Console, out: Path, summary: PreparedSummary) -> None:
    for source, kinds in summary.refused.items():
        if kinds:
            told = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))
            console.print(f"{source}: {sum(kinds.values())} left out: {told}", highlight=False)
    classes = tuple(next(iter(summary.counts.values())))
    table = _table("Faces", ("part", False), *((name, True) for name in classes), ("all", True))
    for part, counts in summary.counts.items():
        table.add_row(part, *(str(counts[name]) for name in classes), str(sum(counts.values())))
    console.print(table)
    groups, faces, largest = summary.together
    if groups:
        console.print(
            f"{faces} faces belong to {groups} groups of up to {largest} (a person, or copies of a picture); "
            + (
                "no group is divided."
                if summary.recipe.split.by == "stratified"
                else "official splits may divide them."
            ),
            highlight=False,
        )
    refused = ", anomalies.csv, anomalies.png" if any(summary.refused.values()) else ""
    console.print(f"{out}: manifest.csv, prepared.json{refused}", highlight=False)


def _show_audit(console: Console, report: AuditReport) -> None:
    names = ("pictures", "in another split too", "copies within", "copies within, other label", "unreadable")
    table = _table(f"Twins in {report.source}", ("split", False), *((name, True) for name in names))
    for name, split in report.splits.items():
        share = f"{split.leaked} ({split.leaked / split.pictures:.1%})" if split.pictures else "0"
        cells = (split.pictures, share, split.redundant, split.conflicting, len(split.unreadable))
        table.add_row(name, *map(str, cells))
    console.print(table)
    for name, split in report.splits.items():
        if split.unreadable:
            more = f" and {len(split.unreadable) - 5} more" if len(split.unreadable) > 5 else ""
            console.print(f"{name}: cannot be read: {', '.join(split.unreadable[:5])}{more}", highlight=False)
    kinds = {kind: sum(twin.kind == kind for twin in report.twins) for kind in ("copy", "near", "mirrored")}
    console.print(
        f"{len(report.twins)} pairs: " + ", ".join(f"{kind} {count}" for kind, count in kinds.items()), highlight=False
    )
    different = [twin for twin in report.twins if twin.a.label != twin.b.label]
    if different:
        within = sum(twin.a.split == twin.b.split for twin in different)
        pictures = sum(split.conflicting for split in report.splits.values())
        console.print(
            f"different labels: {len(different)} pairs, {within} within a split ({pictures} pictures), "
            f"{len(different) - within} between splits",
            highlight=False,
        )


def _show_distribution(console: Console, found: Distribution) -> None:
    from edge_fer.data.sampler_weights import class_weights

    for split in found.splits():
        shares = [share for share in found.shares if share.split == split]
        whole = found.of_split(split)
        total = sum(whole.values())
        labels = [number for number, name in enumerate(found.classes) for _ in range(whole[name])]
        weights = class_weights(labels, len(found.classes))
        sources = [share.source for share in shares] + (["together"] if len(shares) > 1 else [])
        columns = (*((name, True) for name in sources), ("share", True), ("weight", True))
        table = _table(f"{split}: {total} pictures", ("class", False), *columns)
        for name, weight in zip(found.classes, weights, strict=True):
            counts = [share.counts[name] for share in shares] + ([whole[name]] if len(shares) > 1 else [])
            table.add_row(name, *map(str, counts), f"{whole[name] / total:.1%}", f"{weight:.2f}")
        console.print(table)
