"""What a bundle carries beside its ONNX files: the canary, the ranges, and the manifest that vouches for all of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_fer import __version__
from edge_fer.backends.dialects import canary_key
from edge_fer.compile.calibrate import open_session, run_logits, write_calibration
from edge_fer.compile.canary_faces import FILE as CANARY_FILE
from edge_fer.compile.canary_faces import canary_images, canary_record, face_batch
from edge_fer.compile.export_onnx import OPSET
from edge_fer.compile.forms import FP32, INT8_CPU, INT8_TRT, Forms
from edge_fer.compile.graph import count_macs
from edge_fer.compile.verify import Logits, Verified
from edge_fer.core.bundle import Canary, record_files, write_canary
from edge_fer.core.manifest import (
    BundleManifest,
    CalibrationRecord,
    CheckpointRecord,
    GateRecord,
    LadderRecord,
    ParityRecord,
    write_manifest,
)
from edge_fer.models.checkpoint import Checkpoint

CALIBRATION_FILE = "calibration.json"


def write_certificate(
    folder: Path,
    checkpoint: Checkpoint,
    forms: Forms,
    verified: Sequence[Verified],
    torch_parity: ParityRecord,
    gate: GateRecord | None,
    ladder: LadderRecord | None = None,
) -> tuple[BundleManifest, dict[str, float]]:
    """Write canary, calibration and manifest beside the ONNX files in ``folder``.

    Returns:
        the manifest, and by candidate's label how far its canary logits lie from the stored ones.
    """
    names = [variant.file for variant in forms.models]
    stored = canary_logits(forms, checkpoint)
    gaps = {item.candidate.label: canary_gap(item, stored) for item in verified if item.canary_logits is not None}
    worst: dict[str, float] = {}
    for item in verified:
        if item.candidate.label in gaps:
            precision = item.candidate.precision
            worst[precision] = max(worst.get(precision, 0.0), gaps[item.candidate.label])
    write_canary(folder / CANARY_FILE, Canary(canary_images(), stored))
    names.append(CANARY_FILE)
    calibration = None
    if forms.calibration is not None:
        write_calibration(folder / CALIBRATION_FILE, forms.calibration)
        names.append(CALIBRATION_FILE)
        calibration = CalibrationRecord(
            method=forms.calibration.method,
            samples=len(forms.calibration.sample_ids),
            source=forms.calibration.source,
            data_sha256=forms.calibration.data_sha256,
            file=CALIBRATION_FILE,
            notes=forms.calibration_notes,
        )
    manifest = BundleManifest(
        edge_fer_version=__version__,
        model=checkpoint.spec,
        checkpoint=CheckpointRecord(
            file=checkpoint.path.name,
            sha256=checkpoint.sha256,
            parameters=checkpoint.parameters,
            macs=count_macs(forms.models[FP32]),
        ),
        opset=OPSET,
        variants=tuple(forms.models),
        files=record_files(folder, names),
        canary=canary_record(float(np.abs(stored["fp32"]).max()), worst),
        calibration=calibration,
        parity=(torch_parity, *(item.parity for item in verified if item.parity is not None)),
        accuracy=tuple(item.accuracy for item in verified if item.accuracy is not None),
        gate=gate,
        ladder=ladder,
    )
    write_manifest(folder, manifest)
    return manifest, gaps


def canary_logits(forms: Forms, checkpoint: Checkpoint) -> dict[str, Logits]:
    """The logits to store: of the graphs executed literally, operator by operator, nothing fused or rewritten."""
    inputs = face_batch(canary_images(), checkpoint.spec.preprocess)
    stored = {"fp32": run_logits(open_session(forms.models[FP32], 1, literal=True), inputs)}
    if INT8_CPU in forms.models:
        stored["int8"] = run_logits(open_session(forms.models[INT8_CPU], 1, literal=True), inputs)
    if INT8_TRT in forms.models:
        # Other grids than the CPU's: what TensorRT is held to.
        stored["int8-trt"] = run_logits(open_session(forms.models[INT8_TRT], 1, literal=True), inputs)
    return stored


def canary_gap(item: Verified, stored: dict[str, Logits]) -> float:
    """Largest difference to the stored logits; half precisions are compared with fp32's."""
    if item.canary_logits is None:
        raise ValueError("the candidate gave no logits")
    expected = stored[canary_key(item.candidate.backend, item.candidate.precision)]
    return float(np.abs(item.canary_logits - expected).max())
