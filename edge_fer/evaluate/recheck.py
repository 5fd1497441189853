"""Repeat a bundle's certificate on this machine: files, canary, speed; with faces accuracy, parity and gate too."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_fer.backends.canary import canary_gap
from edge_fer.backends.choose import candidates
from edge_fer.backends.dialects import DIALECTS
from edge_fer.backends.race import Entrant, Stopwatch, race
from edge_fer.backends.registry import backend_module, open_engine
from edge_fer.core.bundle import Bundle, open_bundle
from edge_fer.core.errors import EdgeFerError
from edge_fer.core.spec import Frozen
from edge_fer.data.samples import Samples
from edge_fer.evaluate.metrics import harmed_classes, paired_drop
from edge_fer.evaluate.predict import match_labels, predict

ACCURACY_SLACK = 0.003
"""Top-1 may differ by this fraction from the recorded one: other CPUs round differently, and near ties turn."""
AGREEMENT_SLACK = 0.005
"""The share of faces with the label of fp32 may be smaller than the recorded one by this fraction, likewise."""
REFERENCE = ("onnxruntime", "fp32")
"""What a certificate compares the others with: it is in the base installation, and was itself compared with torch."""

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


class Check(Frozen):
    """One finding. ``detail`` has the figures; a failed check says what was expected."""

    subject: str
    passed: bool
    detail: str


def recheck(
    path: Path,
    *,
    threads: int = 1,
    samples: Samples | None = None,
    timing: bool = True,
    stopwatch: Stopwatch = race,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Check]:
    """Check a bundle's files, run its canary (and ``samples``) on every backend and precision here, and time them.

    Engines are built afresh into a temporary cache, so that nothing remembered can pass for a check.

    Args:
        samples: the labelled faces of the certificate; without them accuracy, parity and gate are not repeated.
        timing: whether to repeat what was timed, too.
        stopwatch: what times; tests give their own times.

    Raises:
        BundleError: the folder is no bundle, or a file is not what the manifest records.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    size = sum(record.bytes for record in manifest.files)
    checks = [
        Check(subject="files", passed=True, detail=f"{len(manifest.files)} files, {size / 1e6:.1f} MB, as recorded")
    ]
    checks += _calibration(bundle)
    labels = match_labels(samples, manifest.classifier.labels) if samples is not None else None
    logits: dict[tuple[str, str], Logits] = {}
    pairs = sorted(candidates(bundle, "auto", "auto"), key=lambda pair: pair != REFERENCE)
    with tempfile.TemporaryDirectory(prefix="edge-fer-verify-", ignore_cleanup_errors=True) as cache:
        for backend, precision in pairs:
            progress(f"{backend} {precision}")
            checks += _engine(bundle, backend, precision, threads, samples, Path(cache), logits)
    if labels is not None:
        for pair, found in logits.items():
            checks += [_accuracy(bundle, *pair, found, labels), *_parity(bundle, pair, found, logits.get(REFERENCE))]
        checks += _gate(bundle, logits, labels)
    if timing:
        progress("speed")
        checks += _speed(bundle, pairs, threads, stopwatch)
    return checks


def _calibration(bundle: Bundle) -> list[Check]:
    """The ranges are those that the manifest speaks of; that they are unchanged, their hash has proved."""
    record = bundle.manifest.calibration
    if record is None:
        return []
    try:
        stored = json.loads(bundle.file(record.file).read_bytes())
        found = (stored["method"], len(stored["sample_ids"]), stored["data_sha256"])
    except (KeyError, ValueError, TypeError) as error:
        return [Check(subject="calibration", passed=False, detail=f"{record.file} cannot be read: {error}")]
    return [
        Check(
            subject="calibration",
            passed=found == (record.method, record.samples, record.data_sha256),
            detail=f"{found[0]} ranges over {found[1]} faces of {record.source}, data {found[2][:8]}; "
            f"recorded {record.method}, {record.samples}, {record.data_sha256[:8]}",
        )
    ]


def _engine(
    bundle: Bundle,
    backend: str,
    precision: str,
    threads: int,
    samples: Samples | None,
    cache: Path,
    logits: dict[tuple[str, str], Logits],
) -> list[Check]:
    """Run the canary, and the samples, whose logits are added to ``logits``."""
    subject = f"{backend} {precision} canary"
    try:
        with open_engine(bundle, backend=backend, precision=precision, threads=threads, cache=cache) as engine:
            gap, tolerance = canary_gap(engine, bundle.canary()), bundle.manifest.canary.tolerance[precision]
            if samples is not None:
                logits[backend, precision] = predict(engine, samples, engine.manifest.classifier.preprocess)
    except EdgeFerError as error:
        return [Check(subject=subject, passed=False, detail=str(error))]
    return [
        Check(subject=subject, passed=gap <= tolerance, detail=f"largest logit gap {gap:.2g}, accepted {tolerance:.2g}")
    ]


