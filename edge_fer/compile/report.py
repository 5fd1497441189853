"""What ``edge-fer compile`` tells: the same facts for the table and for ``--json``."""

from __future__ import annotations

from pydantic import Field

from edge_fer.core.manifest import AccuracyRecord, GateRecord, LadderRecord, ParityRecord
from edge_fer.core.spec import Frozen


class CandidateReport(Frozen):
    """One backend in one precision. ``median_us`` is the latency of one face here, ``speedup`` how many times as fast
    as the fastest fp32 engine that is; ``error`` says why it cannot run.

    ``drop`` is the loss of top-1 against fp32 in percentage points, with its paired 95 % bootstrap interval.
    """

    backend: str
    precision: str
    file_bytes: int
    parity: ParityRecord | None = None
    canary_gap: float | None = None
    accuracy: AccuracyRecord | None = None
    drop: float | None = None
    drop_interval: tuple[float, float] | None = None
    median_us: float | None = None
    speedup: float | None = None
    error: str | None = None
    chosen: bool = False


class AttemptReport(Frozen):
    """One try of the ladder: ``how`` its form was found, layers kept in fp32, the worst drop that was left, and the
    points of recall that classes lost beyond what was allowed and what chance explains."""

    how: str
    float_layers: tuple[str, ...]
    drop: float
    drop_interval: tuple[float, float]
    harmed_classes: dict[str, float] = Field(default_factory=dict)
    passed: bool


class HeldReport(Frozen):
    """One engine of a detector against the reference, picture by picture; ``error`` says why there is nothing.

    Attributes:
        agreement: share of the faces that either of the two finds and both do, at IoU 0.7; 1 when neither finds any.
            ``None`` for the reference itself.
        box_gap_px: the largest distance between corners of the same face, in pixels of the input.
        canary_gap: the largest difference to the stored outputs.
    """

    backend: str
    precision: str
    agreement: float | None = None
    box_gap_px: float | None = None
    parity: ParityRecord | None = None
    canary_gap: float | None = None
    error: str | None = None


class DetectorReport(Frozen):
    """The outcome of compiling a face detector; the attributes are as in :class:`CompileReport`."""

    bundle: str
    model: str
    precisions: tuple[str, ...]
    parameters: int
    macs: int
    calibration: str | None
    held: tuple[HeldReport, ...]
    notes: tuple[str, ...]
    chosen: tuple[str, str] | None
    reason: str
    seconds: float


class CompileReport(Frozen):
    """The outcome of a compilation.

    Attributes:
        bundle: the folder that was written.
        assumptions: what the checkpoint did not say.
        notes: what else the user should know.
        torch_parity: the ONNX graph in ONNX Runtime against torch.
        attempts: what the ladder tried, when the first int8 form did not pass the gate.
        ladder: what was timed here, and what came of it; ``None`` when nothing was timed.
        file_bytes: of every ONNX file.
        reason: why the chosen candidate was chosen.
    """

    bundle: str
    model: str
    precisions: tuple[str, ...]
    parameters: int
    macs: int
    checkpoint_bytes: int
    file_bytes: dict[str, int]
    torch_parity: ParityRecord
    calibration: str | None
    candidates: tuple[CandidateReport, ...]
    gate: GateRecord | None
    attempts: tuple[AttemptReport, ...]
    ladder: LadderRecord | None
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    reason: str
    seconds: float
