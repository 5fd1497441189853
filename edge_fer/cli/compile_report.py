"""What ``edge-fer compile`` prints: what every engine computes, how fast it is here, and why one was chosen."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edge_fer.compile.report import AttemptReport, CandidateReport, CompileReport, DetectorReport
    from edge_fer.core.manifest import AccuracyRecord, GateRecord, LadderRecord, TrialRecord

VERDICTS = {
    "chosen": "[bold green]chosen[/]",
    "slower": "",
    "refused": "[yellow]refused[/]",
    "failed": "[red]fails the gate[/]",
    "left": "[dim]outrun[/]",
    "error": "[red]cannot run[/]",
}


def show(console: Console, report: CompileReport) -> None:
    """Print the report of an expression network."""
    console.print(
        f"[bold]{report.model}[/]  {report.parameters / 1e6:.2f} M parameters, {report.macs / 1e6:.0f} MMAC, "
        f"checkpoint {report.checkpoint_bytes / 1e6:.1f} MB",
        highlight=False,
    )
    torch = report.torch_parity
    facts = [
        (
            "torch",
            f"ONNX gives the same label for {torch.top1_agreement:.2%} of {torch.n} faces, logits within "
            f"{torch.max_gap:.1g}",
        ),
        *(("[yellow]assumed[/]", text) for text in report.assumptions),
        *([("int8", report.calibration)] if report.calibration else []),
        ("files", ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in report.file_bytes.items())),
        *(("[cyan]note[/]", text) for text in report.notes),
    ]
    for name, text in facts:
        console.print(f"{name}: {text}", highlight=False)
    console.print()
    console.print(_computed(report))
    console.print(_legend(report), style="dim", highlight=False)
    for candidate in report.candidates:
        if candidate.error:
            console.print(f"[red]{candidate.backend} {candidate.precision}[/]: {candidate.error}", highlight=False)
    if report.ladder is not None and report.ladder.trials:
        console.print()
        _show_speed(console, report.ladder)
    if (recalls := _recalls(report)) is not None:
        console.print()
        console.print(recalls)
    console.print()
    for attempt in report.attempts:
        console.print(_attempt(attempt), highlight=False)
    if report.gate is not None:
        console.print(_gate_sentence(report.gate), highlight=False)
    chosen = next((c for c in report.candidates if c.chosen), None)
    if chosen is not None:
        console.print(f"Chosen: [bold green]{chosen.backend} {chosen.precision}[/]: {report.reason}.", highlight=False)
    else:
        console.print(f"{report.reason[0].upper()}{report.reason[1:]}.", highlight=False)
    console.print(f"Bundle: [bold]{report.bundle}[/]", soft_wrap=True, highlight=False)


def show_detector(console: Console, report: DetectorReport) -> None:
    """Print the report of a face detector: a row per engine, compared find by find with the reference."""
    console.print(
        f"[bold]{report.model}[/]  {report.parameters:,} parameters, {report.macs / 1e6:.0f} MMAC at its own size",
        highlight=False,
    )
    if report.calibration:
        console.print(f"int8: {report.calibration}", highlight=False)
    table = _table("backend", "precision", "same faces as fp32", "corners apart", "canary gap")
    for held in report.held:
        mark = " (chosen)" if (held.backend, held.precision) == report.chosen else ""
        cells = (
            (held.error or "failed", "", "")
            if held.error
            else (
                "reference" if held.agreement is None else f"{held.agreement:.1%}",
                "" if held.box_gap_px is None else f"{held.box_gap_px:.2f} px at most",
                f"{held.canary_gap:.2g}",
            )
        )
        table.add_row(held.backend + mark, held.precision, *cells)
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", highlight=False)
    console.print(f"Engine: {report.reason}", highlight=False)
    console.print(f"Bundle: {report.bundle} ({report.seconds:.0f} s)", highlight=False)
    console.print(f"Next: edge-fer run --detector edge-fer-face={quote(str(report.bundle))} --demo", highlight=False)


def _table(first: str, *others: str, title: str | None = None) -> Table:
    """Text on the left, figures on the right; only a line below the headings."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=title,
        title_justify="left",
        title_style="bold",
    )
    table.add_column(first, no_wrap=True)
    for heading in others:
        # What does not fit into a narrow terminal stands on a second line instead of ending in "…".
        table.add_column(heading, justify="right", no_wrap=heading is not others[-1])
    return table


def _computed(report: CompileReport) -> Table:
    """What every engine computes, against fp32."""
    measured = any(c.accuracy is not None for c in report.candidates)
    table = _table(
        "engine",
        "same label",
        "logit gap",
        *(["top-1, 95 %", "points lost, 95 %"] if measured else []),
        title="What it computes",
    )
    for candidate in report.candidates:
        table.add_row(*_computed_row(candidate, measured))
    return table


def _computed_row(candidate: CandidateReport, measured: bool) -> list[str]:
    parity = candidate.parity
    reference = parity is None and candidate.error is None
    row = [
        _engine(candidate.backend, candidate.precision, candidate.chosen),
        f"{parity.top1_agreement:.2%}" if parity else ("reference" if reference else ""),
        f"{parity.max_gap:.1g}" if parity else "",
    ]
    if measured:
        accuracy, drop, interval = candidate.accuracy, candidate.drop, candidate.drop_interval
        row.append(_top1(accuracy) if accuracy is not None else "")
        row.append(_drop(drop, interval) if drop is not None and interval is not None else "")
    return row


