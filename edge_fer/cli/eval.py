"""``edge-fer eval``: how often checkpoints, bundles or engines are right, on labelled faces or videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_fer.cli.typed import was_typed
from edge_fer.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

TASKS = ("classification", "video", "detection")


def evaluate(
    context: typer.Context,
    models: list[str] | None = typer.Argument(
        None,
        metavar="[MODEL]...",
        help="Checkpoints, bundles or engines, each with @PRECISION if wanted (edge-fer-compact@fp32); several are "
        "compared with the first. Default: the shipped bundle.",
    ),
    data: Path = typer.Option(
        ...,
        help="Class folders, split folders of class folders, or the ICML CSV. For video: CLASS/VIDEO files. For "
        "detection: scenes/ and faces/.",
    ),
    split: str | None = typer.Option(None, help="Part of the data, such as test or PublicTest."),
    precision: str | None = typer.Option(
        None, help="fp32, bf16, fp16 or int8. Default: int8 of a bundle that has it, an engine's own, else fp32."
    ),
    backend: str = typer.Option("auto", help="auto (the fastest measured here), onnxruntime, openvino."),
    arch: str | None = typer.Option(None, help="Network of a plain state dict, such as resnet18."),
    threads: int = typer.Option(1, min=1, help="Threads of the engine."),
    task: str = typer.Option("classification", help="classification; video: means over videos; detection."),
    audit: Path | None = typer.Option(
        None, help="What `edge-fer data audit --json` wrote: accuracy also without near-duplicates of other splits."
    ),
    detector: str = typer.Option(
        "edge-fer-face",
        help="What finds the faces, as in edge-fer run: of videos always; of pictures only if it is given, and then "
        "they are cut as the live loop does it, and compared with the pictures as they are.",
    ),
    teacher: Path | None = typer.Option(None, help="For detection: YuNet's ONNX file, which labels the pictures."),
    mistakes: Path | None = typer.Option(
        None, help="Folder for pictures of what went wrong: misclassified faces, or misses and false alarms."
    ),
    json: Path | None = typer.Option(None, help="Write all figures to this file."),
    png: Path | None = typer.Option(None, help="Draw confusion matrix, classes, calibration and curves to this file."),
    html: Path | None = typer.Option(None, help="Write one page with tables and figures, which needs no other file."),
    report: Path | None = typer.Option(
        None, help="Folder for all of these: report.json, report.html, a PNG per model, and its mistakes."
    ),
) -> None:
    """Measure accuracy: top-1 and top-3, precision, recall and F1, AUC, calibration, each with its interval.

    Pictures are taken as they are, one crop each, unless --detector is given; the model's labels and the data's are
    matched by name.
    """
    if task not in TASKS:
        raise UsageError(f"Unknown task {task!r}.", fix=f"Known: {', '.join(TASKS)}.")
    named: list[str | None] = list(models) if models else [None]
    if task == "detection":
        from edge_fer.cli.eval_detection import evaluate_detector

        if arch is not None or png is not None or split is not None or html is not None or report is not None or audit:
            raise UsageError(
                "--arch, --png, --html, --report, --audit and --split are for expression networks.",
                fix="--mistakes DIR, --json FILE",
            )
        if was_typed(context, "detector"):
            raise UsageError(
                "--detector finds faces for expression networks; the detector to evaluate is the model.",
                fix="edge-fer eval edge-fer-face --task detection",
            )
        if len(named) > 1:
            raise UsageError("One detector at a time, please.")
        evaluate_detector(named[0], data, teacher, backend, precision, threads, json, mistakes)
        return
    if teacher is not None:
        raise UsageError("--teacher is for a face detector.", fix="--task detection")
    if detector == "none" and task == "classification":
        raise UsageError("--detector none takes every picture for a face.", fix="Leave --detector out")
    if task == "video" and (audit is not None or mistakes is not None or split is not None):
        raise UsageError("--audit, --mistakes and --split are for faces, not for videos.")
    if png is not None and len(named) > 1:
        raise UsageError("--png draws one model.", fix="For several: --report DIR, or --html FILE")
    from rich.console import Console

    from edge_fer.cli.eval_models import Request, evaluate_models
    from edge_fer.cli.eval_output import show, write
    from edge_fer.cli.output_files import check_folders, check_outputs
    from edge_fer.core.packages import require_package

    check_outputs({"--json": json, "--png": png, "--html": html}, png=".png", html=".html")
    check_folders({"--report": report, "--mistakes": mistakes})
    if any(path is not None for path in (png, html, report, mistakes)):
        require_package("matplotlib", extra="report", purpose="drawing the report")
    console = Console()
    request = Request(
        data=data,
        split=split,
        precision=precision,
        backend=backend,
        arch=arch,
        threads=threads,
        audit=audit,
        detector=detector if task == "video" or was_typed(context, "detector") else None,
        sheets=mistakes is not None or (report is not None and task == "classification"),
    )
    results = evaluate_models(named, request, console, videos=task == "video")
    write(results, json=json, png=png, html=html, report=report, mistakes=mistakes)
    show(console, results)
    _say_where(console, json, png, html, report, mistakes)


def _say_where(console: Console, *paths: Path | None) -> None:
    written = [str(path) for path in paths if path is not None]
    if written:
        console.print(f"Written: {', '.join(written)}", highlight=False, style="dim")
