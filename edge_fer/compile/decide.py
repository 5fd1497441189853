"""The last step of the ladder: of everything that was timed, what runs on this machine, and why. Arithmetic only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edge_fer.backends.race import Timing
from edge_fer.core.manifest import LadderRecord, TrialRecord

DISTURBED = 1.5
"""How many times the smallest gain of a round the largest may be before the user is told that they disagree."""


@dataclass(frozen=True)
class Contestant:
    """One engine that was timed.

    Attributes:
        float_layers: of int8, the layers that this form computes in floating point.
        barred: why it may not be chosen although it runs, as a sentence without its full stop; ``None`` where it may.
        left: it is a form that did not become the int8 form of the bundle.
        heat: contestants of the same heat were timed in the same rounds.
    """

    backend: str
    precision: str
    timing: Timing
    float_layers: tuple[str, ...] = ()
    barred: str | None = None
    left: bool = False
    heat: int = 0


def decide(contestants: Sequence[Contestant], *, min_speedup: float | None, device: str, threads: int) -> LadderRecord:
    """Choose the fastest engine that passes the gate, and that gains enough where it is not fp32.

    Gains are ratios within rounds to the engine that is the fastest in fp32, so that a machine that changes its speed
    from round to round changes nothing. Times of an earlier heat are put on the last one's scale by these ratios: a
    machine that was twice as fast then makes nothing look fast now.

    Args:
        contestants: those with an error have no times. Those that may be chosen are of the last heat.
        min_speedup: how many times as fast as fp32 anything else must be; ``None`` asks for nothing.

    Returns:
        the record, its trials in the order of their times; the first ``chosen`` one is the choice, and there is none
        when nothing could be timed.
    """
    last = max((c.heat for c in contestants), default=0)
    floats = [c for c in contestants if c.precision == "fp32" and c.timing.rounds_us and c.heat == last]
    baseline = min(floats, key=_median, default=None)
    gains = [_gains(_of_heat(contestants, baseline, c.heat), c) for c in contestants]
    refusals = [_refusal(c, found, min_speedup) for c, found in zip(contestants, gains, strict=True)]
    allowed = [i for i, c in enumerate(contestants) if c.timing.rounds_us and c.heat == last and refusals[i] is None]
    winner = min(allowed, key=lambda i: _median(contestants[i]), default=None)
    trials = []
    for index, contestant in enumerate(contestants):
        if any(other.heat > contestant.heat and _same(other, contestant) for other in contestants):
            continue  # timed again
        verdict, why = _verdict(contestant, refusals[index], None if winner is None else contestants[winner])
        found = gains[index]
        trials.append(
            TrialRecord.model_validate(
                {
                    "backend": contestant.backend,
                    "precision": contestant.precision,
                    "float_layers": contestant.float_layers,
                    "median_us": _today_us(contestant, found, None if contestant.heat == last else baseline),
                    "speedup": statistics.median(found) if found else None,
                    "speedup_range": (min(found), max(found)) if found else None,
                    "verdict": "chosen" if index == winner else verdict,
                    "why": "the fastest that passes" if index == winner else why,
                }
            )
        )
    trials.sort(key=lambda t: (t.median_us is None, t.median_us or 0.0))
    chosen = next((trial for trial in trials if trial.verdict == "chosen"), None)
    return LadderRecord(
        device=device,
        threads=threads,
        rounds=max((len(c.timing.rounds_us) for c in contestants), default=0),
        min_speedup=min_speedup,
        trials=tuple(trials),
        reason=_reason(chosen, trials, baseline),
    )


def chosen_trial(record: LadderRecord) -> TrialRecord | None:
    return next((trial for trial in record.trials if trial.verdict == "chosen"), None)


def _same(one: Contestant, other: Contestant) -> bool:
    return (one.backend, one.precision, one.float_layers) == (other.backend, other.precision, other.float_layers)


def _median(contestant: Contestant) -> float:
    return contestant.timing.median_us or 0.0


def _of_heat(contestants: Sequence[Contestant], like: Contestant | None, heat: int) -> Contestant | None:
    """The same engine in another heat."""
    if like is None:
        return None
    key = (like.backend, like.precision, heat)
    return next((c for c in contestants if (c.backend, c.precision, c.heat) == key and c.timing.rounds_us), None)


def _gains(baseline: Contestant | None, contestant: Contestant) -> list[float]:
    if baseline is None:
        return []
    return [slow / fast for slow, fast in zip(baseline.timing.rounds_us, contestant.timing.rounds_us, strict=False)]


def _today_us(contestant: Contestant, gains: list[float], baseline: Contestant | None) -> float | None:
    """The time in the last heat, or what the gain in an earlier one makes of the last heat's ``baseline``."""
    if baseline is None or not gains:
        return contestant.timing.median_us
    return _median(baseline) / statistics.median(gains)


def _refusal(contestant: Contestant, gains: list[float], min_speedup: float | None) -> tuple[str, str] | None:
    """(verdict, why) of an engine that may not be chosen."""
    if contestant.left:
        return "left", "an int8 form that was tried with it was faster"
    if contestant.barred is not None:
        return "failed", contestant.barred
    if min_speedup is None or contestant.precision == "fp32" or contestant.timing.error is not None:
        return None
    if not gains:
        return "refused", "there is no fp32 engine here to compare it with, and --min-speedup asks for a gain"
    gain = statistics.median(gains)
    if gain < min_speedup:
        return "refused", f"{gain:.2f} times as fast as fp32, and --min-speedup asks for {min_speedup:g}"
    return None


def _verdict(contestant: Contestant, refusal: tuple[str, str] | None, winner: Contestant | None) -> tuple[str, str]:
    if contestant.timing.error is not None:
        return "error", contestant.timing.error
    if refusal is not None:
        return refusal
    if winner is None:
        raise ValueError("an engine that may be chosen was not")
    return "slower", f"takes {_median(contestant) / _median(winner):.2f} times as long as the chosen one"


def _reason(chosen: TrialRecord | None, trials: Sequence[TrialRecord], baseline: Contestant | None) -> str:
    if chosen is None or chosen.median_us is None:
        return "no engine was chosen: " + "; ".join(f"{t.backend} {t.precision}: {t.why}" for t in trials)
    parts = [f"{chosen.median_us / 1e3:.3g} ms a face, the fastest that passes"]
    if chosen.precision != "fp32" and chosen.speedup is not None and baseline is not None:
        parts[0] += f", {chosen.speedup:.2f} times as fast as the fastest fp32 ({baseline.backend})"
    others = [t for t in trials if t.verdict == "slower" and t.median_us is not None]
    if others and others[0].median_us is not None:
        parts.append(f"next is {others[0].backend} {others[0].precision} with {others[0].median_us / 1e3:.3g} ms")
    faster = [
        t
        for t in trials
        if t.verdict in ("refused", "failed") and t.median_us is not None and t.median_us < chosen.median_us
    ]
    if chosen.speedup_range is not None and chosen.speedup_range[1] > DISTURBED * chosen.speedup_range[0]:
        low, high = chosen.speedup_range
        parts.append(
            f"the rounds disagree ({low:.1f} to {high:.1f} times), so other work disturbed them: compile again on a "
            "quiet machine to be sure"
        )
    parts += [f"{t.backend} {t.precision} is faster but not chosen: {t.why}" for t in faster]
    return "; ".join(parts)


__all__ = ["Contestant", "chosen_trial", "decide"]
