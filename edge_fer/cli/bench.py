"""``edge-fer bench``: the latency and accuracy table of this machine, and what is done with results."""

from __future__ import annotations

from pathlib import Path

import typer

from edge_fer.core.errors import DeviceError, UsageError

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
    only: list[str] = typer.Option([], help="Of the plan's models only this one. Repeatable."),
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
    merge: Path | None = typer.Option(
        None, help="Put what is measured in place of the same models' cases in this result of the same machine."
    ),
    out: Path | None = typer.Option(None, help="Write JSON, CSV, Markdown, HTML and pictures into this folder."),
    json: Path | None = typer.Option(None, help="Write everything, raw samples too, to this file."),
    markdown: Path | None = typer.Option(None, help="Write the tables to this Markdown file."),
) -> None:
    """Measure what each engine costs here: every case in a process of its own, rounds interleaved.

    Leave the machine alone meanwhile; a case whose rounds disagree is marked with ~. A case that fails says why in the
    table and leaves the others alone; the status is 4 when none could be measured.

    With --only and --merge single models of a plan are measured again, in place of their older cases.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    from edge_fer.bench.markdown import write_markdown
    from edge_fer.bench.merge import check_mergeable
    from edge_fer.bench.merge import merge as merged
    from edge_fer.bench.plan import changed, default_plan, load_plan, model_entries
    from edge_fer.bench.plan import only as restricted
    from edge_fer.bench.profiles import find_profile
    from edge_fer.bench.publish import page_links, publish
    from edge_fer.bench.results import read_json, write_json
    from edge_fer.bench.session import profile_of, run_benchmark
    from edge_fer.cli.bench_tables import show_result
    from edge_fer.cli.steps import Parts
    from edge_fer.core.files import check_writable

    chosen = changed(
        default_plan() if plan is None else load_plan(plan),
        {
            "models": [entry.model_dump() for entry in model_entries(model)],
            "run": run,
            "threads": threads,
            "batches": batch,
            "rounds": rounds,
            "min_seconds": min_seconds,
            "camera": _camera_plan(camera, soak, camera_fps),
        },
    )
    if split is not None and data is None:
        raise UsageError("--split is a part of --data.", fix=f"--data DIR --split {split}")
    if only:
        chosen = restricted(chosen, only)
    folder = None if data is None else data.resolve().name
    data_name = f"{folder}/{split}" if folder and split else folder
    # What is wrong should be told now, not after minutes.
    check_writable(out / "result.json" if out is not None else None, json, markdown)
    base = None
    if merge is not None:
        others = {"--camera": camera, "--soak": soak, "--device-profile": device_profile, "--submit": submit}
        _alone_with_merge({"--roofline": roofline, **others})
        if out is None and json is None and markdown is None:
            raise UsageError("Say where the merged result goes.", fix="--out FOLDER, --json FILE or --markdown FILE")
        base = read_json(merge)
        check_mergeable(base, chosen, data_name)
    for name in device_profile:
        find_profile(name)
    submitted = [read_json(path) for path in submit]
    for result in submitted:
        profile_of(result)
    if data is not None:
        from edge_fer.data.datasets import open_dataset

        open_dataset(data, split)
    console = Console()
    with Parts(console) as parts:
        result, problems = run_benchmark(
            chosen,
            data=data,
            split=split,
            data_name=data_name,
            roofline=roofline,
            profiles=device_profile,
            submitted=submitted,
            base=base,
            progress=parts,
        )
    measured = result
    command = _command(
        {
            "--plan": plan.as_posix() if plan else None,
            "--data": f"DIR/{folder}" if folder else None,
            "--split": split,
            "--model": model,
            "--only": only,
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
            "--merge": _relative(merge),
            "--out": _relative(out),
            "--markdown": _relative(markdown),
        }
    )
    failures = list(dict.fromkeys(case.error.rstrip(".") for case in result.cases))
    nothing = DeviceError(f"None of the {len(result.cases)} cases could be measured: {'; '.join(failures)}.")
    all_failed = all(case.error for case in result.cases)
    if all_failed and base is not None:
        show_result(console, measured)
        raise nothing  # what was measured before is worth more
    if base is None:
        result = result.model_copy(update={"command": command})
    else:
        result, command = merged(base, result, command), base.command
    links: list[tuple[str, str]] = []
    if out is not None:
        pictures, missing = publish(out, result, command)
        problems += missing
        links = page_links(pictures, out, markdown) if markdown else []
    if json is not None:
        write_json(json, result)
    if markdown is not None:
        write_markdown(markdown, result, command, links)
    # Last, so that a reader who goes away (``| head``) costs nothing that was measured.
    show_result(console, measured)
    for problem in problems:
        console.print(problem, style="yellow", highlight=False, markup=False)
    if all_failed:
        raise nothing


@app.command()
def compare(
    before: Path = typer.Argument(..., help="The result to compare with."),
    after: Path = typer.Argument(..., help="The new result."),
    threshold: float = typer.Option(5.0, min=0.0, help="Percent of change that is accepted."),
    ratios: bool = typer.Option(False, "--ratios", help="Compare ratios to ONNX Runtime fp32, not times."),
    force: bool = typer.Option(False, "--force", help="Compare results of different devices."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object instead of the table."),
    markdown: Path | None = typer.Option(None, help="Write the table to this Markdown file, too."),
) -> None:
    """Say which cases became slower from BEFORE to AFTER.

    Ends with status 1 when AFTER is slower by more than the threshold in some case and the interval over the rounds
    agrees that it is slower, or when a case fails that ran before. Being faster never fails.
    """
    from rich.console import Console

    from edge_fer.bench.compare import compare as compare_results
    from edge_fer.bench.markdown import write_comparison
    from edge_fer.bench.results import read_json
    from edge_fer.cli.bench_tables import show_comparison
    from edge_fer.core.files import check_writable

    check_writable(markdown)
    older, newer = read_json(before), read_json(after)
    report = compare_results(older, newer, threshold=threshold / 100, of="ratio" if ratios else "time", force=force)
    if markdown is not None:
        write_comparison(markdown, report, (before.stem, older), (after.stem, newer))
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        show_comparison(Console(), report, before.name, after.name)
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
    repeat = command or found.command
    found = found.model_copy(update={"command": repeat})
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
            raise UsageError("--camera-fps needs --camera or --soak.", fix="--camera 20 --camera-fps 30")
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


def _alone_with_merge(options: dict[str, object]) -> None:
    """``--merge`` exchanges cases and leaves the rest of a result as it is."""
    for name, value in options.items():
        if value:
            fix = (
                "edge-fer bench render RESULT --roofline --out FOLDER" if name == "--roofline" else f"Leave {name} out."
            )
            raise UsageError(f"--merge and {name} exclude each other: --merge exchanges cases only.", fix=fix)


def _relative(path: Path | None) -> str | None:
    """A path as others can type it, too; ``None`` where it is one of this machine only."""
    return path.as_posix() if path is not None and not path.is_absolute() else None


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
