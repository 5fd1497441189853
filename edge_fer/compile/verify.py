"""Prove a bundle before it is written: every backend here, in every precision, against the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_fer.backends.dialects import DIALECTS
from edge_fer.backends.onnxruntime.literal import literal_outputs
from edge_fer.backends.registry import BACKENDS, backend_module, open_onnx
from edge_fer.compile.canary_faces import CEILING, canary_images, face_batch
from edge_fer.compile.export_onnx import compare
from edge_fer.core.errors import EdgeFerError
from edge_fer.core.manifest import AccuracyRecord, GateRecord, ParityRecord, Variant
from edge_fer.core.spec import ModelSpec
from edge_fer.data.samples import Samples
from edge_fer.evaluate.metrics import PairedDrop, compute_metrics, harmed_classes, paired_drop
from edge_fer.evaluate.predict import match_labels, predict, softmax
from edge_fer.evaluate.recheck import REFERENCE

BATCH = 8

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, samples done, samples in all); 0 in all means: no count."""

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """One way to run the bundle on this machine, and the form that it reads."""

    backend: str
    precision: str
    variant: Variant

    @property
    def label(self) -> str:
        return f"{self.backend} {self.precision}"


@dataclass(frozen=True)
class Verified:
    """What one candidate gave; ``error`` says why there is nothing.

    Attributes:
        canary_logits: float32 (k, classes).
        parity: agreement with the reference on the verification faces; ``None`` for the reference itself.
        accuracy, drop: on labelled data only; the drop is against the reference, on the same faces.
        harmed: points of recall lost by each class that lost more than was allowed and than chance explains.
    """

    candidate: Candidate
    canary_logits: Logits | None = None
    parity: ParityRecord | None = None
    accuracy: AccuracyRecord | None = None
    drop: PairedDrop | None = None
    harmed: dict[str, float] = field(default_factory=dict)
    error: str | None = None


def candidates_here(variants: Iterable[Variant], backend: str) -> list[Candidate]:
    """Installed backends and the precisions that they really compute in on this machine; ``auto`` means every backend.

    The reference comes first, whatever backend was asked for.
    """
    forms = list(variants)
    found = []
    for name in BACKENDS:
        build = backend_module(name, "build")
        if build.version() is None:
            continue
        for precision in build.precisions():
            if backend not in ("auto", name) and (name, precision) != REFERENCE:
                continue
            form = build.onnx_form(precision)
            variant = next((v for v in forms if v.precision == form and v.dialect in ("any", DIALECTS[name])), None)
            if variant is not None:
                found.append(Candidate(name, precision, variant))
    return sorted(found, key=lambda c: (c.backend, c.precision) != REFERENCE)


def strayed(
    candidate: Candidate, outputs: NDArray[np.float32], expected: NDArray[np.float32], scale: float
) -> str | None:
    """Why an engine does not compute its file, as a sentence; ``None`` when it does.

    Args:
        outputs: of the engine for the canary.
        expected: what the file gives for it, of the same shape.
        scale: the largest magnitude among the reference's outputs.
    """
    gap = float(np.abs(outputs - expected).max())
    accepted = CEILING[candidate.precision] * max(1.0, scale)
    if gap <= accepted:  # which a gap that is no number is not
        return None
    return (
        f"computes something else than its file: outputs for the canary differ by {gap:.3g}, accepted is "
        f"{accepted:.3g}; {candidate.backend} rounds or computes this network otherwise, so it is not certified "
        "and `edge-fer run` refuses it: use another backend or precision"
    )


def canary_samples() -> Samples:
    """The shipped faces as samples; their labels mean nothing."""
    images = canary_images()
    names = tuple(f"canary-{i}" for i in range(len(images)))
    return Samples(names, np.zeros(len(images), np.int64), ("face",), lambda i: images[i], "the canary faces")


