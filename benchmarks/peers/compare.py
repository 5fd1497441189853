"""Other packages and ours on the same pictures, in turn, round after round; writes PEERS.md.

    python benchmarks/peers/compare.py --data DIR --split test --out benchmarks/results/MACHINE/peers.json

Every run has a fresh process; ratios are taken within rounds. The first thousand faces are timed in every round, and
all of them are labelled once, for the accuracy. A peer that cannot be had stands in the table with the reason.
``--render`` writes the page again from such a file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from run import CLIP, HERE, VENVS, PeerError, constants, hits, installed_bytes, measure, peers, pictures_for

from edge_fer import __version__
from edge_fer.backends.host import cpu_name
from edge_fer.bench.conditions import disturbance, ticks
from edge_fer.bench.results import Round, pack_round
from edge_fer.bench.statistics import interval_words, paired_ratio
from edge_fer.core.files import atomic_file

TASKS = {"classification": "A decoded face to a label", "detection": "A decoded 720p frame to boxes"}
OURS = {"classification": "edge_fer_classifier", "detection": "edge_fer_detector"}
RESAMPLES = 2000
COMMAND = (
    "python benchmarks/peers/compare.py --data DIR/fer2013 --split test --out benchmarks/results/MACHINE/peers.json"
)


def compare(names: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all peers in turn."""
    began, found = ticks(), {name: {"rounds": []} for name in names}
    with tempfile.TemporaryDirectory(prefix="edge-fer-peers-", ignore_cleanup_errors=True) as folder:
        files, labels = {}, {}
        for task in dict.fromkeys(constants(name)["TASK"] for name in names):
            images, labels[task] = pictures_for(task, CLIP, arguments.data, arguments.split)
            files[task] = Path(folder) / f"{task}.npz"
            np.savez(files[task], *images)
        for turn in range(arguments.rounds):
            for name in names:
                if "error" in found[name]:
                    continue
                print(f"round {turn + 1} of {arguments.rounds}: {name}", file=sys.stderr)  # noqa: T201
                task = constants(name)["TASK"]
                try:
                    answer = measure(name, files[task], clip=None, threads=1, label_all=turn == 0, home=arguments.venvs)
                except PeerError as failure:
                    found[name] = {"error": str(failure), "rounds": []}
                    continue
                _keep(found[name], answer, labels[task])
    taken = disturbance(began, ticks())
    for name, about in found.items():
        about |= {"task": constants(name)["TASK"], "requirements": constants(name)["REQUIREMENTS"]}
        about["installed_bytes"] = installed_bytes(name, arguments.venvs) if about["requirements"] else None
    return {
        "kind": "edge-fer-peers",
        "edge_fer_version": __version__,
        "measured_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": cpu_name(),
        "disturbance": None if taken is None else taken.model_dump(),
        "data": "/".join([arguments.data.resolve().name, *([arguments.split] if arguments.split else [])]),
        "peers": found,
    }


def _keep(about: dict[str, Any], answer: dict[str, Any], labels: list[str]) -> None:
    results = answer["results"]
    if not about["rounds"]:
        about |= {"runs_on": answer["runs_on"], "versions": answer["versions"], "pictures": len(results)}
        if labels:
            right = hits(results, labels)
            drawn = np.random.default_rng(0).binomial(len(right), float(np.mean(right)), size=RESAMPLES) / len(right)
            about["top1"] = float(np.mean(right))
            about["top1_interval"] = [float(value) for value in np.quantile(drawn, [0.025, 0.975])]
        else:
            about["found"] = sum(bool(boxes) for boxes in results) / len(results)
    figures = {key: answer[key] for key in ("cold_start_s", "cpu_ms", "memory_bytes")}
    about["rounds"].append({**figures, "samples": pack_round(answer["samples_ns"]).model_dump()})


def to_markdown(result: dict[str, Any], source: str) -> str:
    """The page; nothing on it is written by hand."""
    parts = [
        "# Other packages",
        "",
        f"Written by `python benchmarks/peers/compare.py`; do not edit. {result['device']}, one thread; edge-fer "
        f"{result['edge_fer_version']}, {result['measured_utc']}. Every sample: `{source}`.",
        "",
    ]
    taken = result["disturbance"]
    if taken is not None and taken["others"] + taken["stolen"] > 0.1:
        parts += [
            f"> Disturbed: others took {taken['others'] + taken['stolen']:.0%} of the processor meanwhile. Measure "
            "again before quoting these figures.",
            "",
        ]
    for task, title in TASKS.items():
        section = _section(result, task, title)
        parts += [*section, ""] if section else []
    rounds = max(len(about["rounds"]) for about in result["peers"].values())
    parts += [
        "Each package runs in an environment of its own, as its documentation shows it, in a fresh process in every "
        "round, in turn with the others. Milliseconds are of single calls, back to back, after a warm-up; neither "
        "decoding nor another package's code is in them. `times ours`: how many times as long as ours takes, "
        f"medians of the same round{interval_words(rounds)}. Processor: its time a picture, all "
        "threads together. Cold start: from before the imports to the end of the first call. Memory: what the "
        "package adds to a process that holds the pictures. Installed: its environment on disk, with everything "
        "that pip brings along.",
        "",
        "```",
        COMMAND,
        "```",
        "",
    ]
    return "\n".join(parts)


