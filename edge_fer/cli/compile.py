"""``edge-fer compile``: from a checkpoint to a verified bundle, and to the fastest engine of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_fer.core.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from edge_fer.compile.report import CompileReport


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
        None,
        "--calibration-method",
        help="minmax (detectors' default), moving-average, percentile, entropy or mse (default).",
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
        None, "--min-speedup", help="Choose int8 or bf16 only when it is this many times as fast as fp32 here."
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
    threads: int = typer.Option(1, "--threads", help="CPU threads of the engines that are timed and built.", min=1),
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

    from edge_fer.cli.compile_report import show, show_detector
    from edge_fer.cli.steps import Parts
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
    with Parts(Console(stderr=True)) as step:
        if holds_detector(request.checkpoint):
            from edge_fer.compile.compile_detector import compile_detector

            found: CompileReport | DetectorReport = compile_detector(request, step)
        else:
            found = compile_model(request, step)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    elif isinstance(found, DetectorReport):
        show_detector(Console(), found)
    else:
        show(Console(), found)


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
