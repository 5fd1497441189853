"""When int8 loses too much accuracy: try what was timed already, and find the layers to blame; the faster stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edge_fer.compile.calibrate import Calibration, open_session, run_logits
from edge_fer.compile.forms import FP32, Forms, write_int8
from edge_fer.compile.graph import Graph
from edge_fer.compile.heats import FOR_SPEED, Heats
from edge_fer.compile.plan import fused_output, plan_quantisation
from edge_fer.compile.quantize_int8 import quantize_int8
from edge_fer.compile.report import AttemptReport
from edge_fer.compile.request import CompileRequest
from edge_fer.compile.verify import Progress, Verified, Verifier, gate_record
from edge_fer.core.errors import BadInputError
from edge_fer.core.manifest import GateRecord
from edge_fer.core.threads import usable_threads

RUNGS = (1, 2, 4, 8, 16)
"""How many of the most harmful units are kept in fp32, one try after the other."""


@dataclass(frozen=True)
class Sensitivity:
    """How much of int8's error goes away with some layers in fp32.

    Attributes:
        layers: names of convolutions and dense layers: one, or all that write and read one tensor.
        error: mean squared logit error of int8 throughout.
        error_without: the same when all layers but these are int8.
    """

    layers: frozenset[str]
    error: float
    error_without: float

    @property
    def gain(self) -> float:
        """Error that goes away per layer that is given up."""
        return (self.error - self.error_without) / len(self.layers)


def blame_units(graph: Graph) -> list[frozenset[str]]:
    """Sets of layers to try in fp32: each layer alone, for its weights, and those around a tensor, for its range.

    A tensor whose range does not suit 8 bits stays quantised as long as any layer that writes or reads it is int8, so
    no single layer would show the harm.
    """
    plan = plan_quantisation(graph)
    writers: dict[str, set[str]] = {}
    for node in graph.nodes:
        output = plan.shares.get(fused_output(graph, node), fused_output(graph, node))
        if node.name in plan.layers:
            writers.setdefault(output, set()).add(node.name)
        elif node.op_type == "Add":
            # An addition is quantised when the layers that feed it are.
            feeding = {graph.producer[name].name for name in node.input if name in graph.producer}
            writers.setdefault(output, set()).update(feeding & set(plan.layers))
    around = {root: set(writers.get(root, ())) for root in plan.measured}
    for node in graph.nodes:
        if node.name in plan.layers:
            around[plan.shares[node.input[0]]].add(node.name)
    units = [frozenset({layer}) for layer in plan.layers]
    return list(dict.fromkeys([*units, *(frozenset(layers) for layers in around.values() if layers)]))


def sensitivities(
    model: ModelProto,
    calibration: Calibration,
    inputs: NDArray[np.float32],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[Sensitivity]:
    """Leave one unit out of int8 at a time and measure what that mends on ``inputs`` (n, C, H, W).

    Layers that the calibration keeps in floating point already are out of it throughout.

    Returns:
        those that mend anything, the largest gain per layer first.
    """
    graph = Graph(model)
    thresholds = calibration.thresholds()
    always = frozenset(calibration.cpu_float)
    reference = run_logits(open_session(model, threads), inputs).astype(np.float64)

    def error_of(float_layers: frozenset[str]) -> float:
        mixed = quantize_int8(model, plan_quantisation(graph, always | float_layers), thresholds, "cpu")
        return float(np.mean((run_logits(open_session(mixed, threads), inputs) - reference) ** 2))

    full = error_of(frozenset())
    units = list(dict.fromkeys(unit - always for unit in blame_units(graph) if unit - always))
    found = []
    for done, layers in enumerate(units):
        if progress is not None:
            progress("Looking for the layers that int8 hurts", done, len(units))
        found.append(Sensitivity(layers, full, error_of(layers)))
    return sorted((s for s in found if s.gain > 0), key=lambda s: -s.gain)


@dataclass(frozen=True)
class _Step:
    """An int8 form that was held against the gate.

    Attributes:
        float_layers: in floating point in every form, because int8 harms them.
        cpu_float_layers: also in floating point in the ``cpu`` form, because int8 slows them down.
        verified, gate: what every candidate gave with it, and the verdict.
    """

    float_layers: frozenset[str]
    cpu_float_layers: frozenset[str]
    verified: list[Verified]
    gate: GateRecord

    @property
    def layers(self) -> frozenset[str]:
        """All that the ``cpu`` form computes in floating point."""
        return self.float_layers | self.cpu_float_layers


class _Ladder:
    """The steps that were tried. Each one rewrites the forms and their files in the verifier's folder."""

    def __init__(self, request: CompileRequest, forms: Forms, verifier: Verifier, verified: list[Verified]) -> None:
        self._request, self._forms, self._verifier = request, forms, verifier
        self.verified = verified
        self.gate = gate_record(verified, request.max_drop, applied=request.gate)
        self.attempts: list[AttemptReport] = []
        if self.gate.applied and not self.gate.passed:
            self.attempts.append(_attempt(forms, self.gate, "the fastest form"))

    def first_passing(self, forms: Iterable[tuple[frozenset[str], frozenset[str]]], how: str) -> _Step | None:
        """The first of these (float_layers, cpu_float_layers) that passes; ``how`` they were found is for people."""
        for float_layers, cpu_float_layers in forms:
            self._write(float_layers, cpu_float_layers)
            int8 = [item.candidate for item in self.verified if item.candidate.precision == "int8"]
            others = [item for item in self.verified if item.candidate.precision != "int8"]
            self.verified = [*others, *self._verifier.run(int8)]
            if _all_failed(self.verified):
                continue
            self.gate = gate_record(self.verified, self._request.max_drop, applied=True)
            self.attempts.append(_attempt(self._forms, self.gate, how))
            if self.gate.passed:
                return _Step(float_layers, cpu_float_layers, self.verified, self.gate)
        return None

    def return_to(self, step: _Step) -> None:
        self._write(step.float_layers, step.cpu_float_layers)
        self.verified, self.gate = step.verified, step.gate

    def _write(self, float_layers: frozenset[str], cpu_float_layers: frozenset[str]) -> None:
        write_int8(
            self._forms,
            trt=self._request.wants_trt,
            float_layers=sorted(float_layers),
            cpu_float_layers=sorted(cpu_float_layers),
        )
        self._forms.save(self._verifier.folder)


