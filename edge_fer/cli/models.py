"""``edge-fer models``: the networks that can be trained, evaluated, compiled and run, and what each costs."""

from __future__ import annotations

import typer

from edge_fer.core.errors import MissingDependencyError


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

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("paper")
    for heading in ("input", "parameters", "GMAC"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("train --recipe")
    for row in rows:
        channels, height, width = row.input_shape
        table.add_row(
            row.name,
            row.paper,
            f"{height}x{width} {'grey' if channels == 1 else 'RGB'}",
            f"{row.parameters:,}",
            f"{row.macs / 1e9:.3f}",
            ", ".join(row.recipes) or "–",
        )
    Console().print(table)
