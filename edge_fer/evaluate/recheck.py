"""Repeat a bundle's certificate on this machine: files, canary on every engine, accuracy where data is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_fer.backends.canary import canary_gap
from edge_fer.backends.choose import candidates
from edge_fer.backends.registry import open_engine
from edge_fer.core.bundle import Bundle, open_bundle
from edge_fer.core.errors import EdgeFerError
from edge_fer.core.spec import Frozen
from edge_fer.data.samples import Samples
from edge_fer.evaluate.predict import match_labels, predict

ACCURACY_SLACK = 0.003
"""Top-1 may differ by this fraction from the recorded one: other CPUs round differently, and near ties turn."""


class Check(Frozen):
    """One finding. ``detail`` has the figures; a failed check says what was expected."""

    subject: str
    passed: bool
    detail: str


def recheck(
    path: Path, *, threads: int = 1, samples: Samples | None = None, progress: Callable[[str], None] = lambda text: None
) -> list[Check]:
    """Check a bundle's files, then run its canary (and ``samples``) on every backend and precision of this machine.

    Engines are built afresh into a temporary cache, so that nothing remembered can pass for a check.

    Raises:
        BundleError: the folder is no bundle, or a file is not what the manifest records.
    """
    import tempfile

    bundle = open_bundle(path)
    manifest = bundle.manifest
    size = sum(record.bytes for record in manifest.files)
    checks = [
        Check(subject="files", passed=True, detail=f"{len(manifest.files)} files, {size / 1e6:.1f} MB, as recorded")
    ]
    if samples is not None:
        match_labels(samples, manifest.classifier.labels)
    with tempfile.TemporaryDirectory(prefix="edge-fer-verify-", ignore_cleanup_errors=True) as cache:
        for backend, precision in candidates(bundle, "auto", "auto"):
            progress(f"{backend} {precision}")
            checks += _engine(bundle, backend, precision, threads, samples, Path(cache))
    return checks


def _engine(
    bundle: Bundle, backend: str, precision: str, threads: int, samples: Samples | None, cache: Path
) -> list[Check]:
    subject = f"{backend} {precision}"
    try:
        with open_engine(bundle, backend=backend, precision=precision, threads=threads, cache=cache) as engine:
            gap, tolerance = canary_gap(engine, bundle.canary()), bundle.manifest.canary.tolerance[precision]
            found = [
                Check(
                    subject=f"{subject} canary",
                    passed=gap <= tolerance,
                    detail=f"largest logit gap {gap:.2g}, accepted {tolerance:.2g}",
                )
            ]
            if samples is not None:
                labels = match_labels(samples, engine.manifest.classifier.labels)
                hits = predict(engine, samples, engine.manifest.classifier.preprocess).argmax(axis=1) == labels
                found.append(_accuracy(bundle, backend, precision, float(hits.mean()), len(labels)))
            return found
    except EdgeFerError as error:
        return [Check(subject=f"{subject} canary", passed=False, detail=str(error))]


def _accuracy(bundle: Bundle, backend: str, precision: str, top1: float, n: int) -> Check:
    subject = f"{backend} {precision} accuracy"
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
