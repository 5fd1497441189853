"""The papers' networks in one table: reported, reproduced here, size, cost, speed. Writes papers.md.

    python benchmarks/papers.py [--results benchmarks/results/MACHINE/result.json]... [--check]

Nothing in the table is typed by hand but what the papers report (papers.yaml): parameters and multiply-accumulates are
counted, latencies come from results of ``edge-fer bench`` (a later one replaces the figures of an earlier one, model by
model; all must be of one machine), accuracies from evaluations that ``edge-fer eval --json`` wrote. ``--check`` writes
nothing and fails when papers.md is not what would be written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from edge_fer.core.files import atomic_file
from edge_fer.evaluate.report import read_json
from edge_fer.models.inventory import count
from edge_fer.train.recipe import load_recipe

HERE = Path(__file__).resolve().parent
MACHINE = HERE / "results" / "xeon-2core-vnni"
RESULTS = (MACHINE / "result.json", MACHINE / "papers" / "result.json")
"""Of the plans results.yaml and papers.yaml; the second has the networks that no other page shows."""
MODELS = HERE.parent / "docs" / "models"
ENGINES = (
    ("torch", "fp32"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
)
NAMES = {"torch": "torch", "onnxruntime": "ORT", "openvino": "OpenVINO"}


def reproduced(row: dict[str, Any]) -> str:
    """What a training of ours gave, or what it would take."""
    folder = MODELS / row["trained"] if "trained" in row else None
    if folder is None or not (folder / "fp32.json").is_file():
        text = f"not run: needs {row['needs']}"
        return f"{text}; {row['note']}" if "note" in row else text
    found = read_json(folder / "fp32.json")
    low, high = found.top1_interval
    text = f"**{found.top1:.2%}** ({low:.1%} to {high:.1%}), {found.data}, {found.n:,} faces"
    if (clean := found.deduplicated) is not None:
        text += f"; {clean.metrics.top1:.2%} without the {clean.removed} that have a copy in another split"
    int8 = folder / "int8.json"
    if int8.is_file():
        text += f"; int8 {read_json(int8).top1:.2%}"
    text += f" ([curve](../docs/models/{row['trained']}/curve.png))"
    return f"{text}; {row['note']}" if "note" in row else text


def latencies(results: list[dict[str, Any]], model: str | None) -> list[str]:
    """Median milliseconds of one face on one thread, in the order of :data:`ENGINES`, of the last result that has the
    model at all: figures of two measurements do not share a row."""
    for result in reversed(results):
        times = {
            (case["case"]["runtime"], case["case"]["precision"]): case["p50_ms"]
            for case in result["cases"]
            if case["case"]["model"] == model and case["case"]["threads"] == 1 and case["case"]["batch"] == 1
        }
        if times:
            return [f"{times[engine]:.2f}" if times.get(engine) else "not measured" for engine in ENGINES]
    return ["not measured"] * len(ENGINES)


def page(results: list[dict[str, Any]]) -> str:
    """The Markdown page.

    Raises:
        SystemExit: the results are of several machines.
    """
    machines = {result["machine"]["cpu"] for result in results}
    if len(machines) > 1:
        sys.exit(f"these results cannot stand in one table: they are of {' and '.join(sorted(machines))}")
    days = dict.fromkeys(result["measured_utc"][:10] for result in results)
    given = yaml.safe_load((HERE / "papers.yaml").read_text(encoding="utf-8"))
    lines = [
        "# The papers' networks",
        "",
        "Reported: as the paper states it, on its own data and split. Reproduced: trained and evaluated here.",
        "Parameters and multiply-accumulates (MAC) are counted for seven classes at the input shown. Milliseconds: one",
        f"face, one thread, median, {machines.pop()}, {' and '.join(days)}",
        "([RESULTS.md](RESULTS.md)); the weights behind them are untrained unless a result is shown.",
        "`python benchmarks/papers.py` writes this page.",
    ]
    heads = [f"{NAMES[runtime]} {precision}" for runtime, precision in ENGINES]
    for paper in given["papers"]:
        lines += [
            "",
            f"## {paper['title']}",
            "",
            "| network | recipe | input | parameters | MAC | reported | reproduced here | " + " | ".join(heads) + " |",
            "|---|---|--:|--:|--:|---|---|" + "--:|" * len(heads),
        ]
        for row in paper["networks"]:
            load_recipe(row["recipe"])  # a recipe that is not there is an error of this file
            network = count(row["arch"])
            channels, height, width = network.input_shape
            cells = [
                f"`{row['arch']}`",
                f"`{row['recipe']}`",
                f"{channels}x{height}x{width}",
                f"{network.parameters / 1e6:.2f} M",
                f"{network.macs / 1e9:.2f} G",
                row["reported"],
                reproduced(row),
                *latencies(results, row.get("measured")),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Doubts", "", *(f"* {doubt}" for doubt in given["doubts"])]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, action="append", help="default: those of the machine in RESULTS.md")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    files = options.results or [path for path in RESULTS if path.is_file()]
    text = page([json.loads(path.read_text(encoding="utf-8")) for path in files])
    path = HERE / "papers.md"
    if options.check:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit("benchmarks/papers.md is not what its sources give; run: python benchmarks/papers.py")
        return
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
