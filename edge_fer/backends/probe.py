"""Time one engine in a process of its own.

    python -m edge_fer.backends.probe BUNDLE BACKEND PRECISION THREADS BATCH

Two runtimes in one process disturb each other's thread pools, so candidates must not share one. Prints one line of
JSON: ``{"median_us": float, "samples": int}``, or ``{"error": str, "full": bool}``, where ``full`` says that a GPU's
memory was.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from edge_fer.backends.registry import open_engine
from edge_fer.core.bundle import open_bundle
from edge_fer.core.engine import Engine
from edge_fer.core.errors import DeviceMemoryError, EdgeFerError

WARM_UP_S = 0.15
MEASURE_S = 0.35
MINIMUM_SAMPLES = 10


def time_engine(engine: Engine) -> list[float]:
    """Latencies of single faces in microseconds, warm, back to back."""
    slot = engine.slots[0]

    def once() -> float:
        begin = time.perf_counter_ns()
        engine.submit(slot, 1)
        engine.wait(slot)
        return (time.perf_counter_ns() - begin) / 1e3

    end = time.perf_counter() + WARM_UP_S
    once()
    while time.perf_counter() < end:
        once()
    samples: list[float] = []
    end = time.perf_counter() + MEASURE_S
    while len(samples) < MINIMUM_SAMPLES or time.perf_counter() < end:
        samples.append(once())
    return samples


def main(arguments: list[str]) -> dict[str, object]:
    path, backend, precision, threads, batch = arguments
    try:
        bundle = open_bundle(Path(path))
        with open_engine(
            bundle, backend=backend, precision=precision, threads=int(threads), max_batch=int(batch)
        ) as engine:
            samples = time_engine(engine)
    except EdgeFerError as error:
        return {"error": str(error), "full": isinstance(error, DeviceMemoryError)}
    return {"median_us": statistics.median(samples), "samples": len(samples)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1:])) + "\n")