def climb(
    request: CompileRequest,
    forms: Forms,
    verifier: Verifier,
    verified: list[Verified],
    inputs: NDArray[np.float32],
    step: Progress,
    heats: Heats | None = None,
) -> tuple[list[Verified], GateRecord | None, list[AttemptReport]]:
    """Hold int8 against the gate; when it fails, try the forms that were timed, and those without the layers to blame.

    Of either sort the first that passes counts; where both have one, they race, and the faster stays. When nothing
    passes, or no engine here computes what an int8 form says, int8 leaves the bundle, unless it was asked for by name.

    Args:
        verified: what every candidate gave for the first int8 form.
        inputs: faces (n, C, H, W) on which the layers to blame are found; no labels are needed for that.
        heats: what was timed; ``None`` where nothing was.

    Raises:
        BadInputError: int8 was asked for by name, and nothing passes or no engine computes it.
    """
    if forms.calibration is None:
        return verified, None, []
    if (failures := _all_failed(verified)) and not request.wants_trt:
        sentence = f"no engine here runs the int8 form as it is written: {'; '.join(failures)}"
        if request.precision == "int8":
            raise BadInputError(f"{sentence}; nothing was written.", fix="Take --precision fp32, or leave it out.")
        forms.notes.append(f"{sentence}; so the bundle has no int8 form")
        forms.drop_int8()
        return [item for item in verified if item.candidate.precision != "int8"], None, []
    ladder = _Ladder(request, forms, verifier, verified)
    if not ladder.gate.applied or ladder.gate.passed:
        return verified, ladder.gate, []
    # Every step starts from the form that failed; layers that its calibration names stay in floating point.
    failed = forms.calibration
    always, slow = frozenset(failed.float_layers), frozenset(failed.cpu_float_layers)
    worth = heats.worth_trying(verified) if heats is not None else []
    timed = ladder.first_passing(
        # What rounds more than the form that failed fails too. Layers that are out for accuracy are out of every form:
        # what int8 harms on this machine it harms on others.
        ((layers, frozenset()) for layers in worth if not layers <= always | slow),
        "timed already",
    )
    blamed = sensitivities(forms.models[FP32], failed, inputs, threads=usable_threads(), progress=step)
    total = len(plan_quantisation(Graph(forms.models[FP32])).layers)
    rungs = _rungs(blamed, total - len(always | slow))
    mended = ladder.first_passing(((always | kept, slow) for kept in rungs), "without the layers to blame")
    winner, why = _faster(timed, mended, forms, heats)
    if winner is not mended:
        forms.notes = [note for note in forms.notes if not note.startswith(FOR_SPEED)]
    if winner is not None:
        ladder.return_to(winner)
        names, count = ", ".join(forms.calibration.cpu_float), len(forms.calibration.cpu_float)
        forms.notes.append(f"int8 passes the gate with {count} of {total} layers kept in fp32: {names}; {why}")
        return ladder.verified, ladder.gate, ladder.attempts
    best = min(ladder.attempts, key=lambda a: a.drop)
    sentence = (
        f"int8 loses {best.drop:.2f} points of top-1 at best (95 %: {best.drop_interval[0]:.2f} to "
        f"{best.drop_interval[1]:.2f}, {ladder.gate.n} faces), more than --max-drop {request.max_drop:g}"
    )
    if best.drop <= request.max_drop:
        lost = ", ".join(f"{name} {points:.1f}" for name, points in best.harmed_classes.items())
        sentence = (
            f"int8 loses recall of single classes beyond --max-drop {request.max_drop:g} and chance: {lost} points"
        )
    if request.precision == "int8":
        raise BadInputError(
            f"{sentence}; nothing was written.",
            fix="Calibrate on more or better faces, try another --calibration-method, or accept it with --no-gate.",
        )
    forms.notes.append(f"{sentence}, so the bundle has no int8 form")
    forms.drop_int8()
    return [item for item in ladder.verified if item.candidate.precision != "int8"], ladder.gate, ladder.attempts


