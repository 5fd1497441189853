"""Two results of one machine: which cases became slower or faster, and how sure that is."""

from __future__ import annotations

from typing import Literal

from edge_fer.bench.results import BenchResult, CaseResult
from edge_fer.bench.statistics import UNPAIRED_LEVELS, Interval, unpaired_ratio, unpaired_words
from edge_fer.core.errors import BadInputError
from edge_fer.core.spec import Frozen

Verdict = Literal["slower", "faster", "same", "failed", "repaired"]


class Comparison(Frozen):
    """One case in both results.

    Attributes:
        ratio: time of the second over time of the first: above 1 is slower.
        interval: see :func:`edge_fer.bench.statistics.unpaired_ratio`; ``None`` with fewer than two rounds in either.
        verdict: ``slower`` and ``faster`` are beyond the threshold *and* sure, that is, the interval (if there is one)
            leaves out 1; ``failed`` and ``repaired`` ran in only one of the two.
        accuracy_change: second minus first top-1, where both have it.
    """

    key: str
    before_ms: float | None
    after_ms: float | None
    ratio: float | None
    interval: Interval | None
    verdict: Verdict
    accuracy_change: float | None = None
    reason: str = ""


class ComparisonReport(Frozen):
    """All cases that both results have, and the keys that only one has.

    Attributes:
        of: what was compared: medians, or their ratios to ONNX Runtime fp32 of the same run.
        warnings: what makes the comparison weaker, as sentences.
    """

    of: Literal["time", "ratio"]
    threshold: float
    cases: tuple[Comparison, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def worse(self) -> tuple[Comparison, ...]:
        """Cases for which a CI run should fail."""
        return tuple(case for case in self.cases if case.verdict in ("slower", "failed"))


def compare(
    before: BenchResult,
    after: BenchResult,
    *,
    threshold: float,
    of: Literal["time", "ratio"] = "time",
    force: bool = False,
) -> ComparisonReport:
    """Match the cases of two results by key and compare them.

    Args:
        threshold: fraction of change that is accepted, such as 0.05.
        of: ``time`` compares medians; ``ratio`` compares each case's time in units of ONNX Runtime fp32 of the same
            round, which a machine that is slower today leaves alone.
        force: compare results of different devices all the same.

    Raises:
        BadInputError: the devices differ, or no case is in both.
    """
    warnings = []
    if before.device_identity != after.device_identity:
        if not force:
            raise BadInputError(
                f"The results are of different devices: {before.device_identity} and {after.device_identity}.",
                fix="Compare results of one device, or say --force.",
            )
        warnings.append(f"different devices: {before.device_identity} and {after.device_identity}")
    changed = [
        f"{name} {before.packages.get(name, 'absent')} and {after.packages.get(name, 'absent')}"
        for name in sorted({*before.packages, *after.packages})
        if before.packages.get(name) != after.packages.get(name)
    ]
    warnings += [f"different versions: {', '.join(changed)}"] if changed else []
    known = {case.case.key: case for case in after.cases}
    pairs = [(case, known[case.case.key]) for case in before.cases if case.case.key in known]
    if not pairs:
        raise BadInputError(
            "The two results have no case in common.", fix="Measure one plan for both: edge-fer bench --plan PLAN.yaml"
        )
    noisy = sorted({a.case.key for pair in pairs for a in pair if a.noisy})
    warnings += [f"noisy in one of them: {', '.join(noisy)}"] if noisy else []
    if (fewest := min(before.plan.rounds, after.plan.rounds)) in UNPAIRED_LEVELS:
        warnings.append(f"the interval is {unpaired_words(fewest)}")
    return ComparisonReport(
        of=of,
        threshold=threshold,
        cases=tuple(_compare(a, b, (before, after), threshold, of) for a, b in pairs),
        only_before=tuple(case.case.key for case in before.cases if case.case.key not in known),
        only_after=tuple(sorted(set(known) - {case.case.key for case in before.cases})),
        warnings=tuple(warnings),
    )


def _compare(
    one: CaseResult, other: CaseResult, results: tuple[BenchResult, BenchResult], threshold: float, of: str
) -> Comparison:
    gone, failed = bool(one.error), bool(other.error)
    change = None if one.top1 is None or other.top1 is None else other.top1 - one.top1
    if gone or failed:
        verdict: Verdict = "same" if gone and failed else "repaired" if gone else "failed"
        return Comparison(
            key=one.case.key,
            before_ms=one.p50_ms,
            after_ms=other.p50_ms,
            ratio=None,
            interval=None,
            verdict=verdict,
            reason=other.error or one.error,
        )
    first, second = (_medians(case, result, of) for case, result in zip((one, other), results, strict=True))
    if not first or not second:
        reason = "no ONNX Runtime fp32 of the same model, threads and faces to compare with"
        return Comparison(
            key=one.case.key,
            before_ms=one.p50_ms,
            after_ms=other.p50_ms,
            ratio=None,
            interval=None,
            verdict="same",
            accuracy_change=change,
            reason=reason,
        )
    ratio, interval = unpaired_ratio(second, first)
    sure_slower = interval is None or interval[0] > 1
    sure_faster = interval is None or interval[1] < 1
    verdict = "same"
    if ratio > 1 + threshold and sure_slower:
        verdict = "slower"
    elif ratio < 1 / (1 + threshold) and sure_faster:
        verdict = "faster"
    return Comparison(
        key=one.case.key,
        before_ms=one.p50_ms,
        after_ms=other.p50_ms,
        ratio=ratio,
        interval=interval,
        verdict=verdict,
        accuracy_change=change,
    )


def _medians(case: CaseResult, result: BenchResult, of: str) -> list[float]:
    """Of each round: microseconds, or parts of what ONNX Runtime fp32 took in the same round."""
    own = [r.median_us for r in case.rounds]
    if of == "time":
        return own
    base = result.case(case.case.model_copy(update={"runtime": "onnxruntime", "precision": "fp32"}).key)
    if base is None or base.error:
        return []
    return [value / reference.median_us for value, reference in zip(own, base.rounds, strict=False)]
