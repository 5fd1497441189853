"""The two manifests: of a bundle (portable, mailed around) and of an engine (bound to one machine)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from edge_fer.core.errors import BundleError, UsageError
from edge_fer.core.files import atomic_file
from edge_fer.core.findings import findings
from edge_fer.core.spec import AnySpec, DetectorSpec, EngineSpec, Frozen, ModelSpec

MANIFEST = "manifest.json"
_FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_SHA256 = r"^[0-9a-f]{64}$"


class FileRecord(Frozen):
    """A file of the folder: a plain name, its size in bytes and SHA-256."""

    name: str = Field(pattern=_FILE_NAME)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)


class Variant(Frozen):
    """One ONNX form of the network. ``dialect`` tells int8 forms apart: ``cpu`` (for CPUs) or ``trt``."""

    precision: Literal["fp32", "fp16", "int8"]
    dialect: Literal["any", "cpu", "trt"] = "any"
    file: str = Field(pattern=_FILE_NAME)


class CheckpointRecord(Frozen):
    """Where the weights came from. ``macs`` are multiply-accumulates of one sample, convolutions and dense layers."""

    file: str
    sha256: str = Field(pattern=_SHA256)
    parameters: int = Field(gt=0)
    macs: int = Field(gt=0)


class CalibrationRecord(Frozen):
    """How the int8 ranges were found. ``data_sha256`` covers the sample ids and their pixels, in order; ``notes`` are
    findings about them that did not forbid their use, as sentences."""

    method: str
    samples: int = Field(gt=0)
    source: str
    data_sha256: str = Field(pattern=_SHA256)
    file: str = Field(pattern=_FILE_NAME)
    notes: tuple[str, ...] = ()


class AccuracyRecord(Frozen):
    """Accuracy of one variant on one backend. Fractions in 0..1; the interval is a 95 % bootstrap of top-1."""

    backend: str
    precision: str
    data: str
    n: int = Field(gt=0)
    top1: float = Field(ge=0, le=1)
    top1_interval: tuple[float, float]
    macro_f1: float = Field(ge=0, le=1)
    per_class_recall: dict[str, float]


class ParityRecord(Frozen):
    """Agreement of a variant with the reference, over ``n`` inputs; gaps are of logits."""

    backend: str
    precision: str
    reference: str
    n: int = Field(gt=0)
    top1_agreement: float = Field(ge=0, le=1)
    max_gap: float = Field(ge=0)
    mean_gap: float = Field(ge=0)


class GateRecord(Frozen):
    """The accuracy gate that int8 had to pass: ``max_drop`` in percentage points of top-1.

    ``harmed_classes`` holds the classes whose recall fell by more than that, and by more than chance explains; the
    values are points of recall. Any of them fails the gate.
    """

    max_drop: float = Field(ge=0)
    applied: bool
    drop: float | None = None
    drop_interval: tuple[float, float] | None = None
    n: int | None = None
    harmed_classes: dict[str, float] = Field(default_factory=dict)
    passed: bool | None = None


class TrialRecord(Frozen):
    """One engine that was timed when the bundle was made.

    Attributes:
        float_layers: of int8, the layers that this form computes in floating point.
        median_us: latency of one face: the median over rounds of each round's median. Of a form that was tried before
            the last race: that race's fp32 by ``speedup``.
        speedup: how many times as fast as the fastest fp32 engine: the median over rounds of the ratio in a round.
        speedup_range: the smallest and the largest of these ratios.
        verdict: ``slower`` means allowed and not the fastest; ``refused`` less gain than was asked for; ``failed`` the
            accuracy gate; ``left`` a form that another int8 form outran when both were tried;
            ``error`` cannot run here.
        why: the sentence for people.
    """

    backend: str
    precision: str
    float_layers: tuple[str, ...] = ()
    median_us: float | None = Field(default=None, gt=0)
    speedup: float | None = Field(default=None, gt=0)
    speedup_range: tuple[float, float] | None = None
    verdict: Literal["chosen", "slower", "refused", "failed", "left", "error"]
    why: str


class LadderRecord(Frozen):
    """What was timed when the bundle was made, on which device, and why the winner won. ``min_speedup`` is the least
    gain over fp32 that was asked for."""

    device: str
    threads: int = Field(ge=1)
    rounds: int = Field(ge=0)
    min_speedup: float | None = None
    trials: tuple[TrialRecord, ...]
    reason: str


class CanaryRecord(Frozen):
    """A stored input and its logits. ``tolerance`` is the largest accepted logit gap, per precision."""

    file: str = Field(pattern=_FILE_NAME)
    tolerance: dict[str, float]


class _OfModel(Frozen):
    """What both manifests say of the network."""

    model: EngineSpec

    @property
    def classifier(self) -> ModelSpec:
        """The contract of an expression network.

        Raises:
            UsageError: it is a detector.
        """
        if not isinstance(self.model, ModelSpec):
            raise UsageError(
                f"{self.model.name} is a face detector, not an expression network.",
                fix="Use it with: edge-fer run --detector edge-fer-face, or =FOLDER after it for one of your own.",
            )
        return self.model

    @property
    def detector(self) -> DetectorSpec:
        """The contract of a face detector.

        Raises:
            UsageError: it is an expression network.
        """
        if not isinstance(self.model, DetectorSpec):
            raise UsageError(
                f"{self.model.name} is an expression network, not a face detector.",
                fix=f"Use it with: edge-fer run --engine {self.model.name}",
            )
        return self.model


class BundleManifest(_OfModel):
    """``manifest.json`` of a bundle: contract, files with hashes, and everything that was measured on them."""

    kind: Literal["edge-fer-bundle"] = "edge-fer-bundle"
    format: Literal[1] = 1
    model: AnySpec
    edge_fer_version: str
    checkpoint: CheckpointRecord
    opset: int = Field(ge=13)
    variants: tuple[Variant, ...] = Field(min_length=1)
    files: tuple[FileRecord, ...]
    canary: CanaryRecord
    calibration: CalibrationRecord | None = None
    parity: tuple[ParityRecord, ...] = ()
    accuracy: tuple[AccuracyRecord, ...] = ()
    gate: GateRecord | None = None
    ladder: LadderRecord | None = None


class EngineManifest(_OfModel):
    """``manifest.json`` of a built engine. All fields of ``key`` must match this machine, or it is rebuilt."""

    kind: Literal["edge-fer-engine"] = "edge-fer-engine"
    format: Literal[1] = 1
    bundle_sha256: str = Field(pattern=_SHA256)
    variant_sha256: str = Field(pattern=_SHA256)
    backend: str
    backend_version: str
    device: str
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    max_batch: int = Field(ge=1)
    files: tuple[FileRecord, ...]
    canary: CanaryRecord


_M = TypeVar("_M", BundleManifest, EngineManifest)


def read_manifest(folder: Path, kind: type[_M]) -> _M:
    """Read and validate ``folder/manifest.json``.

    Raises:
        BundleError: the folder or file is missing, not JSON, of another kind or version, or has wrong fields.
    """
    path = folder / MANIFEST
    content = b""
    try:
        content = path.read_bytes()
        return kind.model_validate_json(content)
    except FileNotFoundError:
        raise BundleError(
            f"{folder} is not a bundle or engine: it has no {MANIFEST}.",
            fix="Make one with: edge-fer compile CHECKPOINT",
        ) from None
    except OSError as error:
        raise BundleError(f"Cannot read {path}: {error.strerror}.") from None
    except ValidationError as error:
        if (newer := _newer_format(content, kind)) is not None:
            raise BundleError(
                f"{folder} has format {newer}, which a newer edge-fer wrote; this one reads format {_known(kind)}.",
                fix="Install the newer edge-fer, or compile the checkpoint again with this one.",
            ) from None
        raise BundleError(
            f"{path} is not a valid manifest: {findings(error, kind, first=True)}.",
            fix="Compile the bundle again: edge-fer compile CHECKPOINT",
        ) from None


def _newer_format(content: bytes, kind: type[_M]) -> int | None:
    """The format that a manifest says it has, when that is beyond what this version knows."""
    try:
        manifest = json.loads(content)
    except ValueError:
        return None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    return found if isinstance(found, int) and found > _known(kind) else None


def _known(kind: type[_M]) -> int:
    return int(kind.model_fields["format"].default)


def write_manifest(folder: Path, manifest: BundleManifest | EngineManifest) -> None:
    """Write ``folder/manifest.json``, readable by people, replaced in one step."""
    with atomic_file(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
