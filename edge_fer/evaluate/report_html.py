"""Evaluations as one HTML page: tables for reading and copying, figures inside, nothing fetched from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from edge_fer.core.files import atomic_file
from edge_fer.evaluate.compare import SIGNIFICANT, Difference, ModelComparison
from edge_fer.evaluate.report import Comparison, Evaluation, percent

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #5d6673; --rule: #d5dae1; --paper: #fff;
  --mark: 47 111 176; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --muted: #9aa4b2; --rule: #343b45; --paper: #14181d; --mark: 84 152 220; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 78rem; padding: 0 1rem; }
h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
caption { text-align: left; color: var(--muted); padding-bottom: .3rem; max-width: 70rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th { font-weight: 600; color: var(--muted); }
thead th { white-space: normal; vertical-align: bottom; }
tbody th, thead th:first-child { position: sticky; left: 0; background: var(--paper); }
.folded { font-size: .9rem; }
.folded th, .folded td { padding: .3rem .45rem; }
.folded td { white-space: pre; }
.folded tbody th { white-space: normal; min-width: 9rem; }
tbody th, th.text, td.text { text-align: left; }
tbody th { color: var(--ink); }
td small, .muted { color: var(--muted); }
.confusion td { background: rgb(var(--mark) / calc(var(--share) * .75)); min-width: 3.2rem; }
.notice { padding: .5rem .9rem; border-left: .3rem solid rgb(var(--mark)); }
img { max-width: 100%; background: #fff; }
@media print { details { display: block; } }
"""

LAW = (
    "These figures say how often a network names the class that people gave a face, not what a person feels. Using "
    "emotion recognition at work or in education is prohibited in the EU except for medical or safety reasons (AI Act, "
    "Art. 5(1)(f)); people must be told when it is used (Art. 50(3))."
)


