"""``edge-fer compile`` for a face detector: checkpoint -> ONNX -> int8 -> every backend held to it -> bundle."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edge_fer import __version__
from edge_fer.backends.choose import choose
from edge_fer.backends.dialects import canary_key, form_key
from edge_fer.backends.registry import open_onnx
from edge_fer.compile.calibrate import (
    measure_ranges,
    open_session,
    run_logits,
)
from edge_fer.compile.canary_faces import FILE as CANARY_FILE
from edge_fer.compile.canary_faces import canary_record
from edge_fer.compile.certificate import record_calibration, worst_gaps
from edge_fer.compile.detector_pictures import calibration_batches, canary_picture, picture_batch
from edge_fer.compile.export_detector import export_detector, output_layers
from edge_fer.compile.export_onnx import OPSET, check_parity
from edge_fer.compile.forms import FP32, INT8_CPU, INT8_TRT, Forms, cpu_form, with_shifts
from edge_fer.compile.graph import Graph, count_macs
from edge_fer.compile.plan import plan_quantisation
from edge_fer.compile.quantize_int8 import quantize_int8
from edge_fer.compile.report import DetectorReport, HeldReport
from edge_fer.compile.request import CompileRequest, check_out
from edge_fer.compile.verify import Progress, candidates_here, strayed
from edge_fer.core.bundle import Canary, open_bundle, record_files, write_canary
from edge_fer.core.engine import INPUT, OUTPUT, Engine
from edge_fer.core.errors import BadInputError, CalibrationError, DeviceError, EdgeFerError, UsageError
from edge_fer.core.faces import Faces, iou
from edge_fer.core.files import atomic_folder
from edge_fer.core.manifest import (
    BundleManifest,
    CheckpointRecord,
    ParityRecord,
    write_manifest,
)
from edge_fer.core.spec import DetectorSpec
from edge_fer.core.threads import usable_threads
from edge_fer.data.calibration_set import CalibrationSet, open_calibration_set
from edge_fer.evaluate.recheck import REFERENCE
from edge_fer.models.checkpoint import DetectorCheckpoint, load_detector
from edge_fer.runtime.detectors.places import Decoder, suppress

DETECTOR_METHOD = "minmax"
"""A face is where activations peak, and every other method clips peaks for the sake of the background, which is nearly
all of a picture: what that costs small faces is in docs/decisions/0032-detector-ranges.md."""
PARITY_PICTURES = 32
SAME_FACE = 0.7
"""IoU from which two engines' boxes count as the same find."""


def compile_detector(request: CompileRequest, progress: Progress | None = None) -> DetectorReport:
    """Compile one detector; the bundle appears whole or not at all.

    Raises:
        EdgeFerError: its subclasses say in one sentence what was wrong with the request, a file or this machine.
    """
    started = time.monotonic()
    step: Progress = progress or (lambda what, done, total: None)
    request.check()
    _refuse(request)
    step("Reading the checkpoint", 0, 0)
    checkpoint = load_detector(request.checkpoint)
    spec = checkpoint.spec
    out = request.out or Path("engines") / spec.name
    check_out(out)
    step("Exporting to ONNX", 0, 0)
    model = export_detector(checkpoint.model, spec)
    canary = canary_picture(spec.size_hw)
    canary_input = picture_batch(list(canary), spec)
    check_parity(checkpoint.model, run_logits(open_session(model, 1), canary_input), canary_input, spec.name)
    forms = Forms({FP32: model})
    pictures = _quantise(request, spec, forms, step)
    inputs = canary_input
    if pictures is not None:
        spread = np.linspace(0, len(pictures) - 1, min(PARITY_PICTURES, len(pictures))).astype(int)
        inputs = np.concatenate([canary_input, picture_batch([pictures.images[i] for i in spread], spec)])
    with atomic_folder(out) as folder:
        forms.save(folder)
        stored: dict[str, NDArray[np.float32]] = {
            form_key(variant): run_logits(open_session(form, 1, literal=True), canary_input)
            for variant, form in forms.models.items()
        }
        held = _hold(request, folder, spec, forms, inputs, stored, step)
        manifest = _certificate(folder, checkpoint, forms, held, stored, canary)
    timed, reason = None, "no engine was built, as asked; the first run builds it"
    if request.build:
        try:
            choice = choose(
                open_bundle(out),
                backend=request.host_backend,
                threads=request.threads,
                on_step=lambda what: step(what, 0, 0),
            )
            timed, reason = (choice.best.backend, choice.best.precision), choice.reason()
        except (DeviceError, UsageError) as error:
            reason = f"no engine was built here: {error}"
    return DetectorReport(
        bundle=str(out),
        model=spec.name,
        parameters=checkpoint.parameters,
        macs=manifest.checkpoint.macs,
        precisions=tuple(dict.fromkeys(variant.precision for variant in manifest.variants)),
        calibration=(
            f"{forms.calibration.method} ranges of {len(forms.calibration.tensors)} tensors over "
            f"{len(forms.calibration.sample_ids)} pictures of {forms.calibration.source}"
            if forms.calibration is not None
            else None
        ),
        held=tuple(held),
        notes=tuple(forms.notes),
        chosen=timed,
        reason=reason,
        seconds=time.monotonic() - started,
    )


