"""checkpoint -> ONNX -> folded -> fp16 or int8 -> verified -> bundle -> engines: the whole of ``edge-fer compile``."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edge_fer.backends.choose import Candidate as Timed
from edge_fer.backends.choose import Choice, candidates, remember
from edge_fer.backends.race import Stopwatch
from edge_fer.backends.registry import open_engine
from edge_fer.compile.calibrate import open_session, run_logits
from edge_fer.compile.certificate import write_certificate
from edge_fer.compile.decide import chosen_trial
from edge_fer.compile.export_onnx import check_parity, compare, export_onnx
from edge_fer.compile.forms import FP16, FP32, Forms, make_forms
from edge_fer.compile.heats import Heats
from edge_fer.compile.ladder import climb
from edge_fer.compile.report import CandidateReport, CompileReport
from edge_fer.compile.request import CompileRequest, check_out
from edge_fer.compile.verify import (
    Progress,
    Verified,
    Verifier,
    canary_samples,
    candidates_here,
)
from edge_fer.core.bundle import Bundle, open_bundle
from edge_fer.core.errors import BadInputError, EdgeFerError
from edge_fer.core.files import atomic_folder
from edge_fer.core.manifest import MANIFEST, LadderRecord, ParityRecord, TrialRecord
from edge_fer.core.threads import usable_threads
from edge_fer.data.datasets import open_dataset
from edge_fer.data.samples import Samples
from edge_fer.evaluate.predict import fill, match_labels
from edge_fer.models.checkpoint import Checkpoint, load_checkpoint

PARITY_SAMPLES = 128
"""How many faces torch and ONNX Runtime are compared on; torch is the slowest engine of all."""
SENSITIVITY_SAMPLES = 64


def compile_model(
    request: CompileRequest, progress: Progress | None = None, stopwatch: Stopwatch | None = None
) -> CompileReport:
    """Compile one checkpoint; the bundle appears whole or not at all.

    Args:
        stopwatch: what times engines; by default they really run (:func:`edge_fer.backends.race.race`).

    Raises:
        EdgeFerError: its subclasses say in one sentence what was wrong with the request, a file or this machine.
    """
    started = time.monotonic()
    step = progress or _silent
    request.check()
    step("Reading the checkpoint", 0, 0)
    checkpoint = load_checkpoint(request.checkpoint, request.contract)
    spec = checkpoint.spec
    out = request.out or Path("engines") / spec.name
    check_out(out)
    data = None
    if request.data is not None:
        data = open_dataset(request.data, request.split)
        match_labels(data, spec.labels)
    step("Exporting to ONNX", 0, 0)
    model = export_onnx(checkpoint.model, spec)
    forms = make_forms(request, spec, model, step)
    if data is not None and data.left_out:
        forms.notes.append(f"test data: {data.left_out_note[0].lower()}{data.left_out_note[1:-1]}")
    heats = Heats(request, spec, step, stopwatch) if request.build and request.backend != "tensorrt" else None
    if heats is not None:
        heats.settle_mixture(forms)
    faces = data if data is not None else (forms.faces.samples() if forms.faces is not None else canary_samples())
    step("Comparing with torch", 0, 0)
    torch_parity = _torch_parity(checkpoint, model, faces)
    if FP16 in forms.models:
        forms.notes.append(_half_sentence(forms, _inputs(checkpoint, faces, PARITY_SAMPLES)))
    with atomic_folder(out) as folder:
        forms.save(folder)
        verifier = Verifier(
            folder,
            spec,
            faces,
            data=_data_name(request),
            threads=usable_threads(),
            max_drop=request.max_drop,
            progress=progress,
        )
        verified = verifier.run(candidates_here(forms.models, request.host_backend))
        blame_on = _inputs(checkpoint, faces, SENSITIVITY_SAMPLES)
        verified, gate, attempts = climb(request, forms, verifier, verified, blame_on, step, heats)
        ladder = heats.verdict(forms, verified, gate, attempts) if heats is not None else None
        manifest, gaps = write_certificate(folder, checkpoint, forms, verified, torch_parity, gate, ladder)
        # What a rung that did not pass left behind must not travel.
        listed = {MANIFEST, *(record.name for record in manifest.files)}
        for stale in [path for path in folder.iterdir() if path.name not in listed]:
            stale.unlink()
    bundle = open_bundle(out)
    chosen, reason = _settle(request, bundle, ladder, step)
    return CompileReport(
        bundle=str(out),
        model=spec.name,
        precisions=tuple(dict.fromkeys(variant.precision for variant in manifest.variants)),
        parameters=checkpoint.parameters,
        macs=manifest.checkpoint.macs,
        checkpoint_bytes=checkpoint.path.stat().st_size,
        file_bytes={variant.file: bundle.record(variant.file).bytes for variant in manifest.variants},
        torch_parity=torch_parity,
        calibration=_calibration_sentence(forms),
        candidates=tuple(_candidate_report(item, bundle, gaps, ladder, chosen) for item in verified),
        gate=gate,
        attempts=tuple(attempts),
        ladder=ladder,
        assumptions=checkpoint.assumptions,
        notes=tuple(forms.notes),
        reason=reason,
        seconds=time.monotonic() - started,
    )


def _silent(what: str, done: int, total: int) -> None:
    pass


def _data_name(request: CompileRequest) -> str | None:
    if request.data is None:
        return None
    return " ".join([request.data.resolve().name, *([request.split] if request.split else [])])


def _inputs(checkpoint: Checkpoint, faces: Samples, count: int) -> NDArray[np.float32]:
    """Up to ``count`` faces, spread evenly over the set, as the network's input."""
    chosen = faces.select(np.linspace(0, len(faces) - 1, min(count, len(faces))).astype(np.int64))
    inputs = np.empty((len(chosen), *checkpoint.spec.input_shape), np.float32)
    fill(inputs, chosen, 0, len(chosen), checkpoint.spec.preprocess)
    return inputs


