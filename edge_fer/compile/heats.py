"""Time the forms of a network on this machine: which int8 form the bundle gets, and which engine is chosen."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import ModelProto

from edge_fer.backends.dialects import DIALECTS
from edge_fer.backends.host import cpu_identity
from edge_fer.backends.race import Entrant, Stopwatch, Timing, race
from edge_fer.compile.decide import Contestant, decide
from edge_fer.compile.forms import FP32, INT8_CPU, Forms, cpu_form, write_int8
from edge_fer.compile.graph import Graph
from edge_fer.compile.mixtures import gain, kinds, promising
from edge_fer.compile.plan import plan_quantisation
from edge_fer.compile.report import AttemptReport
from edge_fer.compile.request import CompileRequest
from edge_fer.compile.verify import Candidate, Progress, Verified, candidates_here
from edge_fer.core.manifest import GateRecord, LadderRecord, Variant
from edge_fer.core.spec import ModelSpec

FOR_SPEED = "the int8 form for CPUs computes"
"""How the note begins that says what is left in floating point for speed."""


@dataclass(frozen=True)
class _Form:
    """One ONNX graph to time."""

    variant: Variant
    model: ModelProto
    float_layers: tuple[str, ...] = ()
    remark: str = ""


class Heats:
    """Everything that was timed for one compilation. A heat is one interleaved race.

    Args:
        stopwatch: tests give their own times; by default the engines really run.
    """

    def __init__(
        self, request: CompileRequest, spec: ModelSpec, step: Progress, stopwatch: Stopwatch | None = None
    ) -> None:
        self._request, self._spec, self._step = request, spec, step
        self._stopwatch: Stopwatch = stopwatch or race
        self._heat = 0
        self._contestants: list[Contestant] = []

    def settle_mixture(self, forms: Forms) -> None:
        """Leave the kinds of layers in floating point that int8 slows down, when that makes the best engine faster.

        Rewrites the int8 form of ``forms`` and says so in its notes. Accuracy is no reason here: a mixture rounds less
        than the whole.
        """
        if forms.calibration is None:
            return
        graph = Graph(forms.models[FP32])
        always = frozenset(forms.calibration.float_layers)
        found = kinds(graph, plan_quantisation(graph, always))
        if not found:
            return
        whole = self._int8(forms, always, "")
        mixtures = {kind: self._int8(forms, always | layers, f"without {kind}") for kind, layers in found.items()}
        timed = self._run([_Form(FP32, forms.models[FP32]), whole, *mixtures.values()])
        gains = {kind: gain(timed[whole.float_layers], timed[form.float_layers]) for kind, form in mixtures.items()}
        winners = promising(gains)
        chosen = mixtures[winners[0]] if winners else whole
        if len(winners) > 1 and (both := frozenset().union(*(found[kind] for kind in winners))) < frozenset(
            plan_quantisation(graph, always).layers
        ):
            union = self._int8(forms, always | both, f"without {' and '.join(winners)}")
            timed = self._run([_Form(FP32, forms.models[FP32]), chosen, union])
            if gain(timed[chosen.float_layers], timed[union.float_layers]) > 1:
                chosen, winners[0] = union, " and ".join(winners)
        write_int8(
            forms, trt=self._request.wants_trt, cpu_float_layers=[n for n in chosen.float_layers if n not in always]
        )
        if winners:
            forms.notes.append(
                f"{FOR_SPEED} {winners[0]} in fp32, because that is faster here ({len(chosen.float_layers)} layers)"
            )

    def worth_trying(self, verified: Sequence[Verified]) -> list[frozenset[str]]:
        """Int8 forms that were timed, by their layers in floating point, the fastest first.

        Only those that are faster than every engine that may be chosen without int8: the others cannot win.

        Args:
            verified: says which half precisions may not be chosen.
        """
        barred = {_key(item) for item in verified if item.error is not None or self._lower_failed(item) is not None}
        gains: dict[frozenset[str], float] = {}
        for heat in range(1, self._heat + 1):
            here = [contestant for contestant in self._contestants if contestant.heat == heat]
            floats = [c.timing for c in here if c.precision != "int8" and (c.backend, c.precision) not in barred]
            for layers in {c.float_layers for c in here if c.precision == "int8"}:
                int8 = [c.timing for c in here if c.precision == "int8" and c.float_layers == layers]
                gains[frozenset(layers)] = gain(floats, int8)
        return sorted((layers for layers, value in gains.items() if value > 1), key=lambda layers: -gains[layers])

    def gain_of(self, forms: Forms, one: frozenset[str], other: frozenset[str]) -> float:
        """How many times as fast the second of two int8 forms is, given by their layers in floating point."""
        if one == other:
            return 1.0
        pair = [self._int8(forms, one, "timed already"), self._int8(forms, other, "without the layers to blame")]
        timed = self._run([_Form(FP32, forms.models[FP32]), *pair])
        return gain(timed[pair[0].float_layers], timed[pair[1].float_layers])

    def verdict(
        self,
        forms: Forms,
        verified: Sequence[Verified],
        gate: GateRecord | None,
        attempts: Sequence[AttemptReport],
    ) -> LadderRecord:
        """Time the forms of the bundle, unless that was done, and choose.

        Args:
            verified: of the final forms.
            gate, attempts: what the accuracy gate said of the int8 forms.
        """
        plain = self._plain(forms)
        current: dict[str, tuple[str, ...]] = {
            form.variant.dialect: form.float_layers for form in plain if form.variant.precision == "int8"
        }
        wanted = {(c.backend, c.precision, form.float_layers) for c, form in self._runners(plain)}
        last = {(c.backend, c.precision, c.float_layers) for c in self._contestants if c.heat == self._heat}
        if not last.issuperset(wanted):
            self._run(plain)
        failed = {attempt.float_layers: attempt for attempt in attempts if not attempt.passed}
        accuracy = {} if gate is None or not gate.applied else {_key(item): item for item in verified}
        strayed = {_key(item): item.error for item in verified if item.error is not None}
        contestants = []
        for contestant in self._contestants:
            mixture = contestant.precision == "int8"
            attempt = failed.get(contestant.float_layers) if mixture else None
            item = accuracy.get((contestant.backend, contestant.precision)) if not mixture else None
            barred = _attempt_failed(attempt) if attempt is not None else self._lower_failed(item)
            if mixture and barred is None and not current:
                barred = "the bundle has no int8 form"
            left = mixture and barred is None and contestant.float_layers != current.get(DIALECTS[contestant.backend])
            if not left and (contestant.backend, contestant.precision) in strayed:
                barred = strayed[contestant.backend, contestant.precision]
            contestants.append(replace(contestant, barred=barred, left=left))
        return decide(
            contestants,
            min_speedup=self._request.min_speedup,
            device=cpu_identity(),
            threads=self._request.threads,
        )

    def _int8(self, forms: Forms, float_layers: frozenset[str], remark: str) -> _Form:
        return _Form(INT8_CPU, cpu_form(forms, float_layers), tuple(sorted(float_layers)), remark)

    def _plain(self, forms: Forms) -> list[_Form]:
        kept: dict[str, tuple[str, ...]] = {}
        if forms.calibration is not None:
            kept = {"cpu": forms.calibration.cpu_float, "trt": tuple(sorted(forms.calibration.float_layers))}
        return [_Form(variant, model, kept.get(variant.dialect, ())) for variant, model in forms.models.items()]

    def _runners(self, forms: Sequence[_Form]) -> list[tuple[Candidate, _Form]]:
        """What could run the forms here, of what was asked for."""
        backend, precision = self._request.host_backend, self._request.precision
        return [
            (candidate, form)
            for form in forms
            for candidate in candidates_here([form.variant], backend)
            # The reference of the verification takes no part where another backend was asked for.
            if backend in ("auto", candidate.backend) and (precision != "fp32" or candidate.precision == "fp32")
        ]

    def _run(self, forms: Sequence[_Form]) -> dict[tuple[str, ...], list[Timing]]:
        """One heat; returns the timings of int8 forms by their layers in floating point."""
        self._heat += 1
        entrants: list[Entrant] = []
        runners: list[Contestant] = []
        with tempfile.TemporaryDirectory(prefix="edge-fer-heat-", ignore_cleanup_errors=True) as folder:
            paths = {id(form): Path(folder) / f"{index}.onnx" for index, form in enumerate(forms)}
            for form in forms:
                onnx.save(form.model, paths[id(form)])
            for candidate, form in self._runners(forms):
                name = f"{candidate.label} {form.remark}".strip()
                entrants.append(Entrant(name, paths[id(form)], candidate.backend, candidate.precision))
                runners.append(
                    Contestant(candidate.backend, candidate.precision, Timing(), form.float_layers, heat=self._heat)
                )
            timings = self._stopwatch(entrants, self._spec, threads=self._request.threads, progress=self._step)
        found: dict[tuple[str, ...], list[Timing]] = {form.float_layers: [] for form in forms}
        for runner, timing in zip(runners, timings, strict=True):
            self._contestants.append(replace(runner, timing=timing))
            if runner.precision == "int8":
                found[runner.float_layers].append(timing)
        return found

    def _lower_failed(self, item: Verified | None) -> str | None:
        """Why a half precision may not be chosen; fp32 always may."""
        if item is None or item.drop is None or item.candidate.precision == "fp32":
            return None
        if item.drop.drop > self._request.max_drop:
            return f"loses {item.drop.drop:.2f} points of top-1, and --max-drop allows {self._request.max_drop:g}"
        if item.harmed:
            return f"loses recall, and --max-drop allows {self._request.max_drop:g}: {_points(item.harmed)}"
        return None


def _key(item: Verified) -> tuple[str, str]:
    return item.candidate.backend, item.candidate.precision


def _attempt_failed(attempt: AttemptReport) -> str:
    lost = _points(attempt.harmed_classes)
    low, high = attempt.drop_interval
    points = f"loses {attempt.drop:.2f} points of top-1 (95 %: {low:.2f} to {high:.2f})"
    return points + (f", and of recall {lost}" if lost else "")


def _points(harmed: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {points:.1f}" for name, points in harmed.items())


__all__ = ["FOR_SPEED", "Heats"]