class Verifier:
    """Runs candidates over the canary and over the verification faces, and compares them with the first one."""

    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        faces: Samples,
        *,
        data: str | None,
        threads: int,
        max_drop: float = 0.5,
        progress: Progress | None = None,
    ) -> None:
        """
        Args:
            folder: where the forms lie.
            faces: the dataset, the calibration set, or the canary faces: the best real faces at hand.
            data: name of the dataset when ``faces`` are labelled, else ``None``.
            max_drop: points of recall that a class may lose.
        """
        self.folder, self.spec, self.faces, self.data = folder, spec, faces, data
        self.threads, self.max_drop, self.progress = threads, max_drop, progress
        self.labels = match_labels(faces, spec.labels) if data is not None else None
        self.canary = canary_samples()
        self.reference: Logits | None = None
        self._canary_reference: Logits | None = None

    def run(self, candidates: Sequence[Candidate]) -> list[Verified]:
        """Verify each candidate; one that cannot run here is reported, unless it is the reference.

        Raises:
            EdgeFerError: the reference cannot run.
        """
        return [self._run(candidate) for candidate in candidates]

    def _run(self, candidate: Candidate) -> Verified:
        is_reference = (candidate.backend, candidate.precision) == REFERENCE
        try:
            with open_onnx(
                self.folder / candidate.variant.file,
                self.spec,
                backend=candidate.backend,
                precision=candidate.precision,
                max_batch=BATCH,
                threads=self.threads,
                slots=2,
            ) as engine:
                canary_logits = predict(engine, self.canary, self.spec.preprocess)
                logits = predict(engine, self.faces, self.spec.preprocess, self._counter(candidate))
        except EdgeFerError as error:
            if is_reference:
                raise
            return Verified(candidate, error=str(error))
        if is_reference:
            self.reference, self._canary_reference = logits, canary_logits
            return Verified(candidate, canary_logits, accuracy=self._accuracy(candidate, logits))
        if self.reference is None:
            raise ValueError("the reference must be verified first")
        if (strayed := self._strayed(candidate, canary_logits)) is not None:
            return Verified(candidate, error=strayed)
        parity = compare(self.reference, logits)
        record = ParityRecord(
            backend=candidate.backend,
            precision=candidate.precision,
            reference=" ".join(REFERENCE),
            n=parity.n,
            top1_agreement=parity.top1_agreement,
            max_gap=parity.max_gap,
            mean_gap=parity.mean_gap,
        )
        drop: PairedDrop | None = None
        harmed: dict[str, float] = {}
        if self.labels is not None:
            before, after = self.reference.argmax(axis=1), logits.argmax(axis=1)
            drop = paired_drop(self.labels, before, after)
            found = harmed_classes(self.labels, before, after, self.spec.labels, self.max_drop)
            harmed = {name: lost.drop for name, lost in found.items()}
        return Verified(candidate, canary_logits, record, self._accuracy(candidate, logits), drop, harmed)

    def _strayed(self, candidate: Candidate, canary_logits: Logits) -> str | None:
        """Why an engine does not compute its file: ``run`` would refuse it for the same reason (the canary)."""
        reference = self._canary_reference
        if reference is None:
            raise ValueError("the reference must be verified first")
        expected = reference
        if candidate.precision == "int8":
            faces = face_batch(canary_images(), self.spec.preprocess)
            expected = literal_outputs(self.folder / candidate.variant.file, faces)
        return strayed(candidate, canary_logits, expected, float(np.abs(reference).max()))

    def _accuracy(self, candidate: Candidate, logits: Logits) -> AccuracyRecord | None:
        if self.labels is None or self.data is None:
            return None
        metrics = compute_metrics(self.labels, softmax(logits), self.spec.labels)
        return AccuracyRecord(
            backend=candidate.backend,
            precision=candidate.precision,
            data=self.data,
            n=metrics.n,
            top1=metrics.top1,
            top1_interval=metrics.top1_interval,
            macro_f1=metrics.macro_f1,
            per_class_recall={name: found.recall for name, found in metrics.per_class.items() if found.support},
        )

    def _counter(self, candidate: Candidate) -> Callable[[int, int], None] | None:
        progress = self.progress
        if progress is None:
            return None
        return lambda done, total: progress(f"Verifying {candidate.label}", done, total)


def gate_record(verified: Sequence[Verified], max_drop: float, *, applied: bool) -> GateRecord:
    """Hold the worst int8 candidate against the gate. ``passed`` is ``None`` when nothing labelled was given."""
    drops = [
        (item.drop, item.accuracy.n)
        for item in verified
        if item.candidate.precision == "int8" and item.drop is not None and item.accuracy is not None
    ]
    if not drops:
        return GateRecord(max_drop=max_drop, applied=False)
    worst, n = max(drops, key=lambda pair: pair[0].drop)
    harmed: dict[str, float] = {}
    for item in verified:
        if item.candidate.precision == "int8":
            harmed |= {name: max(lost, harmed.get(name, lost)) for name, lost in item.harmed.items()}
    return GateRecord(
        max_drop=max_drop,
        applied=applied,
        drop=worst.drop,
        drop_interval=worst.interval,
        n=n,
        harmed_classes=harmed,
        passed=worst.drop <= max_drop and not harmed,
    )