def _faster(timed: _Step | None, mended: _Step | None, forms: Forms, heats: Heats | None) -> tuple[_Step | None, str]:
    """Which of two forms that pass stays, and why; ``None`` where neither does."""
    if timed is None or heats is None:
        return mended, "it is the first that passes without the layers to blame"
    if mended is None:
        return timed, "of the forms that were timed it is the fastest that passes, and no search for layers finds one"
    gain = heats.gain_of(forms, timed.layers, mended.layers)
    if gain > 1:
        return mended, f"it is {gain:.2f} times as fast as the fastest timed form that passes"
    return timed, "it was timed, and the form without the layers to blame passes too but is no faster"


def _all_failed(verified: list[Verified]) -> list[str]:
    """Why each int8 engine failed, when every one did."""
    int8 = [item for item in verified if item.candidate.precision == "int8"]
    failures = [f"{item.candidate.label} {item.error}" for item in int8 if item.error is not None]
    return failures if len(failures) == len(int8) else []


def _rungs(blamed: list[Sensitivity], total: int) -> Iterator[frozenset[str]]:
    """Growing sets of layers to keep in fp32, as long as something of ``total`` stays int8."""
    previous: frozenset[str] = frozenset()
    for count in RUNGS:
        kept = frozenset().union(*(s.layers for s in blamed[:count]))
        if previous < kept and len(kept) < total:
            yield kept
        previous = kept


def _attempt(forms: Forms, gate: GateRecord, how: str) -> AttemptReport:
    if forms.calibration is None or gate.drop is None or gate.drop_interval is None:
        raise ValueError("an attempt has ranges and a drop")
    return AttemptReport(
        how=how,
        float_layers=forms.calibration.cpu_float,
        drop=gate.drop,
        drop_interval=gate.drop_interval,
        harmed_classes=gate.harmed_classes,
        passed=bool(gate.passed),
    )


__all__ = ["Sensitivity", "blame_units", "climb", "sensitivities"]
