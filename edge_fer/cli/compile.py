"""``edge-fer compile``: from a checkpoint to a verified bundle, and to the fastest engine of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_fer.core.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edge_fer.compile.report import CandidateReport, CompileReport, DetectorReport
    from edge_fer.core.manifest import GateRecord


def compile_command(
    checkpoint: str | None = typer.Argument(
        None, help="Weights: .safetensors, or a .pt/.pth state dict. Default: the model that ships with edge-fer."
    ),
    precision: str | None = typer.Option(
        None, "--precision", help="fp32, fp16 or int8. Default: int8 where its ranges can be measured, else fp32."
    ),
    backend: str = typer.Option("auto", "--backend", help="auto, openvino, onnxruntime or tensorrt."),
    calibration: Path | None = typer.Option(
        None, "--calibration", help="Faces to measure int8 ranges on: a folder, or a recipe.yaml."
    ),
    method: str | None = typer.Option(
        None, "--calibration-method", help="minmax, moving-average, percentile, entropy or mse (the default)."
    ),
    data: Path | None = typer.Option(
        None, "--data", help="Labelled faces to verify accuracy on: class folders, or the FER-2013 CSV."
    ),
    split: str | None = typer.Option(None, "--split", help="Part of --data, such as test."),
    max_drop: float = typer.Option(
        0.5, "--max-drop", help="Percentage points of top-1 that int8 may lose on --data.", min=0.0
    ),
    gate: bool = typer.Option(True, "--gate/--no-gate", help="Refuse int8 that loses more than --max-drop."),
    min_speedup: float | None = typer.Option(
        None, "--min-speedup", help="Choose int8 only when it is this many times faster than fp32 here."
    ),
    bias_correction: bool = typer.Option(
        False,
        "--bias-correction/--no-bias-correction",
        help="Mend the shift that int8 gives the mean of every layer, measured on --calibration.",
    ),
    trt_dialect: bool = typer.Option(False, "--trt-dialect", help="Also write the int8 form for TensorRT."),
    build: bool = typer.Option(
        True, "--build/--no-build", help="Build and time engines for this machine, or only write the bundle."
    ),
    arch: str | None = typer.Option(
        None, "--arch", help="Network of a plain state dict, such as resnet18; a wrong name lists them all."
    ),
    labels: str | None = typer.Option(
        None, "--labels", help="Class names of a plain state dict in the order of its outputs, separated by commas."
    ),
    colour: str | None = typer.Option(None, "--colour", help="gray or rgb."),
    size: str | None = typer.Option(None, "--size", help="Input size in pixels: 224, or height x width as 64x48."),
    mean: str | None = typer.Option(None, "--mean", help="Mean per channel on the scale 0..1, separated by commas."),
    std: str | None = typer.Option(None, "--std", help="Standard deviation likewise."),
    name: str | None = typer.Option(None, "--name", help="What to call the model."),
    out: Path | None = typer.Option(
        None, "--out", help="Folder of the bundle. Default: engines/NAME in the current folder."
    ),
    threads: int = typer.Option(1, "--threads", help="CPU threads for verification and timing.", min=1),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON instead of a table."),
) -> None:
    """Compile a checkpoint into a portable bundle, verify it, and build the fastest engine for this machine."""
    try:
        from edge_fer.compile.compile_model import compile_model
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("torch", "onnx", "safetensors"):
            raise
        raise MissingDependencyError(missing, extra="compile", purpose="compiling a checkpoint") from None
    from rich.console import Console

    from edge_fer.compile.report import DetectorReport
    from edge_fer.compile.request import CompileRequest
    from edge_fer.models.checkpoint import ContractOverrides, find_checkpoint, holds_detector

    if colour not in (None, "gray", "grey", "rgb"):
        raise UsageError(f"Unknown colour {colour!r}.", fix="Known: gray, rgb.")
    request = CompileRequest(
        checkpoint=find_checkpoint(checkpoint),
        out=out,
        precision=precision,
        backend=backend,
        calibration=calibration,
        method=method,
        data=data,
        split=split,
        max_drop=max_drop,
        gate=gate,
        min_speedup=min_speedup,
        bias_correction=bias_correction,
        trt_dialect=trt_dialect,
        build=build,
        threads=threads,
        contract=ContractOverrides(
            arch=arch,
            labels=tuple(part.strip() for part in labels.split(",")) if labels else None,
            colour=None if colour is None else ("rgb" if colour == "rgb" else "gray"),
            size_hw=_size(size),
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            name=name,
        ),
    )
    # With --json, standard output carries JSON and nothing else.
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    errors = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("Starting", total=None)

        def step(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        if holds_detector(request.checkpoint):
            from edge_fer.compile.compile_detector import compile_detector

            found: CompileReport | DetectorReport = compile_detector(request, step)
        else:
            found = compile_model(request, step)
    if isinstance(found, DetectorReport):
        _report_detector(Console(), found, as_json=as_json)
        return
    report = found
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        _show(Console(), report)


def _report_detector(console: Console, report: DetectorReport, *, as_json: bool) -> None:
    """What compiling a face detector gave: a row per engine, compared find by find with the reference."""
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    from rich.table import Table

    console.print(
        f"[bold]{report.model}[/]: {report.parameters:,} parameters, {report.macs / 1e6:.0f} MMAC at its own input size"
    )
    if report.calibration:
        console.print(f"int8: {report.calibration}", highlight=False)
    table = Table("backend", "precision", "same faces as fp32", "corners apart", "canary gap")
    for held in report.held:
        mark = " (chosen)" if (held.backend, held.precision) == report.chosen else ""
        cells = (
            (held.error or "failed", "", "")
            if held.error
            else (
                "reference" if held.agreement is None else f"{held.agreement:.1%}",
                "" if held.box_gap_px is None else f"{held.box_gap_px:.2f} px at most",
                f"{held.canary_gap:.2g}",
            )
        )
        table.add_row(held.backend + mark, held.precision, *cells)
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", highlight=False)
    console.print(f"Engine: {report.reason}", highlight=False)
    console.print(f"Bundle: {report.bundle} ({report.seconds:.0f} s)", highlight=False)
    console.print(f"Next: edge-fer run --detector edge-fer-face={report.bundle} --demo", highlight=False)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--size {text!r} is not a size.", fix="Write 224, or height x width as 64x48.")
    return int(parts[0]), int(parts[-1])


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a list of numbers.", fix="Write 0.485,0.456,0.406.") from None


def _show(console: Console, report: CompileReport) -> None:
    from rich import box
    from rich.table import Table

    console.print(
        f"[bold]{report.model}[/bold]: {report.parameters / 1e6:.2f} M parameters, {report.macs / 1e6:.0f} MMAC, "
        f"checkpoint {report.checkpoint_bytes / 1e6:.1f} MB"
    )
    torch = report.torch_parity
    console.print(
        f"ONNX against torch: the same label for {torch.top1_agreement:.2%} of {torch.n} faces, "
        f"logits within {torch.max_gap:.1g}"
    )
    for assumption in report.assumptions:
        console.print(f"[yellow]assumed[/yellow]: {assumption}")
    if report.calibration:
        console.print(f"int8: {report.calibration}")
    for note in report.notes:
        console.print(f"[cyan]note[/cyan]: {note}")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("engine", no_wrap=True)
    measured = any(c.accuracy is not None for c in report.candidates)
    headings = ["MB", "label", "gap", *(["top-1", "drop (95 %)"] if measured else []), "ms"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for candidate in report.candidates:
        table.add_row(*_row(candidate, measured))
    console.print(table)
    console.print(_legend(report))
    for candidate in report.candidates:
        if candidate.error:
            console.print(f"[red]{candidate.backend} {candidate.precision}[/red]: {candidate.error}")
    for attempt in report.attempts:
        kept = ", ".join(attempt.float_layers) or "none"
        verdict = "passes" if attempt.passed else "does not pass"
        console.print(
            f"tried int8, layers in fp32: {kept}; drop {_drop(attempt.drop, attempt.drop_interval)}, {verdict}"
        )
    if report.gate is not None:
        console.print(_gate_sentence(report.gate))
    chosen = next((c for c in report.candidates if c.chosen), None)
    if chosen is not None:
        console.print(f"Chosen: [bold green]{chosen.backend} {chosen.precision}[/bold green]: {report.reason}.")
    else:
        console.print(f"{report.reason[0].upper()}{report.reason[1:]}.")
    console.print(f"Bundle: [bold]{report.bundle}[/bold]", soft_wrap=True)


def _legend(report: CompileReport) -> str:
    accuracy = next((c.accuracy for c in report.candidates if c.accuracy is not None), None)
    if accuracy is not None:
        low, high = accuracy.top1_interval
        return (
            f"On {accuracy.n} faces of {accuracy.data}, against ONNX Runtime fp32, whose top-1 is {accuracy.top1:.2%} "
            f"(95 %: {low:.1%} to {high:.1%}): the same label, the largest gap of a logit, and the drop of top-1 in "
            "points. ms: one face, warm, on this machine."
        )
    parity = next((c.parity for c in report.candidates if c.parity is not None), None)
    faces = (
        f"On {parity.n} faces, against ONNX Runtime fp32: the same label, and the largest gap of a logit. "
        if parity
        else ""
    )
    return f"{faces}ms: one face, warm, on this machine. Give --data to verify accuracy."


def _drop(drop: float, interval: tuple[float, float]) -> str:
    return f"{drop:+.2f} ({interval[0]:+.2f}, {interval[1]:+.2f})"


def _row(candidate: CandidateReport, measured: bool) -> list[str]:
    name = f"{candidate.backend} {candidate.precision}"
    parity = candidate.parity
    row = [
        f"[bold green]{name}[/bold green]" if candidate.chosen else name,
        f"{candidate.file_bytes / 1e6:.1f}",
        f"{parity.top1_agreement:.2%}" if parity else "",
        f"{parity.max_gap:.1g}" if parity else "",
    ]
    if measured:
        row.append(f"{candidate.accuracy.top1:.2%}" if candidate.accuracy else "")
        shown = candidate.drop is not None and candidate.drop_interval is not None
        row.append(_drop(candidate.drop, candidate.drop_interval) if shown else "")  # type: ignore[arg-type]
    row.append(f"{candidate.median_us / 1e3:.2f}" if candidate.median_us is not None else "")
    return row


def _gate_sentence(gate: GateRecord) -> str:
    if gate.drop is None or gate.drop_interval is None:
        return "Accuracy gate: not applied, no --data was given."
    classes = ", ".join(f"{name} {points:+.1f}" for name, points in gate.harmed_classes.items())
    measured = f"the worst int8 drop is {_drop(gate.drop, gate.drop_interval)} points on {gate.n} faces"
    if classes:
        measured += f", and classes lose recall beyond chance: {classes}"
    if not gate.applied:
        return f"Accuracy gate: switched off; {measured}."
    verdict = "passed" if gate.passed else "not passed"
    beyond = gate.passed and gate.drop_interval[1] > gate.max_drop
    unsure = "; the interval reaches beyond that, more faces would settle it" if beyond else ""
    return f"Accuracy gate: {verdict}, {measured}; allowed are {gate.max_drop:g}{unsure}."