def _accuracy(bundle: Bundle, backend: str, precision: str, logits: Logits, labels: Labels) -> Check:
    subject, n = f"{backend} {precision} accuracy", len(labels)
    top1 = float((logits.argmax(axis=1) == labels).mean())
    recorded = [a for a in bundle.manifest.accuracy if (a.backend, a.precision) == (backend, precision)]
    if not recorded:
        return Check(
            subject=subject, passed=True, detail=f"top-1 {top1:.2%} of {n} faces; none is recorded to compare with"
        )
    (certified,) = recorded
    if certified.n != n:
        return Check(
            subject=subject,
            passed=False,
            detail=f"{n} faces were given, the certificate is of {certified.n} ({certified.data})",
        )
    return Check(
        subject=subject,
        passed=abs(top1 - certified.top1) <= ACCURACY_SLACK,
        detail=f"top-1 {top1:.2%} of {n} faces, certified {certified.top1:.2%}",
    )


def _parity(bundle: Bundle, pair: tuple[str, str], logits: Logits, reference: Logits | None) -> list[Check]:
    """The share of faces with the same label as fp32 is not smaller than the certificate says."""
    recorded = [
        p for p in bundle.manifest.parity if (p.backend, p.precision) == pair and p.reference == " ".join(REFERENCE)
    ]
    if not recorded or reference is None or pair == REFERENCE:
        return []
    agreement = float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean())
    certified = recorded[0].top1_agreement
    return [
        Check(
            subject=f"{pair[0]} {pair[1]} parity",
            passed=agreement >= certified - AGREEMENT_SLACK,
            detail=f"the label of fp32 for {agreement:.2%} of {len(logits)} faces, certified {certified:.2%} of "
            f"{recorded[0].n}",
        )
    ]


def _gate(bundle: Bundle, logits: dict[tuple[str, str], Logits], labels: Labels) -> list[Check]:
    """Hold int8 against the gate that the bundle was made with."""
    gate, reference = bundle.manifest.gate, logits.get(REFERENCE)
    if gate is None or not gate.applied or reference is None:
        return []
    checks = []
    before = reference.argmax(axis=1)
    for (backend, precision), found in logits.items():
        if precision != "int8":
            continue
        after = found.argmax(axis=1)
        drop = paired_drop(labels, before, after)
        harmed = harmed_classes(labels, before, after, bundle.manifest.classifier.labels, gate.max_drop)
        classes = ", ".join(f"{name} {lost.drop:.1f}" for name, lost in harmed.items())
        checks.append(
            Check(
                subject=f"{backend} int8 gate",
                passed=drop.drop <= gate.max_drop and not harmed,
                detail=f"loses {drop.drop:+.2f} points ({drop.interval[0]:+.2f} to {drop.interval[1]:+.2f}), allowed "
                f"{gate.max_drop:g}" + (f"; classes lose recall: {classes}" if classes else "; no class is harmed"),
            )
        )
    return checks


def _speed(bundle: Bundle, pairs: list[tuple[str, str]], threads: int, stopwatch: Stopwatch) -> list[Check]:
    """How many times as fast as fp32 the engines are here, in one interleaved race.

    A speed is a property of a machine, so only a gain that was asked for can be missed, and only by what was chosen.
    """
    ladder = bundle.manifest.ladder
    entrants = [
        Entrant(
            f"{backend} {precision}",
            bundle.file(bundle.variant(backend_module(backend, "build").onnx_form(precision), DIALECTS[backend]).file),
            backend,
            precision,
        )
        for backend, precision in pairs
    ]
    timings = stopwatch(entrants, bundle.manifest.model, threads=threads, progress=None)
    timed = [(e, t) for e, t in zip(entrants, timings, strict=True) if t.median_us is not None]
    floats = [(e, t) for e, t in timed if e.precision == "fp32"]
    if not floats:
        return []
    _, baseline = min(floats, key=lambda pair: pair[1].median_us or 0.0)
    chosen = next((t for t in ladder.trials if t.verdict == "chosen"), None) if ladder is not None else None
    checks = []
    for entrant, timing in timed:
        gain = statistics.median(a / b for a, b in zip(baseline.rounds_us, timing.rounds_us, strict=False))
        detail = f"{(timing.median_us or 0.0) / 1e3:.3f} ms a face, {gain:.2f} times as fast as the fastest fp32"
        is_chosen = chosen is not None and (entrant.backend, entrant.precision) == (chosen.backend, chosen.precision)
        wanted = ladder.min_speedup if ladder is not None and is_chosen and entrant.precision != "fp32" else None
        if is_chosen and chosen is not None and chosen.speedup is not None:
            detail += f"; chosen with {chosen.speedup:.2f}"
        if wanted is not None:
            detail += f", wanted {wanted:g}"
        checks.append(Check(subject=f"{entrant.name} speed", passed=wanted is None or gain >= wanted, detail=detail))
    return checks