def _show_speed(console: Console, ladder: LadderRecord) -> None:
    """What was timed, the fastest first, and why what is fast was not chosen."""
    threads = f"{ladder.threads} thread" + "s" * (ladder.threads > 1)
    table = _table("engine", "in fp32", "ms a face", "times as fast as fp32", "", title="How fast it is here")
    table.columns[-1].justify = "left"
    for trial in ladder.trials:
        table.add_row(*_speed_row(trial))
    console.print(table)
    console.print(
        f"{threads}, one face, warm; medians of {ladder.rounds} rounds in turn, one process per engine; in brackets "
        "the extremes of the ratio within a round. in fp32: layers that a mixed form does not compute in int8."
        + _earlier(ladder),
        style="dim",
        highlight=False,
    )
    for trial in ladder.trials:
        if trial.verdict in ("refused", "failed", "error"):
            name = _engine(trial.backend, trial.precision, chosen=False)
            console.print(f"{name} {VERDICTS[trial.verdict]}: {trial.why}", highlight=False)


def _earlier(ladder: LadderRecord) -> str:
    """What to know of forms that did not reach the last race."""
    if len({trial.float_layers for trial in ladder.trials if trial.precision == "int8"}) < 2:
        return ""
    return (
        " Int8 forms that were tried before have their ratio to fp32 from then, and the milliseconds that it gives "
        "now; outrun: a form tried with it was faster."
    )


def _speed_row(trial: TrialRecord) -> list[str]:
    ratio = ""
    if trial.speedup is not None and trial.speedup_range is not None:
        low, high = trial.speedup_range
        ratio = f"{trial.speedup:.2f} ({low:.2f} to {high:.2f})"
    return [
        _engine(trial.backend, trial.precision, trial.verdict == "chosen"),
        f"{len(kept)} layer{'s' * (len(kept) > 1)}" if (kept := trial.float_layers) else "",
        f"{trial.median_us / 1e3:.3f}" if trial.median_us is not None else "",
        ratio,
        VERDICTS[trial.verdict],
    ]


def _recalls(report: CompileReport) -> Table | None:
    """Recall of every class before and after: fp32, and the chosen engine or else the best int8."""
    before = next((c.accuracy for c in report.candidates if c.accuracy is not None), None)
    after = next((c for c in report.candidates if c.chosen and c.accuracy is not None), None)
    if after is None or after.accuracy is before:
        after = next((c for c in report.candidates if c.precision == "int8" and c.accuracy is not None), None)
    if before is None or after is None or after.accuracy is None:
        return None
    name = f"{after.backend} {after.precision}"
    table = _table("class", "fp32", name, "change", title="Recall of each class")
    for label, recall in before.per_class_recall.items():
        now = after.accuracy.per_class_recall[label]
        change = 100 * (now - recall)
        harmed = report.gate is not None and label in report.gate.harmed_classes
        shown = f"[bold red]{change:+.1f}[/]" if harmed else f"{change:+.1f}"
        table.add_row(label, f"{recall:.1%}", f"{now:.1%}", shown)
    return table


def _engine(backend: str, precision: str, chosen: bool) -> str:
    name = f"{backend} {precision}"
    return f"[bold green]{name}[/]" if chosen else name


def _top1(accuracy: AccuracyRecord) -> str:
    low, high = accuracy.top1_interval
    return f"{accuracy.top1:.2%} ± {100 * max(accuracy.top1 - low, high - accuracy.top1):.1f}"


def _legend(report: CompileReport) -> str:
    accuracy = next((c.accuracy for c in report.candidates if c.accuracy is not None), None)
    if accuracy is not None:
        return (
            f"On {accuracy.n} faces of {accuracy.data}, against ONNX Runtime fp32: the share of faces with the same "
            "label, the largest gap of a logit, and the loss of top-1 on the same faces (negative is a gain)."
        )
    parity = next((c.parity for c in report.candidates if c.parity is not None), None)
    faces = (
        f"On {parity.n} faces, against ONNX Runtime fp32: the share of faces with the same label, and the largest gap "
        "of a logit. "
        if parity
        else ""
    )
    return f"{faces}Give --data to verify accuracy."


def _drop(drop: float, interval: tuple[float, float]) -> str:
    return f"{drop:+.2f} ({interval[0]:+.2f} to {interval[1]:+.2f})"


def _attempt(attempt: AttemptReport) -> str:
    kept = ", ".join(attempt.float_layers) or "none"
    verdict = "passes" if attempt.passed else "does not pass"
    drop = _drop(attempt.drop, attempt.drop_interval)
    return f"Tried int8 ({attempt.how}) with these layers in fp32: {kept}; drop {drop}, {verdict}"


def _gate_sentence(gate: GateRecord) -> str:
    if gate.drop is None or gate.drop_interval is None:
        return "Accuracy gate: not applied, no --data was given."
    classes = ", ".join(f"{name} {points:+.1f}" for name, points in gate.harmed_classes.items())
    measured = f"the worst int8 drop is {_drop(gate.drop, gate.drop_interval)} points on {gate.n} faces"
    if classes:
        measured += f", and classes lose recall beyond chance: {classes}"
    if not gate.applied:
        return f"Accuracy gate: switched off; {measured}."
    verdict = "passed" if gate.passed else "not passed"
    beyond = gate.passed and gate.drop_interval[1] > gate.max_drop
    unsure = "; the interval reaches beyond that, more faces would settle it" if beyond else ""
    return f"Accuracy gate: {verdict}, {measured}; allowed are {gate.max_drop:g}{unsure}."


__all__ = ["show", "show_detector"]
