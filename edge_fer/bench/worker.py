"""One case in a process of its own: ``python -m edge_fer.bench.worker``, driven line by line through pipes.

It reads one JSON object a line from standard input and answers with one a line on standard output:

* ``{"job": {...}}``            open the case, answer ``{"ready": {...}}`` after the first inference
* ``{"warm_up": seconds}``      run without keeping times, answer ``{"warm": iterations}``
* ``{"measure": [s, n]}``       at least s seconds and n iterations, answer ``{"samples_ns": [...]}``
* ``{"accuracy": [dir, split]}``  answer ``{"top1": ..., "n": ..., "predictions": [...], "labels": [...]}``
* ``{"end": true}``             answer ``{"peak_rss_bytes": ...}`` and exit

An ``EdgeFerError`` is answered with ``{"error": sentence}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from edge_fer.core.errors import EdgeFerError


class Job:
    """An opened case: ``call`` runs one batch; ``predict`` runs a dataset."""

    def __init__(self, description: dict[str, Any], stack: ExitStack) -> None:
        from edge_fer.core.spec import ModelSpec

        self.spec = ModelSpec.model_validate(description["spec"])
        self.case, self.threads = description["case"], int(description["case"]["threads"])
        self.call: Callable[[], None]
        self.predict: Callable[[Any], Any]
        if self.case["runtime"] == "torch":
            self.executed = self._open_torch(Path(description["checkpoint"]))
        else:
            self.executed = self._open_engine(description, stack)

    def _open_torch(self, checkpoint: Path) -> str:
        import torch

        from edge_fer.evaluate.predict import predict_module
        from edge_fer.models.checkpoint import load_checkpoint

        torch.set_num_threads(self.threads)
        model = load_checkpoint(checkpoint).model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = torch.zeros(self.case["batch"], *self.spec.input_shape).to(memory_format=torch.channels_last)

        def call() -> None:
            with torch.inference_mode():
                model(batch)

        self.call = call
        self.predict = lambda samples: predict_module(model, samples, self.spec.preprocess, threads=self.threads)
        return f"torch {torch.__version__} eager, channels_last, fp32"

    def _open_engine(self, description: dict[str, Any], stack: ExitStack) -> str:
        from edge_fer.backends.registry import open_engine, open_onnx
        from edge_fer.core.bundle import open_bundle
        from edge_fer.evaluate.predict import predict

        options = {
            "backend": self.case["runtime"],
            "precision": self.case["precision"],
            "max_batch": max(8, int(self.case["batch"])),
            "threads": self.threads,
        }
        if description["bundle"] is not None:
            engine = open_engine(open_bundle(Path(description["bundle"])), **options)
        else:
            engine = open_onnx(Path(description["onnx"]), self.spec, **options)
        stack.enter_context(engine)
        slot, count = engine.slots[0], int(self.case["batch"])

        def call() -> None:
            engine.submit(slot, count)
            engine.wait(slot)

        self.call = call
        self.predict = lambda samples: predict(engine, samples, self.spec.preprocess)
        manifest = engine.manifest
        return f"{manifest.backend} {manifest.backend_version}, {manifest.precision}, {manifest.device}"


def measure(call: Callable[[], None], seconds: float, iterations: int) -> list[int]:
    """Times of single calls in nanoseconds, back to back; the clock is read once between two calls."""
    samples: list[int] = []
    clock = time.perf_counter_ns
    previous = clock()
    end = previous + round(seconds * 1e9)
    while previous < end or len(samples) < iterations:
        call()
        now = clock()
        samples.append(now - previous)
        previous = now
    return samples


def accuracy(job: Job, data: str, split: str | None) -> dict[str, Any]:
    """Top-1 and all predictions of a labelled dataset."""
    from edge_fer.data.datasets import open_dataset
    from edge_fer.evaluate.predict import match_labels

    samples = open_dataset(Path(data), split)
    labels = match_labels(samples, job.spec.labels)
    predictions = job.predict(samples).argmax(axis=1)
    return {
        "top1": float((predictions == labels).mean()),
        "n": len(labels),
        "predictions": predictions.tolist(),
        "labels": labels.tolist(),
    }


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
                    job = Job(order["job"], stack)
                    job.call()
                    answer({"ready": {"executed": job.executed}})
                elif "end" in order:
                    answer({"peak_rss_bytes": peak_rss_bytes()})
                    return
                elif job is None:
                    answer({"error": "no case is open"})
                elif "warm_up" in order:
                    answer({"warm": len(measure(job.call, float(order["warm_up"]), 3))})
                elif "measure" in order:
                    seconds, iterations = order["measure"]
                    answer({"samples_ns": measure(job.call, float(seconds), int(iterations))})
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
