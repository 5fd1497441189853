"""``edge-fer fetch``: a file of another project, on request only."""

from __future__ import annotations

import typer


def fetch(
    name: str = typer.Argument(
        ...,
        help="What to fetch: yunet (a face detector, MIT licence, 0.2 MB) or mtcnn (another one: the wheel of "
        "facenet-pytorch, MIT licence, 1.9 MB, of which only the weights are read).",
        metavar="NAME",
    ),
) -> None:
    """Fetch a file of another project from its own address, and keep it if its SHA-256 is the pinned one.

    Nothing else in edge-fer uses the network.
    """
    from rich.console import Console

    from edge_fer.backends.fetched import FILES
    from edge_fer.backends.fetched import fetch as fetch_file

    console = Console()
    with console.status(f"Fetching {name} …") as status:
        path = fetch_file(name, progress=lambda size: status.update(f"Fetching {name}: {size // 1024} KB"))
    remote = FILES[name]
    console.print(
        f"{path}\n[dim]licence {remote.licence}, source {remote.source}, sha256 {remote.sha256}[/]", soft_wrap=True
    )
    console.print(f"Use it with: edge-fer run --detector {name}")
