"""Run a plan: one process per case, rounds interleaved, one process active at a time.

Interleaving means that a machine that slows down or speeds up over minutes does so for every case alike, so that ratios
hold even when absolute times drift. A case that crashes or hangs loses its own figures only.
"""

from __future__ import annotations

import contextlib
import json
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_fer.bench.plan import Case, Plan
from edge_fer.bench.prepare import PreparedModel, prepare
from edge_fer.core.errors import EdgeFerError

Progress = Callable[[str, int, int], None]
COLD_STARTS = 3
"""Starts per case, the median is reported; the last one stays for the rounds."""


class CaseFailed(Exception):  # noqa: N818 (an outcome that is reported in the table)
    """Why a case has no figures, as a sentence."""


@dataclass
class Outcome:
    """What was measured of one case.

    Attributes:
        rounds_ns: samples of each round, nanoseconds a call.
        cold_start_ms: process start to the end of the first inference, median of three; the engine's cache is warm.
        error: why there is nothing (more), or empty.
    """

    case: Case
    executed: str = ""
    cold_start_ms: float | None = None
    file_bytes: int | None = None
    rounds_ns: list[list[int]] = field(default_factory=list)
    peak_rss_bytes: int | None = None
    top1: float | None = None
    n: int | None = None
    predictions: list[int] = field(default_factory=list)
    error: str = ""


class Worker:
    """A process that holds one case, and the pipe to it. Every question has a time limit."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._complaints = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edge_fer.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send an order and return the answer.

        Raises:
            CaseFailed: it crashed, hung, or said why it cannot.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=self._timeout_s)
        except queue.Empty:
            raise CaseFailed(f"gave no answer within {self._timeout_s:.0f} s") from None
        except OSError:
            line = ""
        if not line:
            raise CaseFailed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CaseFailed(str(answer["error"]))
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        self._complaints.seek(0)
        lines = [line.strip() for line in self._complaints.read().splitlines() if line.strip()]
        return f"crashed (status {status}){': ' + lines[-1] if lines else ''}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._complaints):
            if pipe is not None:
                # An order that the process did not live to read is still in the buffer, and closing tries to send it.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def run_plan(plan: Plan, *, data: Path | None = None, split: str | None = None, progress: Progress) -> list[Outcome]:
    """Measure every case of a plan; ``data`` adds the accuracy of trained models.

    A single case never raises: its sentence stands in ``Outcome.error``.
    """
    cases = plan.cases()
    outcomes = [Outcome(case) for case in cases]
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory(prefix="edge-fer-bench-", ignore_cleanup_errors=True) as folder:
        models: dict[str, PreparedModel | str] = {}
        for entry in plan.models:
            progress(f"preparing {entry.name}", 0, len(cases))
            try:
                models[entry.name] = prepare(entry, Path(folder))
            except EdgeFerError as error:
                models[entry.name] = str(error)
            except (RuntimeError, ValueError) as error:  # torch and onnx have no narrower class for a failed export
                models[entry.name] = f"cannot be prepared: {type(error).__name__}: {error}"
        try:
            for index, outcome in enumerate(outcomes):
                progress(f"opening {outcome.case.key}", index, len(cases))
                with _kept_apart(outcome, workers):
                    _open(outcome, workers, models[outcome.case.model], plan)
            for turn in range(plan.rounds):
                for index, outcome in enumerate(outcomes):
                    if not outcome.error:
                        progress(f"round {turn + 1} of {plan.rounds}: {outcome.case.key}", index, len(cases))
                        with _kept_apart(outcome, workers):
                            _round(outcome, workers, plan)
            for index, outcome in enumerate(outcomes):
                if not outcome.error:
                    progress(f"finishing {outcome.case.key}", index, len(cases))
                    model = models[outcome.case.model]
                    trained = isinstance(model, PreparedModel) and model.trained
                    with _kept_apart(outcome, workers):
                        _finish(outcome, workers, data if trained else None, split)
        finally:
            for worker in workers.values():
                worker.close()
    return outcomes


@contextlib.contextmanager
def _kept_apart(outcome: Outcome, workers: dict[str, Worker]) -> Iterator[None]:
    """Let a failure end its own case only."""
    try:
        yield
    except CaseFailed as failure:
        outcome.error = str(failure)
        if (worker := workers.pop(outcome.case.key, None)) is not None:
            worker.close()


def _open(outcome: Outcome, workers: dict[str, Worker], model: PreparedModel | str, plan: Plan) -> None:
    case = outcome.case
    if isinstance(model, str):
        raise CaseFailed(model)
    description: dict[str, Any] = {
        "case": case.model_dump(),
        "spec": model.spec.model_dump(mode="json"),
        "bundle": str(model.bundle) if model.bundle else None,
    }
    if case.runtime == "torch":
        if case.precision != "fp32":
            raise CaseFailed("torch eager is measured in fp32 only")
        if model.checkpoint is None:
            raise CaseFailed("the checkpoint that the bundle was made from is not at hand")
        description["checkpoint"] = str(model.checkpoint)
        outcome.file_bytes = model.checkpoint.stat().st_size
    else:
        form = model.onnx.get("int8" if case.precision == "int8" else "fp32")
        if form is None:
            raise CaseFailed(f"the bundle has no {case.precision} form")
        description["onnx"] = str(form)
        outcome.file_bytes = form.stat().st_size
        # The first opening builds the engine; what users meet every day is the second.
        first = workers[case.key] = Worker(plan.timeout_s)
        first.ask({"job": description})
    starts = []
    for _ in range(COLD_STARTS):
        if (previous := workers.pop(case.key, None)) is not None:
            previous.close()
        began = time.perf_counter()
        worker = workers[case.key] = Worker(plan.timeout_s)
        outcome.executed = str(worker.ask({"job": description})["ready"]["executed"])
        starts.append(1e3 * (time.perf_counter() - began))
    outcome.cold_start_ms = statistics.median(starts)
    worker.ask({"warm_up": plan.warm_up_seconds})


def _round(outcome: Outcome, workers: dict[str, Worker], plan: Plan) -> None:
    worker = workers[outcome.case.key]
    # A process that slept while others ran has cold caches; a tenth of a round brings it back.
    worker.ask({"warm_up": plan.min_seconds / 10})
    outcome.rounds_ns.append(worker.ask({"measure": [plan.min_seconds, plan.min_iterations]})["samples_ns"])


def _finish(outcome: Outcome, workers: dict[str, Worker], data: Path | None, split: str | None) -> None:
    worker = workers[outcome.case.key]
    if data is not None:
        answer = worker.ask({"accuracy": [str(data), split]})
        outcome.top1, outcome.n, outcome.predictions = answer["top1"], answer["n"], answer["predictions"]
    outcome.peak_rss_bytes = worker.ask({"end": True})["peak_rss_bytes"]