def _torch_parity(checkpoint: Checkpoint, model: ModelProto, faces: Samples) -> ParityRecord:
    inputs = _inputs(checkpoint, faces, PARITY_SAMPLES)
    parity = check_parity(checkpoint.model, run_logits(open_session(model, 1), inputs), inputs, checkpoint.spec.name)
    return ParityRecord(
        backend="onnxruntime",
        precision="fp32",
        reference="torch fp32",
        n=parity.n,
        top1_agreement=parity.top1_agreement,
        max_gap=parity.max_gap,
        mean_gap=parity.mean_gap,
    )


def _half_sentence(forms: Forms, inputs: NDArray[np.float32]) -> str:
    """What can be said of the fp16 form without the GPU that it is for.

    Raises:
        BadInputError: it gives something else than numbers, although nothing that was seen should overflow.
    """
    before, after = (run_logits(open_session(forms.models[kind], 1), inputs) for kind in (FP32, FP16))
    found = compare(before, after)
    if not np.isfinite(after).all():
        raise BadInputError(
            f"In fp16 this network gives NaN or infinity for {(~np.isfinite(after)).any(axis=1).sum()} of "
            f"{len(after)} faces; nothing was written.",
            fix="Use int8 or fp32.",
        )
    return (
        f"{FP16.file} is for TensorRT on a GPU with fast fp16, and nothing here ran it as it will run there. ONNX "
        "Runtime, whose arithmetic on this CPU is fp32, gives the same label with it as without for "
        f"{found.top1_agreement:.2%} of {len(inputs)} faces, logits within {found.max_gap:.1g}"
    )


def _settle(
    request: CompileRequest, bundle: Bundle, ladder: LadderRecord | None, step: Progress
) -> tuple[tuple[str, str] | None, str]:
    """Build the chosen engine and remember the choice, so that the first ``edge-fer run`` here finds both.

    Returns:
        the chosen (backend, precision), and why it was chosen or why there is none.
    """
    if ladder is None:
        if request.backend == "tensorrt":
            return _settle_gpu(request, bundle, step)
        return None, "no engine was built, as asked; the first run builds it"
    chosen = chosen_trial(ladder)
    if chosen is None:
        return None, ladder.reason
    try:
        open_engine(
            bundle,
            backend=chosen.backend,
            precision=chosen.precision,
            threads=request.threads,
            on_build=lambda what: step(what, 0, 0),
        ).close()
    except EdgeFerError as error:
        return None, f"no engine was built here: {error}"
    rest = [trial for trial in ladder.trials if _in_bundle(trial) and trial is not chosen]
    timed = tuple(
        Timed(
            backend=trial.backend,
            precision=trial.precision,
            median_us=trial.median_us,
            error=trial.why if trial.median_us is None else None,
        )
        for trial in (chosen, *rest)
    )
    # Every run prints this; what lost, and to what, stands in the manifest.
    decided = f"chosen when it was compiled here: {ladder.reason.partition('; ')[0]}"
    remember(bundle, Choice(candidates=timed, decided=decided), backend=request.backend, threads=request.threads)
    return (chosen.backend, chosen.precision), ladder.reason


def _settle_gpu(request: CompileRequest, bundle: Bundle, step: Progress) -> tuple[tuple[str, str] | None, str]:
    """Let TensorRT build the bundle's smallest form, where that was asked for; see :func:`_settle`."""
    if not request.build:
        return None, "TensorRT builds its engine on the machine with the GPU: copy the bundle there"
    offered = {precision for _, precision in candidates(bundle, "tensorrt", "auto")}
    precision = next(kind for kind in ("int8", "fp16", "fp32") if kind in offered)
    open_engine(
        bundle,
        backend="tensorrt",
        precision=precision,
        threads=request.threads,
        on_build=lambda what: step(what, 0, 0),
    ).close()
    return ("tensorrt", precision), "TensorRT was asked for, and this is the smallest form that the GPU gains from"


def _candidate_report(
    item: Verified,
    bundle: Bundle,
    gaps: dict[str, float],
    ladder: LadderRecord | None,
    chosen: tuple[str, str] | None,
) -> CandidateReport:
    key = (item.candidate.backend, item.candidate.precision)
    found = _trial(ladder, key)
    return CandidateReport(
        backend=key[0],
        precision=key[1],
        file_bytes=bundle.record(item.candidate.variant.file).bytes,
        parity=item.parity,
        canary_gap=gaps.get(item.candidate.label),
        accuracy=item.accuracy,
        drop=item.drop.drop if item.drop is not None else None,
        drop_interval=item.drop.interval if item.drop is not None else None,
        median_us=found.median_us if found is not None else None,
        speedup=found.speedup if found is not None else None,
        error=item.error or (found.why if found is not None and found.verdict == "error" else None),
        chosen=key == chosen,
    )


def _trial(ladder: LadderRecord | None, key: tuple[str, str]) -> TrialRecord | None:
    """What was timed of an engine of the bundle."""
    if ladder is None:
        return None
    return next((t for t in ladder.trials if _in_bundle(t) and (t.backend, t.precision) == key), None)


def _in_bundle(trial: TrialRecord) -> bool:
    """Whether the form that was timed became part of the bundle: an int8 form that failed or was left did not."""
    return trial.verdict != "left" and (trial.verdict != "failed" or trial.precision != "int8")


def _calibration_sentence(forms: Forms) -> str | None:
    found = forms.calibration
    if found is None:
        return None
    return f"{found.method} ranges of {len(found.tensors)} tensors over {len(found.sample_ids)} faces of {found.source}"
