"""What a bundle carries beside its ONNX files: the canary, the ranges, and the manifest that vouches for all of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    worst = worst_gaps((item.candidate.precision, gaps.get(item.candidate.label)) for item in verified)
    write_canary(folder / CANARY_FILE, Canary(canary_images(), stored))
    names.append(CANARY_FILE)
    calibration = record_calibration(folder, forms)
    if calibration is not None:
        names.append(calibration.file)
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


def worst_gaps(gaps: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """The largest canary gap by precision, of (precision, gap) of every engine; ``None`` where one gave nothing."""
    worst: dict[str, float] = {}
    for precision, gap in gaps:
        if gap is not None:
            worst[precision] = max(worst.get(precision, 0.0), gap)
    return worst


def record_calibration(folder: Path, forms: Forms) -> CalibrationRecord | None:
    """Write the ranges into ``folder``; returns what the manifest says of them, or ``None`` where there are none."""
    found = forms.calibration
    if found is None:
        return None
    write_calibration(folder / CALIBRATION_FILE, found)
    return CalibrationRecord(
        method=found.method,
        samples=len(found.sample_ids),
        source=found.source,
        data_sha256=found.data_sha256,
        file=CALIBRATION_FILE,
        notes=forms.calibration_notes,
    )


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
