"""One case in a process of its own: ``python -m edge_fer.bench.worker``, driven line by line through pipes.

It reads one JSON object a line from standard input and answers with one a line on standard output:

* ``{"job": {...}}``            open the case, answer ``{"ready": {"executed": ...}}`` after the first inference
* ``{"layers": true}``          answer ``{"layers": {precision: count}}``, what is really executed
* ``{"warm_up": seconds}``      run without keeping times, answer ``{"warm": iterations}``
* ``{"measure": [s, n]}``       at least s seconds and n iterations, answer ``{"samples_ns": [...], "joules": ...}``
* ``{"accuracy": [dir, split]}``  answer ``{"top1": ..., "n": ..., "predictions": [...], "labels": [...], ...}``
* ``{"end": true}``             answer ``{"peak_rss_bytes": ...}`` and exit

An ``EdgeFerError`` is answered with ``{"error": sentence}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from edge_fer.bench.conditions import energy_joules
from edge_fer.bench.jobs import Job, measure, open_job
from edge_fer.core.errors import EdgeFerError

__all__ = ["main", "measure", "serve"]


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


def timed(job: Job, seconds: float, iterations: int) -> dict[str, Any]:
    """One round: samples, and the energy that the processor used meanwhile where it tells."""
    before = energy_joules()
    samples = job.measure(seconds, iterations)
    after = energy_joules()
    joules = None if before is None or after is None or after < before else after - before
    return {"samples_ns": samples, "joules": joules}


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


def serve(source: TextIO, answer: Callable[[dict[str, Any]], None]) -> None:
    """Obey one line after the other until told to end."""
    job: Job | None = None
    with ExitStack() as stack:
        for line in source:
            order = json.loads(line)
            try:
                if "job" in order:
                    job = open_job(order["job"], stack)
                    job.first()
                    answer({"ready": {"executed": job.executed}})
                elif "end" in order:
                    answer({"peak_rss_bytes": peak_rss_bytes()})
                    return
                elif job is None:
                    answer({"error": "no case is open"})
                elif "layers" in order:
                    answer({"layers": job.layers()})
                elif "warm_up" in order:
                    answer({"warm": len(job.measure(float(order["warm_up"]), 3))})
                elif "measure" in order:
                    seconds, iterations = order["measure"]
                    answer(timed(job, float(seconds), int(iterations)))
                elif "accuracy" in order:
                    answer(accuracy(job, *order["accuracy"]))
            except EdgeFerError as error:
                answer({"error": str(error)})
            except ModuleNotFoundError as error:
                answer({"error": f"{error.name} is not installed"})


def main() -> None:
    # Libraries may print; only our answers belong on the pipe.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(record: dict[str, Any]) -> None:
        pipe.write(json.dumps(record) + "\n")
        pipe.flush()

    serve(sys.stdin, answer)


if __name__ == "__main__":
    main()
