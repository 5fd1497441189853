"""What ``edge-fer compile`` tells: the same facts for the table and for ``--json``."""

from __future__ import annotations

from edge_fer.core.manifest import AccuracyRecord, GateRecord, ParityRecord
from edge_fer.core.spec import Frozen


class CandidateReport(Frozen):
    """One backend in one precision. ``median_us`` is the latency of one face here; ``error`` says why it cannot run.

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
    error: str | None = None
    chosen: bool = False


class AttemptReport(Frozen):
    """One try of the ladder: layers kept in fp32, and the worst drop that was left."""

    float_layers: tuple[str, ...]
    drop: float
    drop_interval: tuple[float, float]
    passed: bool


class CompileReport(Frozen):
    """The outcome of a compilation.

    Attributes:
        bundle: the folder that was written.
        assumptions: what the checkpoint did not say.
        notes: what else the user should know.
        torch_parity: the ONNX graph in ONNX Runtime against torch.
        attempts: what the ladder tried, when the first int8 form did not pass the gate.
        reason: why the chosen candidate was chosen.
    """

    bundle: str
    model: str
    precisions: tuple[str, ...]
    parameters: int
    macs: int
    checkpoint_bytes: int
    torch_parity: ParityRecord
    calibration: str | None
    candidates: tuple[CandidateReport, ...]
    gate: GateRecord | None
    attempts: tuple[AttemptReport, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    reason: str
    seconds: float
