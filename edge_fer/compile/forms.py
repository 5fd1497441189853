"""The ONNX forms of a bundle: fp32 always, and fp16 or int8 in its dialects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from edge_fer.compile.bias_correction import correct_biases, measure_shifts
from edge_fer.compile.calibrate import (
    BATCH,
    DEFAULT_METHOD,
    Batches,
    Calibration,
    open_session,
    peak_magnitudes,
    read_calibration,
    run_logits,
)
from edge_fer.compile.canary_faces import canary_images, face_batch
from edge_fer.compile.executed import executed_by_onnxruntime
from edge_fer.compile.graph import Graph, model_hash
from edge_fer.compile.lint_trt import lint_trt
from edge_fer.compile.plan import Plan, plan_quantisation
from edge_fer.compile.quantize_int8 import quantize_int8
from edge_fer.compile.range_cache import RangeCache, calibrate_or_recall
from edge_fer.compile.request import CompileRequest
from edge_fer.compile.to_fp16 import to_fp16
from edge_fer.compile.verify import Progress
from edge_fer.core.bundle import find_bundle, open_bundle
from edge_fer.core.errors import CalibrationError, EdgeFerError
from edge_fer.core.manifest import Variant
from edge_fer.core.spec import ModelSpec
from edge_fer.core.threads import usable_threads
from edge_fer.data.calibration_set import CalibrationSet, open_calibration_set

FP32 = Variant(precision="fp32", file="model.fp32.onnx")
FP16 = Variant(precision="fp16", file="model.fp16.onnx")
INT8_CPU = Variant(precision="int8", dialect="cpu", file="model.int8.onnx")
INT8_TRT = Variant(precision="int8", dialect="trt", file="model.int8.trt.onnx")

PREDICTED, ONE_SIDED = 128, 0.9
"""Of a calibration set that names no classes: how many faces the fp32 network is asked about, and the share of one
answer from which on the user is warned."""


@dataclass
class Forms:
    """Models by variant, and how they came about.

    Attributes:
        calibration: the ranges behind the int8 forms.
        faces: the calibration set, when one was given.
        calibration_notes: findings about that set which did not forbid it, for the certificate.
        notes: what the user should know, as sentences.
    """

    models: dict[Variant, ModelProto]
    calibration: Calibration | None = None
    faces: CalibrationSet | None = None
    calibration_notes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        for variant, model in self.models.items():
            onnx.save(model, folder / variant.file)

    def drop_int8(self) -> None:
        """Leave int8 out of the bundle."""
        self.models = {variant: model for variant, model in self.models.items() if variant.precision != "int8"}
        self.calibration = None


def make_forms(request: CompileRequest, spec: ModelSpec, model: ModelProto, step: Progress) -> Forms:
    """Make every form that was asked for.

    Raises:
        CalibrationError: int8 was asked for and its ranges cannot be known, or the calibration set is not fit.
    """
    forms = Forms({FP32: model})
    if request.precision == "fp32":
        return forms
    if request.precision == "fp16":
        step("Casting to fp16", 0, 0)
        half = to_fp16(model, peak_magnitudes(model, face_batch(canary_images(), spec.preprocess)))
        forms.models[FP16] = half.model
        forms.notes += [f"{name} stays in fp32: {reason}" for name, reason in half.islands.items()]
        return forms
    forms.calibration = _ranges(request, spec, model, forms, step)
    if forms.calibration is not None:
        step("Quantizing to int8", 0, 0)
        write_int8(forms, trt=request.wants_trt)
    return forms


def write_int8(
    forms: Forms, *, trt: bool, float_layers: Sequence[str] | None = None, cpu_float_layers: Sequence[str] | None = None
) -> None:
    """(Re)write the int8 forms, with other layers left in floating point than the calibration says.

    Args:
        float_layers: because int8 harms them, in every form; ``None`` leaves them as they are.
        cpu_float_layers: because int8 slows them down, in the ``cpu`` form; likewise.
    """
    if forms.calibration is None:
        raise ValueError("int8 needs a calibration")
    model = forms.models[FP32]
    given = {"float_layers": float_layers, "cpu_float_layers": cpu_float_layers}
    changes = {key: tuple(sorted(layers)) for key, layers in given.items() if layers is not None}
    forms.calibration = forms.calibration.model_copy(update=changes)
    forms.models[INT8_CPU] = cpu_form(forms, forms.calibration.cpu_float)
    plan = plan_quantisation(Graph(model), frozenset(forms.calibration.cpu_float))
    executed = executed_by_onnxruntime(forms.models[INT8_CPU])
    forms.notes = [note for note in forms.notes if not note.startswith("ONNX Runtime computes")]
    if executed.int8 < len(plan.layers):
        forms.notes.append(f"ONNX Runtime computes {executed.int8} of the {len(plan.layers)} quantized layers in int8")
    if trt:
        plan = plan_quantisation(Graph(model), frozenset(forms.calibration.float_layers))
        forms.models[INT8_TRT] = quantize_int8(model, plan, forms.calibration.thresholds(), "trt")
        if violations := lint_trt(forms.models[INT8_TRT]):
            raise EdgeFerError(f"The int8 form for TensorRT breaks its rules: {violations[0]}.")


def cpu_form(forms: Forms, float_layers: Iterable[str]) -> ModelProto:
    """The int8 form for CPUs with these layers in floating point."""
    if forms.calibration is None:
        raise ValueError("int8 needs a calibration")
    model, shifts = forms.models[FP32], forms.calibration.bias_shifts
    plan = plan_quantisation(Graph(model), frozenset(float_layers))
    # A layer that is not rounded has no shift to mend.
    corrected = correct_biases(model, {name: np.asarray(shifts[name]) for name in plan.layers if name in shifts})
    return quantize_int8(corrected, plan, forms.calibration.thresholds(), "cpu")


def _ranges(
    request: CompileRequest, spec: ModelSpec, model: ModelProto, forms: Forms, step: Progress
) -> Calibration | None:
    """Ranges measured on the given faces, or the shipped ones when they were measured on this very network."""
    if request.calibration is not None:
        step("Reading the calibration set", 0, 0)
        forms.faces = open_calibration_set(request.calibration)
        forms.calibration_notes = forms.faces.notes
        if forms.faces.labels is None:
            forms.calibration_notes += (predicted_classes(model, forms.faces, spec, usable_threads()),)
        forms.notes += [f"calibration: {note}" for note in forms.calibration_notes]
        found, note = calibrate_or_recall(
            model,
            forms.faces,
            spec.preprocess,
            cache=RangeCache(),
            method=request.method or DEFAULT_METHOD,
            threads=usable_threads(),
            progress=lambda done, total: step("Measuring ranges", done, total),
        )
        forms.notes += [note] if note else []
        if request.bias_correction:
            batches = partial(forms.faces.batches, spec.preprocess, BATCH)
            found = with_shifts(found, model, plan_quantisation(Graph(model)), batches, step)
        return found
    shipped = shipped_ranges(spec, model)
    if shipped is not None:
        forms.notes.append(
            f"the int8 ranges are the shipped ones ({shipped.method}, {len(shipped.sample_ids)} faces of "
            f"{shipped.source}); give --calibration to measure them anew"
        )
        return shipped
    if request.precision == "int8":
        raise CalibrationError(
            f"INT8 needs faces to measure the ranges of {spec.name} on, and none were given; ranges that are made up "
            "would give wrong answers without a word.",
            fix="Give a folder with a few hundred face crops: --calibration DIR (or a recipe.yaml).",
        )
    forms.notes.append("compiled to fp32 only: int8 needs faces to measure ranges on, give them with --calibration DIR")
    return None


def predicted_classes(model: ModelProto, faces: CalibrationSet, spec: ModelSpec, threads: int) -> str:
    """What the fp32 network sees in a set that names no classes, as a sentence: the best that is known of its balance.

    It is no reason to refuse the set, because the network may be wrong, untrained, or of two classes of which one is
    rare.
    """
    batches = itertools.islice(faces.batches(spec.preprocess, BATCH), PREDICTED // BATCH)
    session = open_session(model, threads)
    found = np.concatenate([run_logits(session, batch).argmax(axis=1) for batch in batches])
    counts = np.bincount(found, minlength=len(spec.labels))
    if counts.max() >= ONE_SIDED * len(found):
        most = spec.labels[int(counts.argmax())]
        return (
            f"the fp32 network calls {counts.max()} of {len(found)} of these faces {most}: "
            "ranges of one class may fit no other, so make sure that every class is among them"
        )
    seen = ", ".join(f"{name} {count}" for name, count in zip(spec.labels, counts, strict=True))
    return f"the fp32 network calls {len(found)} of these faces: {seen}"


def with_shifts(found: Calibration, model: ModelProto, plan: Plan, batches: Batches, step: Progress) -> Calibration:
    """The ranges, and beside them what bias correction adds to the biases of the plan's layers.

    Args:
        batches: float32 (n, C, H, W) of the calibration set.
    """
    step("Measuring how int8 shifts the biases", 0, 0)
    shifts = measure_shifts(model, plan, found.thresholds(), batches, threads=usable_threads())
    return found.model_copy(update={"bias_shifts": {name: tuple(map(float, s)) for name, s in shifts.items()}})


def shipped_ranges(spec: ModelSpec, model: ModelProto) -> Calibration | None:
    """Ranges of the shipped bundle of this name, if it was made from the same network."""
    try:
        bundle = open_bundle(find_bundle(spec.name))
        if bundle.manifest.calibration is None:
            return None
        found = read_calibration(bundle.file(bundle.manifest.calibration.file))
    except EdgeFerError:
        return None
    return found if found.model_sha256 == model_hash(model) else None
