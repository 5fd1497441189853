"""Results made by hand from samples, for what needs no measuring: ratios, reports, comparisons."""

from __future__ import annotations

from collections.abc import Sequence

from edge_fer.bench.camera import CameraResult, Spread, Window
from edge_fer.bench.conditions import Conditions
from edge_fer.bench.device import Machine
from edge_fer.bench.measure import Outcome
from edge_fer.bench.plan import CameraPlan, Case, Plan
from edge_fer.bench.results import BenchResult, Surroundings, summarise

PLAN = Plan.model_validate(
    {
        "name": "test",
        "models": [{"name": "m", "bundle": "m"}],
        "run": ["torch:fp32", "onnxruntime:fp32", "openvino:int8"],
        "rounds": 3,
        "min_seconds": 0.02,
    }
)
MACHINE = Machine(
    system="Linux",
    python="CPython 3.11",
    cpu="Test CPU",
    architecture="x86_64",
    isa=("AVX2",),
    isa_complete=True,
    cores=2,
    usable_threads=2,
    memory_bytes=1 << 33,
    available_memory_bytes=1 << 32,
    noise=(),
)
QUIET = Conditions(clock_mhz=2600.0, load_1m=0.1, temperature_c=45.0, noise=())
AROUND = Surroundings(machine=MACHINE, before=QUIET, after=QUIET, clock_overhead_us=0.1)

SPREAD = Spread(mean=2.0, p50=1.9, p90=2.5, p99=4.0, maximum=9.0)
CAMERA = CameraResult(
    plan=CameraPlan(),
    camera="synthetic camera clip.mp4 at 30 fps, 960x540",
    engine="m, openvino int8, 1 threads",
    detector="haar",
    frames=600,
    dropped=3,
    faces=600,
    seconds=20.0,
    labelled_fps=30.0,
    cpu_ms_per_frame=12.0,
    age=SPREAD,
    stages={"wait": SPREAD, "detect": SPREAD, "infer": SPREAD},
    copies_per_frame=0.0,
    notes=("Copies of a frame with faces: 0.00.",),
    windows=tuple(
        Window(start_s=i, frames=30, fps=fps, age_p50_ms=2, age_p99_ms=4, clock_mhz=mhz, temperature_c=50 + i)
        for i, (fps, mhz) in enumerate([(30, 3600), (30, 3500), (28, 3000), (24, 2600), (24, 2500), (23, 2500)])
    ),
)


def outcome(
    runtime: str,
    precision: str,
    *rounds_us: Sequence[float],
    model: str = "m",
    top1: float | None = None,
    predictions: Sequence[int] = (),
    threads: int = 1,
    batch: int = 1,
    error: str = "",
) -> Outcome:
    """One case; each round is a list of microseconds."""
    case = Case.model_validate(
        {"model": model, "runtime": runtime, "precision": precision, "threads": threads, "batch": batch}
    )
    return Outcome(
        case,
        rounds_ns=[[round(1e3 * value) for value in samples] for samples in rounds_us],
        top1=top1,
        top1_interval=None if top1 is None else (top1 - 0.01, top1 + 0.01),
        n=None if top1 is None else 100,
        macro_f1=top1,
        predictions=list(predictions),
        error=error,
    )


def result(*outcomes: Outcome, **changes: object) -> BenchResult:
    made = summarise(PLAN, outcomes, "faces", AROUND)
    return made.model_copy(update=changes)
