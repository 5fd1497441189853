"""Results as a file: raw samples, what they were measured on, and the figures that tables show."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from edge_fer import __version__
from edge_fer.backends.host import cpu_identity, cpu_name
from edge_fer.bench.measure import Outcome
from edge_fer.bench.plan import Case, Plan
from edge_fer.core.files import atomic_file, read_validated
from edge_fer.core.spec import Frozen

NOISY_ABOVE = 0.10
"""Rounds whose medians differ by more than this fraction of the case's median mark the case as noisy."""
RAW_KEPT = 2000
"""Samples kept per case and round; more are thinned evenly, and ``count`` tells how many there were."""


class Round(Frozen):
    """One round: its median and its samples in microseconds, thinned evenly when there were very many."""

    count: int = Field(ge=1)
    median_us: float
    samples_us: tuple[float, ...]


class CaseResult(Frozen):
    """One line. Times in milliseconds a call (a call is ``batch`` faces); ratios compare medians of the same rounds."""

    case: Case
    executed: str = ""
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    faces_per_s: float | None = None
    cold_start_ms: float | None = None
    file_bytes: int | None = None
    peak_rss_bytes: int | None = None
    top1: float | None = None
    n: int | None = None
    agreement_fp32: float | None = None
    speedup_torch: float | None = None
    speedup_ort_fp32: float | None = None
    noisy: bool = False
    rounds: tuple[Round, ...] = ()
    error: str = ""


class BenchResult(Frozen):
    """The file that ``edge-fer bench --json`` writes."""

    kind: Literal["edge-fer-bench"] = "edge-fer-bench"
    format: Literal[1] = 1
    edge_fer_version: str
    measured_utc: str
    device: str
    device_identity: str
    data: str | None
    plan: Plan
    untrained: tuple[str, ...]
    cases: tuple[CaseResult, ...]


def summarise(plan: Plan, outcomes: Sequence[Outcome], data: str | None) -> BenchResult:
    """Turn raw samples into figures; ratios are medians over rounds of the ratios within each round."""
    by_key = {outcome.case.key: outcome for outcome in outcomes}
    return BenchResult(
        edge_fer_version=__version__,
        measured_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        device=cpu_name(),
        device_identity=cpu_identity(),
        data=data,
        plan=plan,
        untrained=tuple(entry.name for entry in plan.models if entry.arch is not None),
        cases=tuple(_figures(outcome, by_key) for outcome in outcomes),
    )


def _partner(case: Case, runtime: str, by_key: dict[str, Outcome]) -> Outcome | None:
    """The same model, threads and batch in fp32 on another runtime, if it was measured to the end."""
    other = case.model_copy(update={"runtime": runtime, "precision": "fp32"})
    found = by_key.get(other.key)
    return found if found is not None and found.rounds_ns and not found.error else None


def _speedup(outcome: Outcome, baseline: Outcome | None) -> float | None:
    if baseline is None:
        return None
    pairs = zip(baseline.rounds_ns, outcome.rounds_ns, strict=False)
    return statistics.median(statistics.median(slow) / statistics.median(fast) for slow, fast in pairs)


def _figures(outcome: Outcome, by_key: dict[str, Outcome]) -> CaseResult:
    case = outcome.case
    if outcome.error or not outcome.rounds_ns:
        return CaseResult(case=case, executed=outcome.executed, error=outcome.error or "was not measured")
    samples_ms = np.concatenate([np.asarray(r) for r in outcome.rounds_ns]) / 1e6
    p50, p90, p99 = (float(v) for v in np.percentile(samples_ms, [50, 90, 99]))
    medians = [statistics.median(r) / 1e6 for r in outcome.rounds_ns]
    reference = _partner(case, "onnxruntime", by_key)
    agreement = None
    if outcome.predictions and reference is not None and reference.predictions:
        agreement = float(np.mean(np.asarray(outcome.predictions) == np.asarray(reference.predictions)))
    return CaseResult(
        case=case,
        executed=outcome.executed,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        faces_per_s=1e3 * case.batch / p50,
        cold_start_ms=outcome.cold_start_ms,
        file_bytes=outcome.file_bytes,
        peak_rss_bytes=outcome.peak_rss_bytes,
        top1=outcome.top1,
        n=outcome.n,
        agreement_fp32=agreement,
        speedup_torch=_speedup(outcome, _partner(case, "torch", by_key)),
        speedup_ort_fp32=_speedup(outcome, reference),
        noisy=(max(medians) - min(medians)) / p50 > NOISY_ABOVE,
        rounds=tuple(_round(samples) for samples in outcome.rounds_ns),
    )


def _round(samples_ns: list[int]) -> Round:
    step = max(1, -(-len(samples_ns) // RAW_KEPT))
    kept = tuple(round(value / 1e3, 3) for value in samples_ns[::step])
    return Round(count=len(samples_ns), median_us=statistics.median(samples_ns) / 1e3, samples_us=kept)


def write_json(path: Path, result: BenchResult) -> None:
    """Write the result; the file is replaced in one step."""
    with atomic_file(path) as temporary:
        temporary.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> BenchResult:
    """Read a result.

    Raises:
        BadInputError: it is missing, or not such a file.
    """
    return read_validated(path, BenchResult, "a benchmark result")
