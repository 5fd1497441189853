"""``edge-fer bench``: the latency and accuracy table of this machine, and what is done with results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_fer.core.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edge_fer.bench.compare import ComparisonReport
    from edge_fer.bench.results import BenchResult

WIDE = 110

app = typer.Typer(
    help="Measure what each engine costs here; compare, render and describe results.",
    add_completion=False,
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    plan: Path | None = typer.Option(None, help="A YAML plan; default: the shipped model and ResNet18@224."),
    data: Path | None = typer.Option(None, help="Labelled faces, for the accuracy of trained models."),
    split: str | None = typer.Option(None, help="Part of the data, such as test."),
    model: list[str] = typer.Option(
        [], help="Bundle, or architecture as resnet18@112, instead of the plan's models. Repeatable."
    ),
    run: list[str] = typer.Option(
        [], help="runtime:precision, such as openvino:int8, instead of the plan's. Repeatable."
    ),
    threads: list[int] = typer.Option([], min=1, help="Threads, instead of the plan's. Repeatable."),
    batch: list[int] = typer.Option([], min=1, help="Faces in one call, instead of the plan's. Repeatable."),
    rounds: int | None = typer.Option(None, min=1, help="Rounds, instead of the plan's."),
    min_seconds: float | None = typer.Option(None, min=0.01, help="Seconds a round, instead of the plan's."),
    roofline: bool = typer.Option(False, "--roofline", help="Measure this processor's peaks too: how far from them?"),
    device_profile: list[str] = typer.Option(
        [], help="Model the lower bounds of another device: mx250, mx150, gtx1650, rtx3050, orin-nano. Repeatable."
    ),
    submit: list[Path] = typer.Option(
        [], help="A result of a real device, instead of its modelled bounds. Repeatable."
    ),
    camera: str | None = typer.Option(None, help="Run the loop on a clip played as a camera for so long: 20s, 2m."),
    soak: str | None = typer.Option(None, help="The same with more frames than it can label: burst against sustained."),
    camera_fps: float | None = typer.Option(None, min=1, help="Frames a second of that camera. Default: the clip's."),
    out: Path | None = typer.Option(None, help="Write JSON, CSV, Markdown, HTML and pictures into this folder."),
    json: Path | None = typer.Option(None, help="Write everything, raw samples too, to this file."),
    markdown: Path | None = typer.Option(None, help="Write the tables to this Markdown file."),
) -> None:
    """Measure what each engine costs here: every case in a process of its own, rounds interleaved.

    Leave the machine alone meanwhile; a case whose rounds disagree is marked with ~. A case that fails says why in the
    table and leaves the others alone; the status is 4 when none could be measured.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    from edge_fer.bench.markdown import write_markdown
    from edge_fer.bench.plan import changed, default_plan, load_plan, model_entry
    from edge_fer.bench.profiles import find_profile
    from edge_fer.bench.publish import page_links, publish
    from edge_fer.bench.results import read_json, write_json
    from edge_fer.bench.session import profile_of, run_benchmark
    from edge_fer.cli.steps import Parts

    chosen = changed(
        default_plan() if plan is None else load_plan(plan),
        {
            "models": [model_entry(text).model_dump() for text in model],
            "run": run,
            "threads": threads,
            "batches": batch,
            "rounds": rounds,
            "min_seconds": min_seconds,
            "camera": _camera_plan(camera, soak, camera_fps),
        },
    )
    # What is wrong should be told now, not after minutes.
    for name in device_profile:
        find_profile(name)
    submitted = [read_json(path) for path in submit]
    for result in submitted:
        profile_of(result)
    if data is not None:
        from edge_fer.data.datasets import open_dataset

        open_dataset(data, split)
    folder = None if data is None else data.resolve().name
    console = Console()
    with Parts(console) as parts:
        result, problems = run_benchmark(
            chosen,
            data=data,
            split=split,
            data_name=f"{folder}/{split}" if folder and split else folder,
            roofline=roofline,
            profiles=device_profile,
            submitted=submitted,
            progress=parts,
        )
    _show(console, result)
    command = _command(
        {
            "--plan": plan.as_posix() if plan else None,
            "--data": f"DIR/{folder}" if folder else None,
            "--split": split,
            "--model": model,
            "--run": run,
            "--threads": threads,
            "--batch": batch,
            "--rounds": rounds,
            "--min-seconds": min_seconds,
            "--roofline": roofline,
            "--device-profile": device_profile,
            "--submit": [path.as_posix() for path in submit],
            "--camera": camera,
            "--soak": soak,
            "--camera-fps": camera_fps,
            "--out": out.as_posix() if out and not out.is_absolute() else None,
            "--markdown": markdown.as_posix() if markdown and not markdown.is_absolute() else None,
        }
    )
    result = result.model_copy(update={"command": command})
    links: list[tuple[str, str]] = []
    if out is not None:
        pictures, missing = publish(out, result, command)
        problems += missing
        links = page_links(pictures, out, markdown) if markdown else []
    if json is not None:
        write_json(json, result)
    if markdown is not None:
        write_markdown(markdown, result, command, links)
    for problem in problems:
        console.print(problem, style="yellow", highlight=False, markup=False)
    if all(case.error for case in result.cases):
        reasons = dict.fromkeys(case.error.rstrip(".") for case in result.cases)
        raise DeviceError(f"None of the {len(result.cases)} cases could be measured: {'; '.join(reasons)}.")


