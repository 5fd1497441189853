"""One case in a process of its own: ``python -m edge_fer.bench.worker``, driven line by line through pipes.

It reads one JSON object a line from standard input and answers with one a line on standard output:

* ``{"job": {...}}``            open the case, answer ``{"ready": {"executed": ..., "gpu": ...}}`` after the first
                                inference
* ``{"layers": true}``          answer ``{"layers": {precision: count}}``, what is really executed
* ``{"warm_up": seconds}``      run without keeping times, answer ``{"warm": iterations}``
* ``{"measure": [s, n]}``       at least s seconds and n iterations, answer ``{"samples_ns": [...], "joules": ...}``
                                and the device's state at its end
* ``{"accuracy": [dir, split]}``  answer ``{"top1": ..., "n": ..., "predictions": [...], "labels": [...], ...}``
* ``{"end": true}``             answer ``{"peak_rss_bytes": ...}`` and close the case

An ``EdgeFerError`` is answered with ``{"error": sentence}``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edge_fer.backends.child import serve
from edge_fer.bench.conditions import clock_mhz, energy_joules, temperature_c
from edge_fer.bench.jobs import Job, measure, open_job
from edge_fer.bench.nvml import GpuMeter, open_meter
from edge_fer.core.errors import EdgeFerError

__all__ = ["Bench", "measure"]


def accuracy(job: Job, data: str, split: str | None) -> dict[str, Any]:
    """Top-1 with interval, macro-F1 and all predictions of a labelled dataset."""
    from edge_fer.data.datasets import open_dataset
    from edge_fer.evaluate.metrics import compute_metrics
    from edge_fer.evaluate.predict import match_labels, softmax

    samples = open_dataset(Path(data), split)
    labels = match_labels(samples, job.spec.labels)
    logits = job.predict(samples)
    found = compute_metrics(labels, softmax(logits), job.spec.labels)
    return {
        "n": found.n,
        "top1": found.top1,
        "top1_interval": found.top1_interval,
        "macro_f1": found.macro_f1,
        "predictions": logits.argmax(axis=1).tolist(),
        "labels": labels.tolist(),
    }


class Instruments:
    """What tells energy, clock, temperature and memory of the device that a case runs on: the processor, or a GPU.

    Args:
        gpu: the GPU's name; empty for the processor.
    """

    def __init__(self, gpu: str) -> None:
        self._meter: GpuMeter | None = open_meter(gpu) if gpu else None
        self._on_gpu = bool(gpu)

    def joules(self) -> float | None:
        if self._on_gpu:
            return None if self._meter is None else self._meter.energy_joules()
        return energy_joules()

    def state(self) -> dict[str, float | int | None]:
        """Clock and temperature, and for a GPU how much of its memory all programs use."""
        if not self._on_gpu:
            return {"clock_mhz": clock_mhz(), "temperature_c": temperature_c(), "vram_bytes": None}
        meter = self._meter
        if meter is None:
            return {"clock_mhz": None, "temperature_c": None, "vram_bytes": None}
        return {
            "clock_mhz": meter.clock_mhz(),
            "temperature_c": meter.temperature_c(),
            "vram_bytes": meter.used_bytes(),
        }


def timed(job: Job, instruments: Instruments, seconds: float, iterations: int) -> dict[str, Any]:
    """One round: samples; and where the device tells, the energy used meanwhile, and its state at the end, when the
    case has been at work for the whole round."""
    before = instruments.joules()
    samples = job.measure(seconds, iterations)
    after = instruments.joules()
    joules = None if before is None or after is None or after < before else after - before
    return {"samples_ns": samples, "joules": joules, **instruments.state()}


def peak_rss_bytes() -> int | None:
    """Largest resident set of this process; ``None`` where the system does not tell."""
    if os.name == "nt":
        return None
    with contextlib.suppress(OSError):
        # On Linux getrusage starts from the parent's peak at the fork; the kernel's high-water mark starts at the exec.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


class Bench:
    """The case of this process, and what it is asked."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._job: Job | None = None
        self._instruments = Instruments("")

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Obey one order; what cannot be done is an answer too."""
        try:
            if "job" in order:
                self._job = open_job(order["job"], self._stack)
                self._job.first()
                self._instruments = Instruments(self._job.gpu)
                return {"ready": {"executed": self._job.executed, "gpu": self._job.gpu}}
            if "end" in order:
                self._job = None
                self._stack.close()
                return {"peak_rss_bytes": peak_rss_bytes()}
            return {"error": "no case is open"} if self._job is None else self._do(self._job, order)
        except EdgeFerError as error:
            return {"error": str(error)}
        except ModuleNotFoundError as error:
            return {"error": f"{error.name} is not installed"}

    def _do(self, job: Job, order: dict[str, Any]) -> dict[str, Any]:
        if "layers" in order:
            return {"layers": job.layers()}
        if "warm_up" in order:
            return {"warm": len(job.measure(float(order["warm_up"]), 3))}
        if "measure" in order:
            seconds, iterations = order["measure"]
            return timed(job, self._instruments, float(seconds), int(iterations))
        if "accuracy" in order:
            return accuracy(job, *order["accuracy"])
        return {"error": f"no such order: {', '.join(order)}"}


if __name__ == "__main__":
    serve(Bench().answer)
