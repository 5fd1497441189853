"""Results as a file: raw samples, what they were measured on, and the figures that tables show."""

from __future__ import annotations

import base64
import json
import re
import statistics
import zlib
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edge_fer import __version__
from edge_fer.backends.host import cpu_identity, cpu_name
from edge_fer.bench.camera import CameraResult
from edge_fer.bench.conditions import Conditions, Disturbance
from edge_fer.bench.device import Machine
from edge_fer.bench.measure import Outcome
from edge_fer.bench.peaks import CpuPeaks
from edge_fer.bench.plan import Case, Plan
from edge_fer.bench.roofline import ModelledBound
from edge_fer.bench.statistics import Interval, paired_ratio
from edge_fer.core.files import atomic_file, read_validated
from edge_fer.core.spec import Frozen

NOISY_ABOVE = 0.10
"""Rounds whose medians differ by more than this fraction of the case's median mark the case as noisy."""
LONG_TAIL = 1.5
"""So does a 90th percentile that is this many times the median."""
PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "torch")
_UNIT_NS = 100


class Round(Frozen):
    """One round, in a process of its own.

    Attributes:
        count: calls.
        median_us: their median, microseconds.
        packed_samples: every call's time in units of 0.1 µs: little-endian uint32, zlib, base64, in order.
    """

    count: int = Field(ge=1)
    median_us: float
    packed_samples: str = Field(json_schema_extra={"contentEncoding": "base64"})

    def samples_us(self) -> NDArray[np.float64]:
        """The samples as microseconds (count,), rounded to 0.1."""
        ticks = np.frombuffer(zlib.decompress(base64.b64decode(self.packed_samples)), "<u4")
        return ticks.astype(np.float64) * (_UNIT_NS / 1e3)


class CaseResult(Frozen):
    """One line. Times in milliseconds a call (a call is ``batch`` faces); ratios compare medians of the same rounds.

    Attributes:
        executed: library, version, precision and device, in words.
        gpu: the GPU that it ran on; empty for the result's device.
        layers: weighted layers by the precision that the loaded engine really computes them in.
        top1_interval: 95 % bootstrap over samples.
        agreement_fp32: part of the samples that get the same label as from fp32.
        speedup_torch, speedup_ort_fp32, speedup_benchmark_app: how many times faster than torch eager, ONNX Runtime
            fp32, and OpenVINO's ``benchmark_app`` in the same precision; intervals are a 95 % bootstrap over rounds,
            or the range of fewer than six.
        vram_bytes: the GPU's memory in use while the case was open, by all programs; null where it does not tell.
        joules_per_face: by the whole processor or GPU, other programs included; null where it does not tell.
        clock_mhz, temperature_c: the lowest clock and the highest temperature at the end of a round.
        untrained: the weights are untrained, so that only speed means anything.
        pareto: no other case with as many threads and faces is both faster and at least as accurate.
        bound_ms: modelled lower bound from this machine's measured peaks.
        noisy: the rounds disagree by more than 10 %, or one call in ten takes half as long again as the median.
        measured_utc: when the run that it is from ended; empty in files of versions that did not write it.
    """

    case: Case
    executed: str = ""
    gpu: str = ""
    layers: dict[str, int] = Field(default_factory=dict)
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    faces_per_s: float | None = None
    cold_start_ms: float | None = None
    file_bytes: int | None = None
    peak_rss_bytes: int | None = None
    vram_bytes: int | None = None
    top1: float | None = None
    top1_interval: Interval | None = None
    macro_f1: float | None = None
    n: int | None = None
    agreement_fp32: float | None = None
    speedup_torch: float | None = None
    speedup_torch_interval: Interval | None = None
    speedup_ort_fp32: float | None = None
    speedup_ort_fp32_interval: Interval | None = None
    speedup_benchmark_app: float | None = None
    speedup_benchmark_app_interval: Interval | None = None
    joules_per_face: float | None = None
    clock_mhz: float | None = None
    temperature_c: float | None = None
    untrained: bool = False
    pareto: bool = False
    bound_ms: float | None = None
    noisy: bool = False
    measured_utc: str = ""
    rounds: tuple[Round, ...] = ()
    error: str = ""

    @property
    def attained(self) -> float | None:
        """Part of the modelled bound that was reached."""
        return self.bound_ms / self.p50_ms if self.bound_ms and self.p50_ms else None

    @property
    def ms_per_face(self) -> float | None:
        return None if self.p50_ms is None else self.p50_ms / self.case.batch


class Remeasured(Frozen):
    """Models that were measured again later, in a run of their own, and took the place of their older cases.

    Attributes:
        before, after, disturbance: of that run, as in :class:`BenchResult`.
        command: the line that repeats it.
    """

    models: tuple[str, ...]
    measured_utc: str
    before: Conditions
    after: Conditions
    disturbance: Disturbance | None
    command: str = ""


