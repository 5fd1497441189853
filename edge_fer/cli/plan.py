"""``edge-fer plan``: the best settings of ``edge-fer run`` for a time budget on this machine."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import typer

from edge_fer.core.errors import UsageError


def plan(
    budget: str = typer.Option(..., help="Time for a frame, such as 33ms: 30 frames a second."),
    faces: int = typer.Option(1, min=1, max=64, help="Faces in a frame."),
    min_accuracy: float | None = typer.Option(None, min=0.0, max=1.0, help="Smallest accepted top-1, such as 0.65."),
    model: list[str] = typer.Option([], help="Bundle to consider. Repeatable; default: all shipped models."),
    detector: list[str] = typer.Option([], help="Detector to consider, best first. Repeatable."),
    frame: str = typer.Option("1280x720", help="Size of the frames to come."),
    min_face: int | None = typer.Option(None, min=16, help="Smallest face wanted, in pixels. Default: as run's."),
    data: Path | None = typer.Option(None, help="Labelled faces; default: the accuracy that each bundle records."),
    split: str | None = typer.Option(None, help="Part of the data, such as test."),
    rounds: int = typer.Option(3, min=1, help="How often each candidate is measured, in turn with the others."),
    out: Path = typer.Option(Path("run.yaml"), help="Where to write the settings."),
    check: bool = typer.Option(True, "--check/--no-check", help="Try the choice in the loop, on as many faces."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object instead of the sentences."),
) -> None:
    """Measure models, precisions, backends, threads and detectors here, and write the best settings that fit.

    Run them with: edge-fer run --config run.yaml
    """
    budget_ms, frame_hw = _milliseconds(budget), _frame(frame)
    from rich.console import Console

    from edge_fer.backends.face_detector import check_detector
    from edge_fer.bench.planner import DETECTORS, make_plan
    from edge_fer.cli.steps import Parts
    from edge_fer.core.files import check_writable
    from edge_fer.runtime.run_config import write_run_config

    for text in detector:
        check_detector(text)
    if split is not None and data is None:
        raise UsageError("--split is a part of --data.", fix=f"--data DIR --split {split}")
    if data is not None:
        from edge_fer.data.datasets import open_dataset

        open_dataset(data, split)  # a wrong path should be told now, not after minutes
    check_writable(out)
    console = Console(stderr=as_json)
    with Parts(console) as parts:
        report = make_plan(
            budget_ms=budget_ms,
            faces=faces,
            min_accuracy=min_accuracy,
            models=model,
            detectors=detector or DETECTORS,
            frame_hw=frame_hw,
            min_face=min_face,
            data=data,
            split=split,
            rounds=rounds,
            check=check,
            progress=parts,
        )
    write_run_config(out, report.setup.config(min_face), report.why())
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    for sentence in report.why():
        style = "yellow" if sentence in report.problems else None
        console.print(sentence, style=style, highlight=False, markup=False)
    # A line to be copied must not be broken.
    console.print(
        f"\nWritten to {out}. Run it with:\n  edge-fer run --config {quote(str(out))} --camera 0",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _milliseconds(text: str) -> float:
    """``33ms``, ``33`` or ``0.033s``."""
    number, factor = (
        (text[:-2], 1.0) if text.endswith("ms") else (text[:-1], 1e3) if text.endswith("s") else (text, 1.0)
    )
    try:
        value = float(number) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < 60_000:
        raise UsageError(f"--budget {text!r} is no time.", fix="Write 33ms or 0.1s.")
    return value


def _frame(text: str) -> tuple[int, int]:
    """``1280x720`` as (height, width)."""
    width, separator, height = text.partition("x")
    if not separator or not (width.isdigit() and height.isdigit()) or not 64 <= min(int(width), int(height)) <= 8192:
        raise UsageError(f"--frame {text!r} is no size.", fix="Write 1280x720.")
    return int(height), int(width)
