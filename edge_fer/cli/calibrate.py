"""``edge-fer calibrate``: resolve and inspect a calibration set before int8 depends on it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from edge_fer.data.calibration_set import CalibrationSet


def calibrate(
    faces: Path = typer.Argument(..., help="Class folders, a flat folder of face crops, or a recipe.yaml."),
    sheet: Path | None = typer.Option(None, help="Draw the faces and their brightness to this PNG."),
    ids: Path | None = typer.Option(None, help="Write the resolved sample ids to this file."),
) -> None:
    """Resolve a calibration set, check it, and show what int8 would be calibrated on.

    Unreadable, blank and dark images, duplicates, a missing class and too few faces are found and named; a set that
    would give wrong ranges is refused with exit 3.
    """
    from rich.console import Console
    from rich.table import Table

    from edge_fer.cli.output_files import check_outputs
    from edge_fer.core.packages import require_package
    from edge_fer.data.calibration_set import open_calibration_set, write_list

    check_outputs({"--sheet": sheet, "--ids": ids}, sheet=".png")
    if sheet is not None:
        require_package("matplotlib", extra="report", purpose="the contact sheet (--sheet)")
    console = Console()
    found = open_calibration_set(faces)
    console.print(
        f"[bold]{len(found)}[/] faces of {found.source}, sha256 {found.sha256}", highlight=False, soft_wrap=True
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("class")
    table.add_column("faces", justify="right")
    for name, count in found.counts().items():
        table.add_row(name, str(count))
    console.print(table)
    for note in found.notes:
        console.print(f"[yellow]note[/]: {note}", highlight=False)
    if ids is not None:
        write_list(ids, found)
        console.print(f"ids: {ids}", highlight=False)
    if sheet is not None:
        from edge_fer.evaluate.contact_sheet import draw_contact_sheet

        shown = draw_contact_sheet(sheet, found)
        console.print(f"contact sheet with {shown} of the faces: {sheet}", highlight=False)
    _show_known_ranges(console, found)
    console.print(f"Next: edge-fer compile CHECKPOINT --calibration {shlex.quote(str(faces))}", highlight=False)


def _show_known_ranges(console: Console, found: CalibrationSet) -> None:
    """Ranges that an earlier compile measured on exactly these faces."""
    try:
        from edge_fer.compile.range_cache import RangeCache
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "onnx":
            raise
        return  # Without onnx nothing was ever compiled here.
    cache = RangeCache()
    known = [entry.calibration for entry in cache.entries().values() if entry.calibration.data_sha256 == found.sha256]
    for ranges in known:
        console.print(
            f"ranges known: {len(ranges.tensors)} tensors of network {ranges.model_sha256[:12]}, {ranges.method}",
            highlight=False,
        )
    if known:
        console.print(f"in {cache.path}", highlight=False, soft_wrap=True)
