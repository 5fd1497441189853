"""``edge-fer eval``: how often a checkpoint, bundle or engine is right, on labelled faces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_fer.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from edge_fer.core.spec import ModelSpec
    from edge_fer.data.samples import Samples
    from edge_fer.evaluate.predict import Progress
    from edge_fer.evaluate.report import Evaluation

WEIGHTS = frozenset({".safetensors", ".pt", ".pth", ".bin"})


def evaluate(
    model: str | None = typer.Argument(None, help="Checkpoint, bundle or engine. Default: the shipped bundle."),
    data: Path = typer.Option(
        ..., help="Class folders, split folders of class folders, or the ICML CSV. For detection: scenes/ and faces/."
    ),
    split: str | None = typer.Option(None, help="Part of the data, such as test or PublicTest."),
    precision: str | None = typer.Option(
        None, help="fp32, bf16, fp16 or int8. Default: int8 of a bundle, an engine's own, fp32 of a checkpoint."
    ),
    backend: str = typer.Option("auto", help="auto (the fastest measured here), onnxruntime, openvino."),
    arch: str | None = typer.Option(None, help="Network of a plain state dict, such as resnet18."),
    threads: int = typer.Option(1, min=1, help="Threads of the engine."),
    task: str = typer.Option("classification", help="classification, or detection: a face detector."),
    teacher: Path | None = typer.Option(None, help="For detection: YuNet's ONNX file, which labels the pictures."),
    mistakes: Path | None = typer.Option(None, help="For detection: folder for pictures of misses and false alarms."),
    json: Path | None = typer.Option(None, help="Write all figures to this file."),
    png: Path | None = typer.Option(None, help="Draw confusion matrix, classes and calibration to this file."),
) -> None:
    """Measure accuracy: top-1 with interval, macro-F1, per-class figures, confusion, calibration error.

    Faces are taken as they are, one crop each; the model's labels and the data's are matched by name.
    """
    if task not in ("classification", "detection"):
        raise UsageError(f"Unknown task {task!r}.", fix="Known: classification, detection.")
    if task == "detection":
        from edge_fer.cli.eval_detection import evaluate_detector

        if arch is not None or png is not None or split is not None:
            raise UsageError(
                "--arch, --png and --split are for expression networks.", fix="--mistakes DIR, --json FILE"
            )
        evaluate_detector(model, data, teacher, backend, precision, threads, json, mistakes)
        return
    if teacher is not None or mistakes is not None:
        raise UsageError("--teacher and --mistakes are for a face detector.", fix="--task detection")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from edge_fer import __version__
    from edge_fer.backends.host import cpu_name
    from edge_fer.data.datasets import open_dataset
    from edge_fer.evaluate.metrics import compute_metrics
    from edge_fer.evaluate.predict import match_labels, softmax
    from edge_fer.evaluate.report import Evaluation, write_json, write_png

    samples = open_dataset(data, split)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        counter = bar.add_task("Evaluating", total=len(samples))

        def progress(done: int, _total: int) -> None:
            bar.update(counter, completed=done)

        if model is not None and Path(model).suffix in WEIGHTS:
            if precision not in (None, "fp32") or backend != "auto":
                raise UsageError("A checkpoint is evaluated by torch in fp32; --backend and --precision need a bundle.")
            spec, source, ran, logits = _checkpoint(Path(model), arch, samples, threads, progress)
        else:
            if arch is not None:
                raise UsageError("--arch is for checkpoints; a bundle carries its contract.")
            spec, source, ran, logits = _engine(model, backend, precision, samples, threads, progress)
    labels = match_labels(samples, spec.labels)
    metrics = compute_metrics(labels, softmax(logits), spec.labels)
    evaluation = Evaluation(
        **metrics.model_dump(),
        edge_fer_version=__version__,
        model=spec.name,
        source=source,
        backend=ran[0],
        backend_version=ran[1],
        precision=ran[2],
        device=cpu_name(),
        # The folder's name only: a path tells more about the machine than about the data.
        data=f"{data.resolve().name}/{split}" if split else data.resolve().name,
    )
    if json is not None:
        write_json(json, evaluation)
    if png is not None:
        write_png(png, evaluation)
    _show(console, evaluation)


def _checkpoint(
    path: Path, arch: str | None, samples: Samples, threads: int, progress: Progress
) -> tuple[ModelSpec, str, tuple[str, str, str], NDArray[np.float32]]:
    """(contract, source, (backend, version, precision), logits) of weights, run by torch."""
    try:
        import torch

        from edge_fer.evaluate.predict import predict_module
        from edge_fer.models.checkpoint import ContractOverrides, load_checkpoint
    except ModuleNotFoundError as error:
        from edge_fer.core.errors import MissingDependencyError

        raise MissingDependencyError(
            error.name or "torch", extra="compile", purpose="evaluating a checkpoint"
        ) from None
    checkpoint = load_checkpoint(path, ContractOverrides(arch=arch))
    logits = predict_module(checkpoint.model, samples, checkpoint.spec.preprocess, threads=threads, progress=progress)
    return checkpoint.spec, path.name, ("torch", str(torch.__version__), "fp32"), logits


def _engine(
    model: str | None, backend: str, precision: str | None, samples: Samples, threads: int, progress: Progress
) -> tuple[ModelSpec, str, tuple[str, str, str], NDArray[np.float32]]:
    """The same of a bundle or engine."""
    from edge_fer.backends.choose import is_engine, open_best
    from edge_fer.core.bundle import find_bundle
    from edge_fer.evaluate.predict import predict

    path = find_bundle(model)
    precision = precision or ("auto" if is_engine(path) else "int8")
    engine, _ = open_best(path, backend=backend, precision=precision, threads=threads)
    with engine:
        manifest = engine.manifest
        logits = predict(engine, samples, manifest.classifier.preprocess, progress)
    return manifest.classifier, path.name, (manifest.backend, manifest.backend_version, manifest.precision), logits


def _show(console: Console, evaluation: Evaluation) -> None:
    from rich.table import Table

    from edge_fer.evaluate.report import headline

    console.print(
        f"[bold]{evaluation.model}[/] on {evaluation.backend} {evaluation.precision}, {evaluation.n} faces of "
        f"{evaluation.data}",
        highlight=False,
    )
    console.print("   ".join(f"{name} [bold]{value}[/]" for name, value in headline(evaluation)), highlight=False)
    table = Table()
    table.add_column("class")
    for column in ("precision", "recall", "F1", "AUC", "faces"):
        table.add_column(column, justify="right")
    for name, row in evaluation.per_class.items():
        auc = "" if row.auc is None else f"{row.auc:.3f}"
        table.add_row(name, *(f"{v:.1%}" for v in (row.precision, row.recall, row.f1)), auc, str(row.support))
    console.print(table)
    confusion = Table(title="rows: true class, columns: predicted", title_justify="left")
    confusion.add_column("")
    for name in evaluation.class_names:
        confusion.add_column(name, justify="right")
    for index, counts in enumerate(evaluation.confusion):
        cells = [f"[bold]{count}[/]" if i == index else str(count) for i, count in enumerate(counts)]
        confusion.add_row(evaluation.class_names[index], *cells)
    console.print(confusion)
