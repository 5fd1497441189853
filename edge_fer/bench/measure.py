"""Run a plan: rounds interleaved, every case of every round in a fresh process, one process alive at a time.

Interleaving means that a machine that slows down or speeds up over minutes does so for every case alike, so that ratios
hold even when absolute times drift. A fresh process a round draws a new memory layout each time, which shifts latencies
by more than calls within one process would ever show (Mytkowicz et al., "Producing Wrong Data Without Doing Anything
Obviously Wrong!", 2009), gives a cold start a round, and keeps the memory of the other cases out of the way. A case
that crashes or hangs loses its own figures only.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_fer.backends.child import Child, ChildFailed
from edge_fer.backends.dialects import DIALECTS
from edge_fer.backends.gpu import ON_GPU_BACKENDS
from edge_fer.backends.registry import BACKENDS, backend_module, require
from edge_fer.bench.plan import Case, Plan
from edge_fer.bench.prepare import PreparedModel, prepare
from edge_fer.core.errors import EdgeFerError

Progress = Callable[[str, int, int], None]
TORCH = ("torch", "torch-compile")


@dataclass
class Outcome:
    """What was measured of one case.

    Attributes:
        executed: library, version, precision and device, in words.
        gpu: the GPU that it ran on; empty for the processor.
        layers: weighted layers by the precision that they are really computed in; empty when that cannot be read.
        cold_starts_ms: of each round: process start to the end of the first inference, the engine's cache warm.
        rounds_ns: samples of each round, nanoseconds a call.
        joules: of each round, by the whole processor or GPU; ``None`` where it does not tell.
        clocks_mhz, temperatures_c: at the end of each round, likewise.
        vram_bytes: most of the GPU's memory that was in use at the end of a round, by all programs; ``None`` likewise.
        peak_rss_bytes: largest of the rounds; data that accuracy is measured on is not in it.
        error: why there is nothing (more), or empty.
    """

    case: Case
    executed: str = ""
    gpu: str = ""
    layers: dict[str, int] = field(default_factory=dict)
    cold_starts_ms: list[float] = field(default_factory=list)
    file_bytes: int | None = None
    rounds_ns: list[list[int]] = field(default_factory=list)
    joules: list[float | None] = field(default_factory=list)
    clocks_mhz: list[float | None] = field(default_factory=list)
    temperatures_c: list[float | None] = field(default_factory=list)
    peak_rss_bytes: int | None = None
    vram_bytes: int | None = None
    top1: float | None = None
    top1_interval: tuple[float, float] | None = None
    macro_f1: float | None = None
    n: int | None = None
    predictions: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    error: str = ""

    @property
    def cold_start_ms(self) -> float | None:
        """Median of the rounds."""
        return statistics.median(self.cold_starts_ms) if self.cold_starts_ms else None


class Worker(Child):
    """A process that holds one case.

    Args:
        timeout_s: seconds to wait for each answer.
        environment: variables added to this process's own.
    """

    def __init__(self, timeout_s: float, environment: Mapping[str, str] | None = None) -> None:
        super().__init__("edge_fer.bench.worker", timeout_s, environment)


def run_plan(
    plan: Plan,
    *,
    data: Path | None = None,
    split: str | None = None,
    progress: Progress,
    models: Mapping[str, PreparedModel | str] | None = None,
    between: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Measure every case of a plan. A single case never raises: its sentence stands in ``Outcome.error``. But a plan
    for a GPU that is not here is wrong as a whole.

    Args:
        data, split: labelled faces, for the accuracy of trained models.
        models: what :func:`prepare_models` gave for this plan, where the caller needs it too.
        between: called before the first round and after every one, while no case's process lives.

    Raises:
        DeviceError: a case wants a GPU, and there is none, or its library is missing.
    """
    check_gpu(plan)
    outcomes = [Outcome(case) for case in plan.cases()]
    with tempfile.TemporaryDirectory(prefix="edge-fer-bench-", ignore_cleanup_errors=True) as folder:
        # torch.compile translates and compiles for a minute; what it made in the first process serves the next ones.
        # A process that is killed cannot remove its temporary files: they lie in this folder, which this one removes.
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "inductor"), "TMPDIR": folder}
        models = prepare_models(plan, Path(folder), progress) if models is None else models
        rigs = [_Rig(outcome, models[outcome.case.model], plan, environment) for outcome in outcomes]

        def each(text: str, step: Callable[[_Rig], None]) -> None:
            for index, rig in enumerate(rigs):
                if not rig.outcome.error:
                    progress(f"{text}: {rig.outcome.case.key}", index, len(rigs))
                    try:
                        step(rig)
                    except ChildFailed as failure:
                        rig.outcome.error = str(failure)

        each("opening", _Rig.examine)
        between()
        for turn in range(plan.rounds):
            each(f"round {turn + 1} of {plan.rounds}", _Rig.measure)
            between()
        if data is not None:
            each("accuracy", lambda rig: rig.score(data, split))
    return outcomes


def check_gpu(plan: Plan) -> None:
    """Refuse a plan with cases for a GPU on a machine that cannot run them, before anything is prepared.

    Raises:
        DeviceError: one sentence.
    """
    for runtime in dict.fromkeys(case.runtime for case in plan.cases()):
        if runtime in ON_GPU_BACKENDS:
            require(runtime)


