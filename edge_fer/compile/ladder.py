"""When int8 loses too much accuracy: find the layers to blame, keep those in fp32, and try again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edge_fer.compile.calibrate import Calibration, open_session, run_logits
from edge_fer.compile.forms import FP32, Forms, write_int8
from edge_fer.compile.graph import Graph
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


def climb(
    request: CompileRequest,
    forms: Forms,
    verifier: Verifier,
    verified: list[Verified],
    inputs: NDArray[np.float32],
    step: Progress,
) -> tuple[list[Verified], GateRecord | None, list[AttemptReport]]:
    """Hold int8 against the gate, and climb until it passes.

    The forms and the files in the verifier's folder are rewritten by each rung. When no rung passes, or no engine here
    computes what an int8 form says, int8 leaves the bundle, unless it was asked for by name.

    Args:
        verified: what every candidate gave for the first int8 form.
        inputs: faces (n, C, H, W) on which the layers to blame are found; no labels are needed for that.

    Raises:
        BadInputError: int8 was asked for by name, and no rung passes or no engine computes it.
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
    gate = gate_record(verified, request.max_drop, applied=request.gate)
    if not gate.applied or gate.passed:
        return verified, gate, []
    attempts = [_attempt(forms, gate)]
    blamed = sensitivities(forms.models[FP32], forms.calibration, inputs, threads=usable_threads(), progress=step)
    total = len(plan_quantisation(Graph(forms.models[FP32])).layers)
    # Layers that the calibration names were left in floating point for a reason: a rung adds to them.
    always = frozenset(forms.calibration.float_layers)
    for kept in _rungs(blamed, total - len(forms.calibration.cpu_float)):
        write_int8(forms, float_layers=sorted(always | kept), trt=request.wants_trt)
        forms.save(verifier.folder)
        int8 = [item.candidate for item in verified if item.candidate.precision == "int8"]
        others = [item for item in verified if item.candidate.precision != "int8"]
        verified = [*others, *verifier.run(int8)]
        if _all_failed(verified):
            continue
        gate = gate_record(verified, request.max_drop, applied=True)
        attempts.append(_attempt(forms, gate))
        if gate.passed:
            names = ", ".join(forms.calibration.cpu_float)
            count = len(forms.calibration.cpu_float)
            forms.notes.append(f"int8 passes the gate with {count} of {total} layers kept in fp32: {names}")
            return verified, gate, attempts
    best = min(attempts, key=lambda a: a.drop)
    sentence = (
        f"int8 loses {best.drop:.2f} points of top-1 at best (95 %: {best.drop_interval[0]:.2f} to "
        f"{best.drop_interval[1]:.2f}, {gate.n} faces), more than --max-drop {request.max_drop:g}"
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
    return [item for item in verified if item.candidate.precision != "int8"], gate, attempts


def _all_failed(verified: list[Verified]) -> list[str]:
    """Why each int8 engine failed, when every one did."""
    int8 = [item for item in verified if item.candidate.precision == "int8"]
    failures = [f"{item.candidate.label} {item.error}" for item in int8 if item.error is not None]
    return failures if len(failures) == len(int8) else []


def _rungs(blamed: list[Sensitivity], total: int) -> Iterator[frozenset[str]]:
    """Growing sets of layers to keep in fp32, as long as something stays int8."""
    previous: frozenset[str] = frozenset()
    for count in RUNGS:
        kept = frozenset().union(*(s.layers for s in blamed[:count]))
        if previous < kept and len(kept) < total:
            yield kept
        previous = kept


def _attempt(forms: Forms, gate: GateRecord) -> AttemptReport:
    if forms.calibration is None or gate.drop is None or gate.drop_interval is None:
        raise ValueError("an attempt has ranges and a drop")
    return AttemptReport(
        float_layers=forms.calibration.cpu_float,
        drop=gate.drop,
        drop_interval=gate.drop_interval,
        harmed_classes=gate.harmed_classes,
        passed=bool(gate.passed),
    )


__all__ = ["Sensitivity", "blame_units", "climb", "sensitivities"]
