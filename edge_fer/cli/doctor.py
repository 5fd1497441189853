"""``edge-fer doctor``: what this machine is, what each precision is worth on it, and what to install next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edge_fer.bench.doctor import DoctorReport, GpuReport

STYLE = {"best": "bold green", "works": "green", "pointless": "yellow", "impossible": "red", "unknown": "dim"}


def doctor(
    measure: bool = typer.Option(False, "--measure", help="Time the shipped model in every precision that runs here."),
    threads: int = typer.Option(1, min=1, help="Threads of these timings."),
    json: bool = typer.Option(False, "--json", help="Print one JSON object instead of the tables."),
) -> None:
    """Show processor, GPU, the inference libraries that really load, and what each precision is worth here.

    Every library is loaded in a process of its own and has to compute something; being installed proves nothing.
    """
    from rich.console import Console

    from edge_fer.bench.doctor import examine

    console = Console()
    # With --json, standard output holds the object and nothing else.
    with Console(stderr=True).status("Looking at the machine …"):
        report = examine(measure=measure, threads=threads)
    if json:
        typer.echo(report.model_dump_json(indent=2))
        return
    _machine(console, report)
    for gpu in report.gpus:
        _gpu(console, gpu, report.gpu_use)
    _libraries(console, report)
    _worth(console, report)
    if report.measured:
        _measured(console, report, threads)
    _advice(console, report)


def _section(console: Console, title: str) -> Table:
    from rich.table import Table

    console.print(f"\n[bold]{title}[/]")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    return table


def _size(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 2**30:.1f} GiB"


def _machine(console: Console, report: DoctorReport) -> None:
    from rich.markup import escape

    machine = report.machine
    table = _section(console, "Machine")
    cores = f"{machine.cores} cores, " if machine.cores else ""
    rest = "" if machine.isa_complete else " (others may be there: this system does not tell)"
    table.add_row("system", escape(machine.system))
    table.add_row("python", f"{machine.python}; edge-fer {report.edge_fer_version}")
    table.add_row(
        "processor", escape(f"{machine.cpu} ({machine.architecture}), {cores}{machine.usable_threads} threads")
    )
    table.add_row("instructions", (", ".join(machine.isa) or "none of those that matter") + rest)
    table.add_row("memory", f"{_size(machine.memory_bytes)}, {_size(machine.available_memory_bytes)} available")
    if not report.gpus:
        table.add_row("GPU", escape(report.gpu_finding))
    table.add_row("shipped model", escape(report.shipped_model))
    if report.engine_cache is not None:
        table.add_row("engine cache", escape(report.engine_cache))
    for sentence in machine.noise:
        table.add_row("timings", f"[yellow]{escape(sentence)}[/]")
    console.print(table, highlight=False)


def _gpu(console: Console, report: GpuReport, use: str) -> None:
    from rich.markup import escape

    gpu, known = report.gpu, report.known
    table = _section(console, escape(gpu.name))
    origin = {"driver": "", "table": " (from our table: this driver does not tell)", "unknown": ""}[gpu.capability_from]
    name = f", {report.architecture.name}" if report.architecture else ""
    table.add_row("use", f"[yellow]{escape(use)}[/]")
    table.add_row("driver", gpu.driver)
    table.add_row("capability", f"{gpu.capability or 'unknown'}{name}{origin}")
    table.add_row("memory", f"{gpu.memory_mb} MiB" if gpu.memory_mb else "unknown")
    for figure, fact in (known.figures if known else {}).items():
        table.add_row("data sheet", f"{figure} {fact.value:g} {fact.unit} [dim]({fact.how})[/]")
    if report.architecture is not None:
        for library, last in report.architecture.last.items():
            table.add_row(f"last {library}", f"{last.version} [dim]({last.how})[/]")
        for note in report.architecture.notes:
            table.add_row("note", f"{escape(note.text)} [dim]({note.how})[/]")
    for note in known.notes if known else ():
        table.add_row("note", f"{escape(note.text)} [dim]({note.how})[/]")
    for network, bound in (known.bounds_ms if known else {}).items():
        table.add_row(
            "modelled bound",
            f"{escape(network)}: at least {bound.fp32:.2f} ms fp32, {bound.int8:.2f} ms int8 (not measured)",
        )
    console.print(table, highlight=False)


def _libraries(console: Console, report: DoctorReport) -> None:
    from rich.markup import escape

    table = _section(console, "Libraries")
    for library in report.libraries:
        if not library.distributions:
            table.add_row(library.name, "[dim]not installed[/]")
            continue
        lines = [escape(", ".join(library.distributions))]
        if len(library.listed) > 1:
            lines.append(f"lists {escape(', '.join(library.listed))}")
        lines += [f"[green]runs on {escape(device)}[/]" for device in library.devices]
        if library.used:
            lines.append(f"--backend {library.name} uses only {library.used}")
        lines += [f"[yellow]{escape(problem)}[/]" for problem in library.problems]
        lines += [f"precisions: {', '.join(library.precisions)}"] if library.precisions else []
        lines += [f"--backend {one.name} on {escape(one.device)}: {', '.join(one.precisions)}" for one in library.gpu]
        table.add_row(library.name, "\n".join(lines))
    table.add_row("packages", ", ".join(f"{name} {version}" for name, version in report.packages.items()))
    console.print(table, highlight=False)


def _worth(console: Console, report: DoctorReport) -> None:
    from rich.markup import escape
    from rich.table import Table

    for device in dict.fromkeys(row.device for row in report.worth):
        console.print(f"\n[bold]What each precision is worth on: {escape(device)}[/]")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("precision", no_wrap=True)
        table.add_column("worth", no_wrap=True)
        for heading in ("why", "runs with"):
            table.add_column(heading)
        for row in report.worth:
            if row.device == device:
                grade = f"[{STYLE[row.grade]}]{row.grade}[/]"
                table.add_row(row.precision, grade, escape(row.reason), ", ".join(row.backends) or "nothing here")
        console.print(table, highlight=False)


def _measured(console: Console, report: DoctorReport, threads: int) -> None:
    from rich.markup import escape

    table = _section(
        console, f"Measured here: the shipped model, one face, {threads} thread{'s' if threads > 1 else ''}"
    )
    for one in report.measured:
        value = f"{one.median_us:.0f} µs" if one.median_us is not None else f"[yellow]{escape(one.error or '')}[/]"
        table.add_row(f"{one.backend} {one.precision}", value)
    console.print(table, highlight=False)


def _advice(console: Console, report: DoctorReport) -> None:
    from rich.markup import escape

    console.print("\n[bold]Next[/]")
    if not report.advice:
        console.print("Nothing is missing: edge-fer run --demo")
    for step in report.advice:
        console.print(f"• {escape(step.why)}", highlight=False)
        if step.command:
            console.print(f"    {escape(step.command)}", style="cyan", highlight=False, soft_wrap=True)
