"""Results as tables: on the terminal and as Markdown, from the same rows."""

from __future__ import annotations

from pathlib import Path

from edge_fer.bench.results import BenchResult, CaseResult
from edge_fer.core.files import atomic_file

HEADINGS = (
    "model", "engine", "p50 ms", "p90", "p99", "faces/s", "vs torch", "vs ORT fp32", "cold start s", "file MB",
    "RSS MB", "top-1", "same label",
)  # fmt: skip


SHORT = {"onnxruntime": "ORT", "openvino": "OpenVINO"}


def engine_name(result: CaseResult) -> str:
    """Runtime and precision, with threads and batch where they are not one."""
    case = result.case
    more = [f"{case.threads} threads"] * (case.threads > 1) + [f"{case.batch} faces"] * (case.batch > 1)
    name = SHORT.get(case.runtime, case.runtime)
    return f"{name} {case.precision}" + (f", {', '.join(more)}" if more else "")


def _number(value: float | None, pattern: str) -> str:
    return "" if value is None else format(value, pattern)


def row(result: CaseResult) -> tuple[str, ...]:
    """Cells under :data:`HEADINGS`; a noisy median is marked with ``~``, a failed case shows a dash."""
    if result.error:
        return (result.case.model, engine_name(result), "-", *[""] * (len(HEADINGS) - 3))
    return (
        result.case.model,
        engine_name(result),
        f"{'~' if result.noisy else ''}{result.p50_ms:.3f}",
        _number(result.p90_ms, ".3f"),
        _number(result.p99_ms, ".3f"),
        _number(result.faces_per_s, ",.0f"),
        f"{result.speedup_torch:.1f}x" if result.speedup_torch is not None else "",
        f"{result.speedup_ort_fp32:.1f}x" if result.speedup_ort_fp32 is not None else "",
        _number(result.cold_start_ms and result.cold_start_ms / 1e3, ".2f"),
        _number(result.file_bytes and result.file_bytes / 1e6, ".1f"),
        _number(result.peak_rss_bytes and result.peak_rss_bytes / 1e6, ",.0f"),
        _number(result.top1, ".2%"),
        _number(result.agreement_fp32, ".2%"),
    )


def notes(result: BenchResult) -> list[str]:
    """What a reader must know to read the table."""
    plan = result.plan
    found = [
        f"{result.device}; {plan.rounds} rounds of at least {plan.min_seconds:g} s a case, interleaved, one process a "
        f"case; edge-fer {result.edge_fer_version}, {result.measured_utc}.",
        "Ratios: medians of the same round. Cold start: process start to the first result, engine cache warm. "
        "`fp32` of OpenVINO is its f32 hint, not its default.",
    ]
    if result.data:
        found.append(f"Accuracy on {result.data}; same label: as ONNX Runtime fp32 gives.")
    if result.untrained:
        found.append(f"Untrained weights, speed only: {', '.join(result.untrained)}.")
    found += [f"Failed: {case.case.model}, {engine_name(case)}: {case.error}." for case in result.cases if case.error]
    if any(case.noisy for case in result.cases):
        found.append("~: the rounds of this case differ by more than 10 %.")
    return found


def to_markdown(result: BenchResult) -> str:
    """A table that GitHub renders, with its notes."""
    rows = [row(case) for case in result.cases]
    used = [i for i in range(len(HEADINGS)) if i < 3 or any(cells[i] for cells in rows)]
    lines = [
        "| " + " | ".join(HEADINGS[i] for i in used) + " |",
        "|" + "|".join("---" if i < 2 else "--:" for i in used) + "|",
        *("| " + " | ".join(cells[i].replace("|", "/") for i in used) + " |" for cells in rows),
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(result)), ""])


def write_markdown(path: Path, result: BenchResult, command: str) -> None:
    """Write a page with the table and the command that repeats it."""
    with atomic_file(path) as temporary:
        temporary.write_text(
            f"# Benchmark `{result.plan.name}`\n\n{to_markdown(result)}\nRepeat with:\n\n```\n{command}\n```\n",
            encoding="utf-8",
        )
