"""``edge-fer verify``: does a bundle do on this machine what its certificate says?"""

from __future__ import annotations

from pathlib import Path

import typer

from edge_fer.core.errors import BundleError, UsageError


def verify(
    bundle: str | None = typer.Argument(
        None, help="A bundle's folder, or a shipped model's name. Default: the shipped one."
    ),
    data: Path | None = typer.Option(None, help="The labelled faces of the certificate, to repeat its accuracy."),
    split: str | None = typer.Option(None, help="Part of the data, such as test."),
    threads: int = typer.Option(1, min=1, help="Threads of the engines."),
    timing: bool = typer.Option(True, "--timing/--no-timing", help="Time every engine here as well."),
) -> None:
    """Repeat a bundle's checks here: hashes, canary and speed of every engine; with --data accuracy, agreement with
    fp32 and the gate. Exit 3 when one fails."""
    from rich.console import Console
    from rich.table import Table

    from edge_fer.core.bundle import find_bundle
    from edge_fer.core.threads import check_threads
    from edge_fer.data.datasets import open_dataset
    from edge_fer.evaluate.recheck import recheck

    if split is not None and data is None:
        raise UsageError("--split is a part of --data.", fix=f"--data DIR --split {split}")
    check_threads(threads)
    console = Console()
    path = find_bundle(bundle)
    samples = None if data is None else open_dataset(data, split)
    with console.status("checking") as status:
        checks = recheck(
            path,
            threads=threads,
            samples=samples,
            timing=timing,
            progress=lambda text: status.update(f"checking {text}"),
        )
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for check in checks:
        verdict = "[green]ok[/]" if check.passed else "[bold red]failed[/]"
        table.add_row(verdict, check.subject, check.detail)
    console.print(table)
    failed = [check.subject for check in checks if not check.passed]
    if failed:
        raise BundleError(
            f"{path} does not do here what its certificate says: {', '.join(failed)}.",
            fix="Compile it on this machine: edge-fer compile CHECKPOINT",
        )
    console.print(f"{path.name} does on this machine what its certificate says.", highlight=False)