def _section(result: dict[str, Any], task: str, title: str) -> list[str]:
    rows = {name: about for name, about in result["peers"].items() if about["task"] == task}
    measured = {name: about for name, about in rows.items() if about["rounds"]}
    if not rows:
        return []
    quality = f"top-1 on {result['data']}" if task == "classification" else "frames with a face found"
    headings = ["package", "computed by", "p50 ms", "p90", "p99", "times ours", quality, "processor ms", "cold start s"]
    headings += ["memory MB", "installed MB"]
    lines = [
        f"## {title}",
        "",
        "| " + " | ".join(headings) + " |",
        "|---|---|" + "--:|" * (len(headings) - 2),
    ]
    base = measured.get(OURS[task])
    for name, about in sorted(measured.items(), key=lambda item: item[0] != OURS[task]):
        lines.append("| " + " | ".join(_cells(about, base, is_ours=name == OURS[task])) + " |")
    failed = [f"- Not measured: {name}: {about['error']}." for name, about in rows.items() if "error" in about]
    return [*lines, *([""] if failed else []), *failed]


def _cells(about: dict[str, Any], base: dict[str, Any] | None, *, is_ours: bool) -> list[str]:
    rounds = [Round.model_validate(entry["samples"]) for entry in about["rounds"]]
    p50, p90, p99 = np.percentile(np.concatenate([one.samples_us() for one in rounds]) / 1e3, [50, 90, 99])
    versions = [f"{name} {version}" for name, version in about["versions"].items()]
    return [
        ", ".join(versions[:1]),
        "; ".join([about["runs_on"], *([", ".join(versions[1:])] if versions[1:] and not is_ours else [])]),
        *(f"{value:.3f}" for value in (p50, p90, p99)),
        "" if base is None or is_ours else _ratio([one.median_us for one in rounds], base),
        _quality(about),
        f"{statistics.median(entry['cpu_ms'] for entry in about['rounds']):.2f}",
        f"{statistics.median(entry['cold_start_s'] for entry in about['rounds']):.1f}",
        _megabytes(max((entry["memory_bytes"] or 0 for entry in about["rounds"]), default=0)),
        _megabytes(about["installed_bytes"]),
    ]


def _ratio(medians_us: list[float], base: dict[str, Any]) -> str:
    value, interval = paired_ratio(medians_us, [entry["samples"]["median_us"] for entry in base["rounds"]])
    return f"{value:.1f}x" + ("" if interval is None else f" ({interval[0]:.1f}-{interval[1]:.1f})")


def _quality(about: dict[str, Any]) -> str:
    if "found" in about:
        return f"{about['found']:.0%} of {about['pictures']}"
    low, high = about["top1_interval"]
    return f"{about['top1']:.1%} ({low:.1%}-{high:.1%})"


def _megabytes(size: int | None) -> str:
    return f"{size / 1e6:,.0f}" if size else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(peers())}")
    parser.add_argument("--data", type=Path, help="labelled faces")
    parser.add_argument("--split")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--venvs", type=Path, default=VENVS)
    parser.add_argument("--out", type=Path, required=True, help="the result; with --render it is read")
    parser.add_argument("--report", type=Path, default=HERE.parent / "PEERS.md")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(peers()):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    if arguments.render:
        result = json.loads(arguments.out.read_text(encoding="utf-8"))
    else:
        if arguments.data is None:
            parser.error("--data DIR is needed")
        result = compare(arguments.names or sorted(peers(), key=lambda name: name not in OURS.values()), arguments)
        with atomic_file(arguments.out) as temporary:
            temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    out, page = arguments.out.resolve(), arguments.report.resolve()
    source = out.relative_to(page.parent).as_posix() if out.is_relative_to(page.parent) else out.name
    with atomic_file(arguments.report) as temporary:
        temporary.write_text(to_markdown(result, source), encoding="utf-8")


if __name__ == "__main__":
    main()