def _refuse(request: CompileRequest) -> None:
    given = {
        "--data": request.data is not None,
        "--min-speedup": request.min_speedup is not None,
        "--precision fp16": request.precision == "fp16",
        "a contract option such as --arch": bool(request.contract.given()),
    }
    if wrong := [option for option, present in given.items() if present]:
        raise UsageError(
            f"{', '.join(wrong)} does not apply to a face detector.",
            fix="Measure its recall with: edge-fer eval --task detection",
        )


def _quantise(request: CompileRequest, spec: DetectorSpec, forms: Forms, step: Progress) -> CalibrationSet | None:
    """Add the int8 forms, with ranges measured on whole pictures; returns those."""
    if request.precision == "fp32":
        return None
    if request.calibration is None:
        if request.precision == "int8":
            raise CalibrationError(
                f"INT8 needs pictures to measure the ranges of {spec.name} on, and none were given.",
                fix="Give a folder with a few hundred pictures, some with faces: --calibration DIR.",
            )
        forms.notes.append("compiled to fp32 only: int8 needs pictures to measure ranges on (--calibration DIR)")
        return None
    step("Reading the calibration set", 0, 0)
    pictures = open_calibration_set(request.calibration)
    forms.calibration_notes = pictures.notes
    forms.notes += [f"calibration: {note}" for note in pictures.notes]
    model = forms.models[FP32]
    graph = Graph(model)
    floating = tuple(sorted(output_layers(graph)))
    plan = plan_quantisation(graph, frozenset(floating))
    batches = partial(calibration_batches, pictures, spec)
    found = measure_ranges(
        model,
        plan,
        pictures,
        batches,
        method=request.method or DETECTOR_METHOD,
        threads=usable_threads(),
        progress=lambda done, total: step("Measuring ranges", done, total),
    )
    if request.bias_correction:
        found = with_shifts(found, model, plan, batches, step)
    forms.calibration = found.model_copy(update={"float_layers": floating})
    step("Quantizing to int8", 0, 0)
    forms.models[INT8_CPU] = cpu_form(forms, floating)
    if request.wants_trt:
        forms.models[INT8_TRT] = quantize_int8(model, plan, found.thresholds(), "trt")
    return pictures