def write_html(
    path: Path, result: Evaluation | Comparison, figures: Mapping[str, bytes], mistakes: Mapping[str, bytes]
) -> None:
    """Write the page.

    Args:
        figures: by model's name, the PNG of its figures; see :func:`edge_fer.evaluate.report.as_png`.
        mistakes: by model's name, a PNG of its mistakes; models may lack one.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(to_html(result, figures, mistakes), encoding="utf-8")


def to_html(result: Evaluation | Comparison, figures: Mapping[str, bytes], mistakes: Mapping[str, bytes]) -> str:
    """The page as text; every value is escaped."""
    models = result.models if isinstance(result, Comparison) else {result.model: result}
    first = next(iter(models.values()))
    title = f"{', '.join(models)} on {first.data}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">{first.n:,} {first.unit}; edge-fer {escape(first.edge_fer_version)}, {escape(first.device)}.'
        " In brackets: 95 % intervals over the same samples (bootstrap; exact ones where all or none are right).</p>",
        f'<p class="notice">{escape(LAW)}</p>',
        _overview(models),
    ]
    if isinstance(result, Comparison):
        parts.append(_comparisons(result.comparisons))
    for name, one in models.items():
        parts += _model(name, one, figures[name], mistakes.get(name))
    return "\n".join([*parts, "</body></html>", ""])


OVERALL = (
    ("top-1", "top1", True),
    ("top-3", "top3", True),
    ("macro precision", "macro_precision", False),
    ("macro recall", "macro_recall", False),
    ("macro-F1", "macro_f1", False),
    ("weighted precision", "weighted_precision", False),
    ("weighted recall", "weighted_recall", False),
    ("weighted F1", "weighted_f1", False),
    ("balanced accuracy", "balanced_accuracy", True),
    ("mean AUC", "macro_auc", False),
    ("mean average precision", "mean_average_precision", False),
    ("calibration error", "ece", True),
)
"""(heading, field of ``Metrics``, shown in percent)."""


def figure_of(value: float | None, as_percent: bool, interval: tuple[float, float] | None = None) -> str:
    """``70.1 % (68.6 to 71.6)``, or ``0.690 (0.671 to 0.707)``; a dash for what is not defined."""
    if value is None:
        return "–"
    text = percent(value) if as_percent else f"{value:.3f}"
    if interval is None:
        return text
    low, high = (f"{100 * v:.1f}" if as_percent else f"{v:.3f}" for v in interval)
    return f"{text} ({low} to {high})"


FOLDED_FROM = 4
"""More models than that stand side by side only where their intervals stand below their figures."""


def _overview(models: Mapping[str, Evaluation]) -> str:
    rows = []
    for heading, key, as_percent in OVERALL:
        values = [figure_of(getattr(one, key), as_percent, one.intervals.get(key)) for one in models.values()]
        rows.append((heading, values))
    rows.append(("ran on", [f"{one.backend} {one.backend_version}, {one.precision}" for one in models.values()]))
    clean = [one.deduplicated for one in models.values()]
    if any(one is not None for one in clean):
        texts = ["–" if d is None else figure_of(d.metrics.top1, True, d.metrics.top1_interval) for d in clean]
        rows.insert(1, ("top-1 without near-duplicates", texts))
        removed = ["–" if d is None else f"{d.removed:,}" for d in clean]
        rows.insert(2, ("near-duplicates left out", removed))
    return _table("", ["", *models], rows, folded=len(models) > FOLDED_FROM)


def _comparisons(comparisons: Sequence[ModelComparison]) -> str:
    if not comparisons:
        return ""
    rows = [
        (
            one.model,
            [
                one.verdict,
                _points(one.top1, percent_points=True),
                f"{one.gained:,}",
                f"{one.lost:,}",
                p_value(one.mcnemar_p),
                p_value(one.holm_p),
                *(_points(one.others[k], percent_points=k in ("ece", "balanced_accuracy")) if k in one.others else "–"
                  for k in ("macro_f1", "balanced_accuracy", "macro_auc", "ece")),
            ],
        )
        for one in comparisons
    ]  # fmt: skip
    head = ["", "accuracy is", "top-1, points", "gained", "lost", "McNemar p", "Holm p", "macro-F1"]
    head += ["balanced accuracy, points", "mean AUC", "calibration error, points"]
    caption = (
        "Differences on the same samples. Gained: samples that only this model gets right; lost: only the reference. "
        f"Better or worse: McNemar's exact test, corrected for the number of models (Holm), below {SIGNIFICANT}."
    )
    return f"<h2>Against {escape(comparisons[0].reference)}</h2>{_table(caption, head, rows, folded=True)}"


def _points(difference: Difference, *, percent_points: bool) -> str:
    scale, digits = (100, 1) if percent_points else (1, 3)
    gain, (low, high) = scale * difference.gain, (scale * v for v in difference.interval)
    return f"{gain:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def p_value(value: float) -> str:
    """Four digits; what is less is told as less, because no p is 0."""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _model(name: str, one: Evaluation, figures: bytes, mistakes: bytes | None) -> list[str]:
    found = one.found_faces
    per_class = []
    for label, row in one.per_class.items():
        cells = [
            figure_of(getattr(row, key), key != "auc" and key != "average_precision", row.intervals.get(key))
            for key in ("precision", "recall", "f1", "auc", "average_precision")
        ]
        shares = () if found is None else (percent(found.found_share[label]) if label in found.found_share else "–",)
        per_class.append((label, [*cells, f"{row.support:,}", *shares]))
    head = [
        "",
        "precision",
        "recall",
        "F1",
        "AUC",
        "average precision",
        one.unit,
        *(() if found is None else ("found",)),
    ]
    parts = [
        f"<h2>{escape(name)}</h2>",
        *(f"<p>{escape(sentence)}</p>" for sentence in (() if found is None else found.told())),
        _table("Class by class, each against the rest.", head, per_class),
        _confusion(one),
    ]  # fmt: skip
    if one.deduplicated is not None and one.deduplicated.leaked_top1 is not None:
        d = one.deduplicated
        parts.append(
            f"<p>{d.removed:,} samples have a near-duplicate in another split; on those alone top-1 is "
            f"{percent(d.leaked_top1 or 0.0)}, without them {percent(d.metrics.top1)}.</p>"
        )
    if one.videos is not None:
        parts.append(_videos(one))
    parts.append(_picture(figures, f"Confusion, classes, reliability, confidence, curves and intervals of {name}"))
    if mistakes is not None:
        parts.append(
            f"<details><summary>Its surest mistakes</summary>{_picture(mistakes, f'Mistakes of {name}')}</details>"
        )
    return parts


def _videos(one: Evaluation) -> str:
    found = one.videos
    assert found is not None
    rows = []
    for video in found.videos:
        scores = "–" if video.scores is None else f"{max(video.scores.values()):.0%}"
        share = "–" if not video.faces else f"{video.faces_right / video.faces:.0%}"
        rows.append(
            (
                video.id,
                [video.label, video.predicted or "no face", scores, f"{video.frames:,}", f"{video.faces:,}", share],
            )
        )
    note = (
        f"Single faces: {percent(found.frame_top1)} right; means of tracks: {percent(found.track_top1)}; means of "
        f"videos: {percent(one.top1)}. Without a face: {found.without_face} videos; counted as wrong, top-1 is "
        f"{percent(found.top1_of_all)}."
    )
    return f"<p>{escape(note)}</p>" + _table(
        "Every video: the class of the mean of its frames' scores.",
        ["", "is", "taken for", "mean score", "frames", "faces", "of them right"],
        rows,
    )


def _confusion(one: Evaluation) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", *one.class_names))
    body = []
    for name, counts in zip(one.class_names, one.confusion, strict=True):
        total = max(1, sum(counts))
        cells = "".join(
            f'<td style="--share:{count / total:.3f}">{count:,}<br><small>{count / total:.0%}</small></td>'
            for count in counts
        )
        body.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        '<div class="wide"><table class="confusion"><caption>Rows: true class; columns: predicted.</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _table(
    caption: str, head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], *, folded: bool = False
) -> str:
    """``folded``: intervals stand below their figures, for tables that would be wider than a laptop's screen."""
    before = "\n(" if folded else " ("
    headings = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = ""
    for name, cells in rows:
        inner = "".join(f"<td>{escape(cell.replace(' (', before))}</td>" for cell in cells)
        body += f'<tr><th scope="row">{escape(name)}</th>{inner}</tr>'
    shown = f"<caption>{escape(caption)}</caption>" if caption else ""
    kind = ' class="folded"' if folded else ""
    return (
        f'<div class="wide"><table{kind}>{shown}<thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _picture(png: bytes, text: str) -> str:
    return f'<p><img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'
