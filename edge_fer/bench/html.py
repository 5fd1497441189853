"""One HTML page of a result: tables that sort by a click, and nothing fetched from anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from edge_fer.bench.overview import LEGEND, overviews
from edge_fer.bench.report import (
    BOUND_HEADINGS,
    CAMERA_HEADINGS,
    Value,
    bound_rows,
    camera_rows,
    camera_sentences,
    disturbances,
    notes,
    used_columns,
)
from edge_fer.bench.results import BenchResult
from edge_fer.core.files import atomic_file

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #5d6673; --rule: #d5dae1; --front: #e7f0fa; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --muted: #9aa4b2; --rule: #343b45; --front: #1d3046; --paper: #14181d; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 112rem; padding: 0 1rem; }
pre { overflow-x: auto; }
.wide { overflow: auto; max-height: 90vh; border-bottom: 1px solid var(--rule); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .86rem; margin: 0; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th.text, td.text { text-align: left; }
th button { all: unset; cursor: pointer; font-weight: 600; color: var(--muted); }
th button:focus-visible { outline: 2px solid currentColor; }
thead th { position: sticky; top: 0; background: var(--paper); white-space: normal;
  vertical-align: bottom; z-index: 1; }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--paper); }
thead th:first-child { z-index: 2; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
td.strong { font-weight: 650; background: var(--front); }
tr.front td { background: var(--front); }
.warning { border-left: .25rem solid #c77700; padding-left: .8rem; }
tr.failed td { color: var(--muted); }
li, .muted { color: var(--muted); }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
.pictures img { max-width: 100%; width: 44rem; align-self: start; background: #fff; }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th").forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");      // empty cells last, whichever way
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }));
}
"""


class Cell(NamedTuple):
    """What is sorted by, and what is shown; ``None`` sorts last."""

    value: Value
    text: str
    strong: bool = False


def write_html(path: Path, result: BenchResult, pictures: Sequence[tuple[str, str]] = ()) -> None:
    """Write the page.

    Args:
        pictures: (what it shows, file name beside the page).
    """
    with atomic_file(path) as temporary:
        temporary.write_text(to_html(result, pictures), encoding="utf-8")


def to_html(result: BenchResult, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """The page as text; every value of the result is escaped."""
    columns = used_columns(result.cases)
    rows = []
    for case in result.cases:
        kind = "failed" if case.error else "front" if case.pareto else ""
        rows.append((kind, [Cell(column.value(case), column.text(case)) for column in columns]))
    title = f"Benchmark {result.plan.name}: {result.device}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="warning">{escape(sentence)}</p>' for sentence in disturbances(result)),
        *_overview(result),
        *_pictures(pictures),
        "<h2>Every case</h2>",
        '<p class="muted">Click a heading to sort. Coloured rows: no other case is both faster and as accurate.</p>',
        _table([column.heading for column in columns], rows, texts=2),
        _list(notes(result)),
    ]
    if result.camera is not None:
        plain = [("", [_cell(cell) for cell in row]) for row in camera_rows(result)]
        parts += ["<h2>Camera to label</h2>", _table(CAMERA_HEADINGS, plain, texts=1)]
        parts.append(_list(camera_sentences(result)))
    if result.bounds:
        plain = [("", [_cell(cell) for cell in row]) for row in bound_rows(result)]
        parts += [
            "<h2>Other devices</h2>",
            "<p>Modelled bounds are arithmetic on data sheets, not measurements: no engine can be faster.</p>",
            _table(BOUND_HEADINGS, plain, texts=3),
        ]
    if result.command:
        parts.append(f"<p>Repeat with:</p><pre>{escape(result.command)}</pre>")
    return "\n".join([*parts, f"<script>{SCRIPT}</script></body></html>", ""])


def _overview(result: BenchResult) -> list[str]:
    parts = []
    for overview in overviews(result):
        rows = [
            ("", [Cell(name, name), *(Cell(cell.ms, cell.text, strong=cell.fastest) for cell in cells)])
            for name, cells in overview.rows
        ]
        parts += [f"<h2>{escape(overview.title)}</h2>", _table(("model", *overview.engines), rows, texts=1)]
    return [*parts, f'<p class="muted">{escape(LEGEND)}</p>'] if parts else []


def _pictures(pictures: Sequence[tuple[str, str]]) -> list[str]:
    images = [f'<img src="{escape(name)}" alt="{escape(text)}" title="{escape(text)}">' for text, name in pictures]
    return ['<div class="pictures">', *images, "</div>"] if images else []


def _cell(text: str) -> Cell:
    number = text.removeprefix("≥ ").removesuffix("%")
    try:
        return Cell(float(number), text)
    except ValueError:
        return Cell(text, text)


def _table(headings: Sequence[str], rows: Sequence[tuple[str, list[Cell]]], *, texts: int) -> str:
    def kind(index: int, *, strong: bool = False) -> str:
        names = ["text"] * (index < texts) + ["strong"] * strong
        return f' class="{" ".join(names)}"' if names else ""

    head = "".join(f'<th scope="col"{kind(i)}><button>{escape(text)}</button></th>' for i, text in enumerate(headings))
    body = []
    for name, cells in rows:
        inner = "".join(
            f'<td{kind(i, strong=cell.strong)} data-value="{escape("" if cell.value is None else str(cell.value))}">'
            f"{escape(cell.text)}</td>"
            for i, cell in enumerate(cells)
        )
        body.append(f'<tr class="{name}">{inner}</tr>')
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _list(sentences: Sequence[str]) -> str:
    items = (re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(sentence)) for sentence in sentences)
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
