"""What ``edge-fer eval`` prints and writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from edge_fer.cli.eval_models import Results
    from edge_fer.evaluate.report import Comparison, Evaluation


def write(
    results: Results,
    *,
    json: Path | None,
    png: Path | None,
    html: Path | None,
    report: Path | None,
    mistakes: Path | None,
) -> None:
    """Write what was asked for; every file is replaced in one step."""
    from edge_fer.evaluate.report import as_png, write_json
    from edge_fer.evaluate.report_html import write_html

    models = _models(results.evaluation)
    wanted = png is not None or html is not None or report is not None
    figures = {name: as_png(one) for name, one in models.items()} if wanted else {}
    if json is not None:
        write_json(json, results.evaluation)
    if png is not None:
        _write(png, next(iter(figures.values())))
    if html is not None:
        write_html(html, results.evaluation, figures, results.sheets)
    if report is not None:
        write_json(report / "report.json", results.evaluation)
        write_html(report / "report.html", results.evaluation, figures, results.sheets)
        for name, figure in figures.items():
            _write(report / f"{_file(name)}.png", figure)
    for folder in (report, mistakes):
        if folder is not None:
            for name, sheet in results.sheets.items():
                _write(folder / f"mistakes-{_file(name)}.png", sheet)


def _write(path: Path, content: bytes) -> None:
    from edge_fer.core.files import atomic_file

    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def show(console: Console, results: Results) -> None:
    """Print one model in full, or several side by side."""
    from edge_fer.evaluate.report import Comparison

    found = results.evaluation
    if isinstance(found, Comparison):
        _show_comparison(console, found)
    else:
        _show_one(console, found)


def _models(found: Evaluation | Comparison) -> dict[str, Evaluation]:
    from edge_fer.evaluate.report import Comparison

    return found.models if isinstance(found, Comparison) else {found.model: found}


def _file(name: str) -> str:
    """A model's name as a file's."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def _show_one(console: Console, evaluation: Evaluation) -> None:
    from rich.table import Table

    from edge_fer.evaluate.report import headline

    console.print(
        f"[bold]{evaluation.model}[/] on {evaluation.backend} {evaluation.precision}, {evaluation.n} {evaluation.unit} "
        f"of {evaluation.data}",
        highlight=False,
    )
    console.print("   ".join(f"{name} [bold]{value}[/]" for name, value in headline(evaluation)), highlight=False)
    _show_clean(console, evaluation)
    if (videos := evaluation.videos) is not None:
        console.print(
            f"single faces {videos.frame_top1:.1%}   means of tracks {videos.track_top1:.1%}   videos without a face "
            f"{videos.without_face} (as wrong: top-1 {videos.top1_of_all:.1%})",
            highlight=False,
        )
    found = evaluation.found_faces
    for sentence in () if found is None else found.told():
        console.print(sentence, highlight=False)
    table = Table()
    table.add_column("class")
    for column in ("precision", "recall", "F1", "AUC", "AP", evaluation.unit, *(() if found is None else ("found",))):
        table.add_column(column, justify="right")
    for name, row in evaluation.per_class.items():
        areas = ("" if value is None else f"{value:.3f}" for value in (row.auc, row.average_precision))
        shares = () if found is None else (f"{found.found_share[name]:.1%}" if name in found.found_share else "",)
        rates = (f"{v:.1%}" for v in (row.precision, row.recall, row.f1))
        table.add_row(name, *rates, *areas, str(row.support), *shares)
    console.print(table)
    confusion = Table(title="rows: true class, columns: predicted", title_justify="left")
    confusion.add_column("")
    for name in evaluation.class_names:
        confusion.add_column(name, justify="right")
    for index, counts in enumerate(evaluation.confusion):
        cells = [f"[bold]{count}[/]" if i == index else str(count) for i, count in enumerate(counts)]
        confusion.add_row(evaluation.class_names[index], *cells)
    console.print(confusion)


def _show_clean(console: Console, evaluation: Evaluation) -> None:
    if (clean := evaluation.deduplicated) is None:
        return
    low, high = clean.metrics.top1_interval
    leaked = "" if clean.leaked_top1 is None else f"; on those alone {clean.leaked_top1:.1%}"
    console.print(
        f"without {clean.removed} near-duplicates of other splits: top-1 (95 %: {100 * low:.1f} to {100 * high:.1f}) "
        f"[bold]{clean.metrics.top1:.1%}[/]{leaked}",
        highlight=False,
    )


def _show_comparison(console: Console, comparison: Comparison) -> None:
    from rich.table import Table

    from edge_fer.evaluate.report_html import OVERALL, figure_of, p_value

    first = next(iter(comparison.models.values()))
    console.print(f"{first.n} {first.unit} of {first.data}; in brackets: 95 % bootstrap", highlight=False)
    table = Table()
    table.add_column("")
    for name in comparison.models:
        # Folded, not cut: models that are compared often differ at the end of their names only.
        table.add_column(name, justify="right", overflow="fold")
    for heading, key, as_percent in OVERALL:
        cells = (figure_of(getattr(one, key), as_percent, one.intervals.get(key)) for one in comparison.models.values())
        table.add_row(heading, *(cell.replace(" (", "\n(") for cell in cells))
    if any(one.deduplicated is not None for one in comparison.models.values()):
        clean = [one.deduplicated for one in comparison.models.values()]
        table.add_row(
            "top-1, no duplicates",
            *("" if d is None else figure_of(d.metrics.top1, True, d.metrics.top1_interval) for d in clean),
        )
    located = [one.found_faces for one in comparison.models.values()]
    if any(one is not None for one in located):
        table.add_row(
            "as the data set cuts them", *("" if one is None else f"{one.top1_as_given:.1%}" for one in located)
        )
        table.add_row("faces found", *("" if one is None else f"{one.found:,} of {one.pictures:,}" for one in located))
    table.add_row("ran on", *(f"{one.backend} {one.precision}" for one in comparison.models.values()))
    console.print(table)
    pairs = Table(title=f"against {comparison.comparisons[0].reference}", title_justify="left")
    for column in ("", "accuracy is", "top-1, points", "gained", "lost", "McNemar p", "Holm p"):
        pairs.add_column(column, justify="left" if column in ("", "accuracy is") else "right", overflow="fold")
    for one in comparison.comparisons:
        low, high = one.top1.interval
        pairs.add_row(
            one.model,
            one.verdict,
            f"{100 * one.top1.gain:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
            str(one.gained),
            str(one.lost),
            p_value(one.mcnemar_p),
            p_value(one.holm_p),
        )
    console.print(pairs)