def prepare_models(plan: Plan, folder: Path, progress: Progress) -> dict[str, PreparedModel | str]:
    """The forms of every model of a plan, written into ``folder`` where they must be made; a sentence where one cannot
    be had."""
    models: dict[str, PreparedModel | str] = {}
    for index, entry in enumerate(plan.models):
        progress(f"preparing {entry.name}", index, len(plan.models))
        try:
            models[entry.name] = prepare(entry, folder)
        except EdgeFerError as error:
            models[entry.name] = str(error)
        except (RuntimeError, ValueError) as error:  # torch and onnx have no narrower class for a failed export
            models[entry.name] = f"cannot be prepared: {type(error).__name__}: {error}"
    return models


class _Rig:
    """One case with what is needed to open it again and again."""

    def __init__(
        self, outcome: Outcome, model: PreparedModel | str, plan: Plan, environment: Mapping[str, str]
    ) -> None:
        self.outcome, self._plan, self._environment = outcome, plan, environment
        self._trained = False
        self._description: dict[str, Any] = {}
        try:
            if isinstance(model, str):
                raise ChildFailed(model)
            self._trained = model.trained
            self._description = _describe(outcome, model)
        except ChildFailed as failure:
            outcome.error = str(failure)

    @contextlib.contextmanager
    def _open(self) -> Iterator[Worker]:
        with Worker(self._plan.timeout_s, self._environment) as worker:
            ready = worker.ask({"job": self._description})["ready"]
            self.outcome.executed, self.outcome.gpu = str(ready["executed"]), str(ready["gpu"])
            yield worker

    def examine(self) -> None:
        """The first opening builds the engine, which users meet once; and what it really executes is read there."""
        with self._open() as worker, contextlib.suppress(ChildFailed):  # a case may run without onnx to look into it
            self.outcome.layers = worker.ask({"layers": True})["layers"]

    def measure(self) -> None:
        """One round."""
        outcome, plan = self.outcome, self._plan
        began = time.perf_counter()
        with self._open() as worker:
            cold = 1e3 * (time.perf_counter() - began)
            worker.ask({"warm_up": plan.warm_up_seconds})
            answer = worker.ask({"measure": [plan.min_seconds, plan.min_iterations]})
            peak = worker.ask({"end": True})["peak_rss_bytes"]
        if outcome.case.runtime != "benchmark-app":  # which converts, compiles and warms up before its first call
            outcome.cold_starts_ms.append(cold)
        outcome.rounds_ns.append(answer["samples_ns"])
        outcome.joules.append(answer["joules"])
        outcome.clocks_mhz.append(answer["clock_mhz"])
        outcome.temperatures_c.append(answer["temperature_c"])
        outcome.vram_bytes = max((v for v in (outcome.vram_bytes, answer["vram_bytes"]) if v is not None), default=None)
        outcome.peak_rss_bytes = None if peak is None else max(peak, outcome.peak_rss_bytes or 0)

    def score(self, data: Path, split: str | None) -> None:
        """Accuracy, in a process of its own so that the dataset is in no round's memory."""
        outcome = self.outcome
        if not self._trained or outcome.case.runtime == "benchmark-app":
            return
        with self._open() as worker:
            answer = worker.ask({"accuracy": [str(data), split]})
        outcome.top1, outcome.n, outcome.macro_f1 = answer["top1"], answer["n"], answer["macro_f1"]
        outcome.top1_interval = (answer["top1_interval"][0], answer["top1_interval"][1])
        outcome.predictions, outcome.labels = answer["predictions"], answer["labels"]


def _form(case: Case) -> str:
    """Which form of a model a case reads."""
    if case.runtime not in BACKENDS:
        return "int8" if case.precision == "int8" else "fp32"
    kind = str(backend_module(case.runtime, "build").onnx_form(case.precision))
    return "int8-trt" if kind == "int8" and DIALECTS[case.runtime] == "trt" else kind


def _describe(outcome: Outcome, model: PreparedModel) -> dict[str, Any]:
    """What a worker needs to open a case.

    Raises:
        ChildFailed: this model cannot be run like that.
    """
    case = outcome.case
    description: dict[str, Any] = {
        "case": case.model_dump(),
        "spec": model.spec.model_dump(mode="json"),
        "bundle": str(model.bundle) if model.bundle else None,
    }
    if case.runtime in TORCH:
        if case.precision != "fp32":
            raise ChildFailed(f"{case.runtime} is measured in fp32 only")
        if model.checkpoint is None:
            raise ChildFailed("the checkpoint that the bundle was made from is not at hand")
        description["checkpoint"] = str(model.checkpoint)
        outcome.file_bytes = model.checkpoint.stat().st_size
        return description
    try:
        key = _form(case)
    except EdgeFerError as error:
        raise ChildFailed(str(error)) from None
    form = model.onnx.get(key)
    if form is None:
        raise ChildFailed(f"the bundle has no {key} form")
    description["onnx"] = str(form)
    outcome.file_bytes = form.stat().st_size
    return description