def _outputs(engine: Engine, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    slot, parts = engine.slots[0], []
    for row in inputs:
        slot.inputs[INPUT][0] = row
        engine.submit(slot, 1)
        engine.wait(slot)
        parts.append(slot.outputs[OUTPUT][0].copy())
    return np.stack(parts)


def _hold(
    request: CompileRequest,
    folder: Path,
    spec: DetectorSpec,
    forms: Forms,
    inputs: NDArray[np.float32],
    stored: dict[str, NDArray[np.float32]],
    step: Progress,
) -> list[HeldReport]:
    """Run every backend and precision of this machine over the pictures; the first row of ``inputs`` is the canary.

    An engine that gives no numbers, or that strays from its file, is reported and not certified.

    Raises:
        EdgeFerError: the reference cannot run, or is such an engine.
    """
    decoder = Decoder(spec)
    held: list[HeldReport] = []
    reference: NDArray[np.float32] | None = None
    for candidate in candidates_here(forms.models, request.host_backend):
        step(f"Verifying {candidate.label}", 0, 0)
        try:
            with open_onnx(
                folder / candidate.variant.file,
                spec,
                backend=candidate.backend,
                precision=candidate.precision,
                max_batch=1,
                threads=usable_threads(),
            ) as engine:
                outputs = _outputs(engine, inputs)
            if broken := int((~np.isfinite(outputs)).any(axis=tuple(range(1, outputs.ndim))).sum()):
                raise BadInputError(
                    f"The detector gave NaN or infinite outputs for {broken} of {len(outputs)} pictures."
                )
            expected = stored[canary_key(candidate.backend, candidate.precision)]
            scale = float(np.abs(outputs[:1] if reference is None else reference[:1]).max())
            if (sentence := strayed(candidate, outputs[:1], expected, scale)) is not None:
                raise BadInputError(f"{spec.name} {sentence}.")
        except EdgeFerError as error:
            if (candidate.backend, candidate.precision) == REFERENCE:
                raise
            held.append(HeldReport(backend=candidate.backend, precision=candidate.precision, error=str(error)))
            continue
        canary_gap = float(np.abs(outputs[:1] - expected).max())
        if reference is None:
            reference = outputs
            held.append(HeldReport(backend=candidate.backend, precision=candidate.precision, canary_gap=canary_gap))
            continue
        agreement, box_gap = agree(reference, outputs, lambda raw: suppress(decoder.decode(raw, spec.score)))
        gap = np.abs(reference - outputs)
        record = ParityRecord(
            backend=candidate.backend,
            precision=candidate.precision,
            reference=" ".join(REFERENCE),
            n=len(inputs),
            top1_agreement=agreement,
            max_gap=float(gap.max()),
            mean_gap=float(gap.mean()),
        )
        held.append(
            HeldReport(
                backend=candidate.backend,
                precision=candidate.precision,
                agreement=agreement,
                box_gap_px=box_gap,
                parity=record,
                canary_gap=canary_gap,
            )
        )
    return held


def agree(
    reference: NDArray[np.float32], outputs: NDArray[np.float32], find: Callable[[NDArray[np.float32]], Faces]
) -> tuple[float, float]:
    """(share of finds that both make, largest distance of their corners in pixels) over pictures' raw outputs."""
    both = either = 0
    gap = 0.0
    for first, second in zip(reference, outputs, strict=True):
        a, b = find(first), find(second)
        pairs = iou(a.boxes_xyxy, b.boxes_xyxy)
        same = 0
        while pairs.size and pairs.max() >= SAME_FACE:
            i, j = np.unravel_index(int(pairs.argmax()), pairs.shape)
            gap = max(gap, float(np.abs(a.boxes_xyxy[i] - b.boxes_xyxy[j]).max()))
            pairs[i], pairs[:, j] = -1, -1
            same += 1
        both += same
        either += len(a) + len(b) - same
    return (both / either if either else 1.0), gap


def _certificate(
    folder: Path,
    checkpoint: DetectorCheckpoint,
    forms: Forms,
    held: list[HeldReport],
    stored: dict[str, NDArray[np.float32]],
    canary: NDArray[np.uint8],
) -> BundleManifest:
    names = [variant.file for variant in forms.models]
    write_canary(folder / CANARY_FILE, Canary(canary, stored))
    names.append(CANARY_FILE)
    calibration = record_calibration(folder, forms)
    if calibration is not None:
        names.append(calibration.file)
    sized = _at_size(forms.models[FP32], checkpoint.spec)
    manifest = BundleManifest(
        edge_fer_version=__version__,
        model=checkpoint.spec,
        checkpoint=CheckpointRecord(
            file=checkpoint.path.name,
            sha256=checkpoint.sha256,
            parameters=checkpoint.parameters,
            macs=count_macs(sized),
        ),
        opset=OPSET,
        variants=tuple(forms.models),
        files=record_files(folder, names),
        canary=canary_record(
            float(np.abs(stored["fp32"]).max()), worst_gaps((item.precision, item.canary_gap) for item in held)
        ),
        calibration=calibration,
        parity=tuple(item.parity for item in held if item.parity is not None),
    )
    write_manifest(folder, manifest)
    return manifest


def _at_size(model: ModelProto, spec: DetectorSpec) -> ModelProto:
    """The graph with the contract's own input size written in, to count its arithmetic."""
    sized = ModelProto()
    sized.CopyFrom(model)
    for axis, length in enumerate(spec.input_shape, start=1):
        sized.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length
    return sized
