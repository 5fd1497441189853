"""``edge-fer models``: the networks that can be trained, evaluated, compiled and run, and what each costs."""

from __future__ import annotations

import typer

from edge_fer.core.errors import MissingDependencyError

WIDE = 130
"""Columns of a terminal in which paper and recipes have a column each; in a narrower one they stand below the name."""


def models(
    json_: bool = typer.Option(False, "--json", help="Machine-readable, on standard output."),
) -> None:
    """List the networks: paper, input, parameters, multiply-accumulates, recipes.

    Counted here and now for seven classes; nothing is downloaded.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingDependencyError("torch", extra="compile", purpose="counting the networks") from None
    from edge_fer.models.inventory import inventory

    rows = inventory()
    if json_:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    wide = console.width >= WIDE
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("name", no_wrap=wide)
    for heading in ("input", "parameters", "GMAC"):
        table.add_column(heading, justify="right", no_wrap=True)
    if wide:
        table.add_column("paper")
        table.add_column("train --recipe")
    for row in rows:
        channels, height, width = row.input_shape
        recipes = ", ".join(row.recipes)
        below = [f"  {row.paper}", *([f"  train --recipe {recipes}"] if recipes else [])]
        table.add_row(
            row.name if wide else f"[bold]{row.name}[/]\n[dim]" + "\n".join(below) + "[/]",
            f"{height}x{width} {'grey' if channels == 1 else 'RGB'}",
            f"{row.parameters:,}",
            f"{row.macs / 1e9:.3f}",
            *((row.paper, recipes or "–") if wide else ()),
        )
    console.print(table, highlight=False)