class BenchResult(Frozen):
    """The file that ``edge-fer bench --json`` writes; its schema is published beside the results.

    Attributes:
        device: processor (or GPU, in results from one) by name.
        device_identity: name and instruction sets; results are compared only where it is the same.
        before, after: the machine when the run began and ended.
        disturbance: what others took of the processor in between.
        clock_overhead_us: what taking one time costs, in every sample.
        command: the line that repeats the measurement; empty when it was not measured from the command line.
        data: dataset and split that accuracy is of.
        untrained: models with untrained weights, whose accuracy would mean nothing.
        camera: camera to label, where the plan asks for it.
        peaks: measured peaks of this processor, where they were asked for.
        bounds: networks on other devices: modelled, or measured there and submitted.
        remeasured: later runs on the same machine whose cases are among ``cases``.
    """

    kind: Literal["edge-fer-bench"] = "edge-fer-bench"
    format: Literal[2] = 2
    edge_fer_version: str
    measured_utc: str
    device: str
    device_identity: str
    machine: Machine
    packages: dict[str, str]
    before: Conditions
    after: Conditions
    disturbance: Disturbance | None
    clock_overhead_us: float
    command: str = ""
    data: str | None
    plan: Plan
    untrained: tuple[str, ...]
    cases: tuple[CaseResult, ...]
    camera: CameraResult | None = None
    peaks: CpuPeaks | None = None
    bounds: tuple[ModelledBound, ...] = ()
    remeasured: tuple[Remeasured, ...] = ()

    def case(self, key: str) -> CaseResult | None:
        return next((case for case in self.cases if case.case.key == key), None)


class Surroundings(Frozen):
    """Everything about a run but its cases; see :class:`BenchResult`."""

    machine: Machine
    before: Conditions
    after: Conditions
    disturbance: Disturbance | None = None
    clock_overhead_us: float = 0.0


def summarise(
    plan: Plan, outcomes: Sequence[Outcome], data: str | None, surroundings: Surroundings | None = None
) -> BenchResult:
    """Turn raw samples into figures; ratios are medians over rounds of the ratios within each round."""
    around = surroundings or _here()
    by_key = {outcome.case.key: outcome for outcome in outcomes}
    untrained = tuple(entry.name for entry in plan.models if entry.arch is not None)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    cases = tuple(
        _figures(one, by_key).model_copy(update={"untrained": one.case.model in untrained, "measured_utc": now})
        for one in outcomes
    )
    return BenchResult(
        edge_fer_version=__version__,
        measured_utc=now,
        device=cpu_name(),
        device_identity=cpu_identity(),
        machine=around.machine,
        packages=package_versions(),
        before=around.before,
        after=around.after,
        disturbance=around.disturbance,
        clock_overhead_us=around.clock_overhead_us,
        data=data,
        plan=plan,
        untrained=untrained,
        cases=mark_pareto(cases),
    )


def _here() -> Surroundings:
    from edge_fer.bench.conditions import look
    from edge_fer.bench.device import describe_machine

    machine = describe_machine()
    now = look(machine.noise)
    return Surroundings(machine=machine, before=now, after=now)