@app.command()
def compare(
    before: Path = typer.Argument(..., help="The result to compare with."),
    after: Path = typer.Argument(..., help="The new result."),
    threshold: float = typer.Option(5.0, min=0.0, help="Percent of change that is accepted."),
    ratios: bool = typer.Option(False, "--ratios", help="Compare ratios to ONNX Runtime fp32, not times."),
    force: bool = typer.Option(False, "--force", help="Compare results of different devices."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object instead of the table."),
) -> None:
    """Say which cases became slower from BEFORE to AFTER.

    Ends with status 1 when AFTER is slower by more than the threshold in some case and the interval over the rounds
    agrees that it is slower, or when a case fails that ran before. Being faster never fails.
    """
    from rich.console import Console

    from edge_fer.bench.compare import compare as compare_results
    from edge_fer.bench.results import read_json

    report = compare_results(
        read_json(before), read_json(after), threshold=threshold / 100, of="ratio" if ratios else "time", force=force
    )
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        _show_comparison(Console(), report, before.name, after.name)
    if report.worse:
        raise typer.Exit(1)


@app.command()
def render(
    result: Path = typer.Argument(..., help="A result, as --json or --out wrote it."),
    out: Path | None = typer.Option(None, help="Write CSV, Markdown, HTML and pictures into this folder."),
    markdown: Path | None = typer.Option(None, help="Write the tables to this Markdown file."),
    command: str | None = typer.Option(None, help="The line that repeats it. Default: as the result says."),
    roofline: bool = typer.Option(
        False, "--roofline", help="Measure this processor's peaks anew first; for results of this machine."
    ),
) -> None:
    """Make tables, page and pictures of a result again, without measuring its cases."""
    if out is None and markdown is None:
        raise UsageError("Say where to.", fix="edge-fer bench render RESULT.json --out FOLDER")
    from edge_fer.bench.markdown import write_markdown
    from edge_fer.bench.publish import page_links, publish
    from edge_fer.bench.results import read_json

    found = read_json(result)
    if roofline:
        from rich.console import Console

        from edge_fer.bench.session import with_roofline
        from edge_fer.cli.steps import Parts

        with Parts(Console()) as parts:
            found, problems = with_roofline(found, parts)
        for sentence in problems:
            typer.echo(sentence, err=True)
    repeat = command or found.command or "edge-fer bench"
    links: list[tuple[str, str]] = []
    if out is not None:
        pictures, missing = publish(out, found, repeat)
        links = page_links(pictures, out, markdown) if markdown else []
        for sentence in missing:
            typer.echo(sentence, err=True)
    if markdown is not None:
        write_markdown(markdown, found, repeat, links)


@app.command()
def schema(out: Path | None = typer.Option(None, help="Write it to this file instead of printing it.")) -> None:
    """Print the JSON schema of a result."""
    from edge_fer.bench.results import schema_text
    from edge_fer.core.files import atomic_file

    if out is None:
        typer.echo(schema_text(), nl=False)
        return
    with atomic_file(out) as temporary:
        temporary.write_text(schema_text(), encoding="utf-8")


SOAK_FPS = 240.0
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _camera_plan(camera: str | None, soak: str | None, fps: float | None) -> dict[str, object] | None:
    if camera is not None and soak is not None:
        raise UsageError("Only one of --camera and --soak, please.")
    if camera is None and soak is None:
        if fps is not None:
            raise UsageError("--camera-fps needs --camera or --soak.")
        return None
    if soak is not None:
        return {"seconds": _seconds(soak, "--soak"), "fps": fps or SOAK_FPS}
    assert camera is not None
    return {"seconds": _seconds(camera, "--camera"), "fps": fps}


def _seconds(text: str, option: str) -> float:
    """``90``, ``90s``, ``10m`` or ``1h``."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        value = float(number) * UNITS[unit]
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise UsageError(f"{option} {text!r} is no duration.", fix="Write 90s, 10m or 1h.")
    return value


def _command(options: dict[str, object]) -> str:
    parts = ["edge-fer bench"]
    for name, value in options.items():
        if value is True:
            parts.append(name)
        elif isinstance(value, list):
            parts += [f"{name} {item}" for item in value]
        elif value not in (None, False):
            parts.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return " ".join(parts)


def _show(console: Console, result: BenchResult) -> None:
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
        for case in cases:
            table.add_row(*(column.text(case) for column in columns))
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
        table.add_column(heading, justify="left" if index < left else "right")
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


COLOUR = {"slower": "red", "failed": "red", "faster": "green", "repaired": "green", "same": "dim"}


def _show_comparison(console: Console, report: ComparisonReport, before: str, after: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("case", f"{before} ms", f"{after} ms", "times as long", "95 %", "verdict", "top-1"):
        table.add_column(escape(heading), justify="left" if heading in ("case", "verdict") else "right")
    for case in report.cases:
        table.add_row(
            escape(case.key),
            "-" if case.before_ms is None else f"{case.before_ms:.3f}",
            "-" if case.after_ms is None else f"{case.after_ms:.3f}",
            "" if case.ratio is None else f"{case.ratio:.3f}",
            "" if case.interval is None else f"{case.interval[0]:.3f}-{case.interval[1]:.3f}",
            f"[{COLOUR[case.verdict]}]{escape(f'{after} {case.verdict}') if case.verdict != 'same' else 'same'}[/]",
            "" if not case.accuracy_change else f"{100 * case.accuracy_change:+.2f} points",
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