def package_versions() -> dict[str, str]:
    """Versions of the libraries that figures depend on, of those that are installed here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def mark_pareto(cases: tuple[CaseResult, ...]) -> tuple[CaseResult, ...]:
    """Mark the cases that a choice between speed and accuracy can fall on, among equal threads and faces."""

    def beaten(one: CaseResult, other: CaseResult) -> bool:
        assert one.p50_ms is not None and one.top1 is not None  # noqa: PT018
        if other.p50_ms is None or other.top1 is None:
            return False
        if (other.case.threads, other.case.batch) != (one.case.threads, one.case.batch):
            return False
        as_good = other.p50_ms <= one.p50_ms and other.top1 >= one.top1
        return as_good and (other.p50_ms < one.p50_ms or other.top1 > one.top1)

    return tuple(
        case.model_copy(
            update={
                "pareto": case.p50_ms is not None
                and case.top1 is not None
                and not any(beaten(case, other) for other in cases)
            }
        )
        for case in cases
    )


def _partner(
    case: Case, runtime: str, by_key: dict[str, Outcome], precision: Literal["fp32"] | None = "fp32"
) -> Outcome | None:
    """The same model, threads and batch on another runtime, if it was measured to the end."""
    other = case.model_copy(update={"runtime": runtime, "precision": precision or case.precision})
    found = by_key.get(other.key)
    return found if found is not None and found.rounds_ns and not found.error else None


def _speedup(outcome: Outcome, baseline: Outcome | None) -> tuple[float | None, Interval | None]:
    if baseline is None:
        return None, None
    return paired_ratio(*([statistics.median(r) for r in one.rounds_ns] for one in (baseline, outcome)))


def _figures(outcome: Outcome, by_key: dict[str, Outcome]) -> CaseResult:
    case = outcome.case
    if outcome.error or not outcome.rounds_ns:
        return CaseResult(case=case, executed=outcome.executed, error=outcome.error or "was not measured")
    samples_ms = np.concatenate([np.asarray(r) for r in outcome.rounds_ns]) / 1e6
    p50, p90, p99 = (float(v) for v in np.percentile(samples_ms, [50, 90, 99]))
    medians = [statistics.median(r) / 1e6 for r in outcome.rounds_ns]
    reference = _partner(case, "onnxruntime", by_key)
    torch, torch_interval = _speedup(outcome, _partner(case, "torch", by_key))
    ort, ort_interval = _speedup(outcome, reference)
    app = _partner(case, "benchmark-app", by_key, precision=None) if case.runtime == "openvino" else None
    benchmark_app, app_interval = _speedup(outcome, app)
    return CaseResult(
        case=case,
        executed=outcome.executed,
        gpu=outcome.gpu,
        layers=outcome.layers,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        faces_per_s=1e3 * case.batch / p50,
        cold_start_ms=outcome.cold_start_ms,
        file_bytes=outcome.file_bytes,
        peak_rss_bytes=outcome.peak_rss_bytes,
        vram_bytes=outcome.vram_bytes,
        top1=outcome.top1,
        top1_interval=outcome.top1_interval,
        macro_f1=outcome.macro_f1,
        n=outcome.n,
        agreement_fp32=_agreement(outcome, by_key),
        speedup_torch=torch,
        speedup_torch_interval=torch_interval,
        speedup_ort_fp32=ort,
        speedup_ort_fp32_interval=ort_interval,
        speedup_benchmark_app=benchmark_app,
        speedup_benchmark_app_interval=app_interval,
        joules_per_face=_joules_per_face(outcome),
        clock_mhz=min((v for v in outcome.clocks_mhz if v is not None), default=None),
        temperature_c=max((v for v in outcome.temperatures_c if v is not None), default=None),
        noisy=(max(medians) - min(medians)) / p50 > NOISY_ABOVE or p90 > LONG_TAIL * p50,
        rounds=tuple(pack_round(samples) for samples in outcome.rounds_ns),
    )


def _agreement(outcome: Outcome, by_key: dict[str, Outcome]) -> float | None:
    """With ONNX Runtime's fp32, or with torch's or OpenVINO's where that was not measured."""
    for runtime in ("onnxruntime", "torch", "openvino"):
        reference = _partner(outcome.case, runtime, by_key)
        if outcome.predictions and reference is not None and reference.predictions:
            return float(np.mean(np.asarray(outcome.predictions) == np.asarray(reference.predictions)))
    return None


def _joules_per_face(outcome: Outcome) -> float | None:
    rounds = [(j, len(r)) for j, r in zip(outcome.joules, outcome.rounds_ns, strict=False) if j is not None]
    calls = sum(count for _, count in rounds)
    return sum(joules for joules, _ in rounds) / (calls * outcome.case.batch) if calls else None


def pack_round(samples_ns: Sequence[int]) -> Round:
    """Keep every sample.

    Raises:
        ValueError: a call of more than seven minutes, which the unit cannot hold.
    """
    ticks = np.round(np.asarray(samples_ns, np.float64) / _UNIT_NS)
    if ticks.max() > np.iinfo(np.uint32).max:
        raise ValueError("a single call took more than seven minutes")
    packed = base64.b64encode(zlib.compress(ticks.astype("<u4").tobytes(), 9)).decode("ascii")
    return Round(count=len(samples_ns), median_us=statistics.median(samples_ns) / 1e3, packed_samples=packed)


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a result file, made from the models above."""
    made = BenchResult.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "edge-fer benchmark result"}


def schema_text() -> str:
    """The schema as the file that is published with the project."""
    return json.dumps(schema(), indent=2) + "\n"


def write_json(path: Path, result: BenchResult) -> None:
    """Write the result; the file is replaced in one step."""
    text = json.dumps(result.model_dump(mode="json"), indent=1, ensure_ascii=False)
    # Lists of plain values on one line each: a reader's eye and a diff have more of that.
    text = re.sub(r"\[\n\s+((?:[^\[\]{}\"]|\"[^\"\\]*\")*?)\n\s*\]", _one_line, text)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _one_line(match: re.Match[str]) -> str:
    return "[" + re.sub(r",\n\s+", ", ", match.group(1)) + "]"


def read_json(path: Path) -> BenchResult:
    """Read a result.

    Raises:
        BadInputError: it is missing, or not such a file.
    """
    return read_validated(path, BenchResult, "a benchmark result")
