"""Time engines against each other: rounds in turn, and a process of its own for every engine.

Two runtimes in one process disturb each other's thread pools, so engines must not share one. All of them stay loaded
while they take turns of a fraction of a second, so that a machine that slows down for a while does so for everybody and
the ratio *within* a round stays what it is. ``bench`` measures with fresh processes in every round, which takes
minutes; this decides what to run, in seconds.

``python -m edge_fer.backends.race`` is the process of one engine.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import PositiveFloat, TypeAdapter

from edge_fer.backends.child import Child, ChildFailed, serve
from edge_fer.backends.registry import open_onnx
from edge_fer.core.engine import Engine
from edge_fer.core.errors import EdgeFerError
from edge_fer.core.spec import AnySpec, Frozen

ROUNDS = 7
TURN_S = 0.1
WARM_UP_S = 0.3
MINIMUM_SAMPLES = 5
TIMEOUT_S = 300.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Entrant:
    """One ONNX file in one backend and precision. ``name`` is what people call it."""

    name: str
    onnx: Path
    backend: str
    precision: str


class Timing(Frozen):
    """The median latency of one sample in each round, in microseconds; ``error`` says why there is none."""

    rounds_us: tuple[PositiveFloat, ...] = ()
    error: str | None = None

    @property
    def median_us(self) -> float | None:
        return statistics.median(self.rounds_us) if self.rounds_us else None


class Stopwatch(Protocol):
    """What :func:`race` is; tests put given times in its place."""

    def __call__(
        self, entrants: Sequence[Entrant], spec: AnySpec, *, threads: int, progress: Progress | None
    ) -> list[Timing]: ...


def race(
    entrants: Sequence[Entrant],
    spec: AnySpec,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[Timing]:
    """Time every entrant; one that cannot run, crashes or hangs has an error instead, and harms no other.

    Args:
        spec: the contract that all of them share.

    Returns:
        in the order of ``entrants``.
    """
    step: Progress = progress or (lambda what, done, total: None)
    medians: list[list[float]] = [[] for _ in entrants]
    errors: list[str | None] = [None for _ in entrants]
    with contextlib.ExitStack() as stack:
        children: list[Child] = []

        def ask(index: int, order: dict[str, Any]) -> dict[str, Any]:
            try:
                return children[index].ask(order)
            except ChildFailed as failure:
                errors[index] = str(failure)
                children[index].close()
                return {}

        for index, entrant in enumerate(entrants):
            step(f"Building {entrant.name}", index, len(entrants))
            children.append(stack.enter_context(Child("edge_fer.backends.race", TIMEOUT_S)))
            order = {
                "onnx": str(entrant.onnx.resolve()),
                "spec": spec.model_dump(mode="json"),
                "backend": entrant.backend,
                "precision": entrant.precision,
                "threads": threads,
            }
            ask(index, {"open": order})
        for turn in range(ROUNDS):
            # To and fro, so that who follows whom does not decide.
            order_of_play = range(len(entrants)) if turn % 2 == 0 else reversed(range(len(entrants)))
            for done, index in enumerate(order_of_play):
                if errors[index] is None:
                    step("Timing", turn * len(entrants) + done, ROUNDS * len(entrants))
                    answer = ask(index, {"measure_s": TURN_S})
                    if "median_us" in answer:
                        medians[index].append(float(answer["median_us"]))
    return [
        Timing(error=error) if error is not None else Timing(rounds_us=tuple(found))
        for found, error in zip(medians, errors, strict=True)
    ]


def time_calls(engine: Engine, seconds: float, minimum: int) -> list[float]:
    """Latencies of single samples in microseconds, back to back, for at least ``seconds`` and ``minimum`` calls."""
    slot = engine.slots[0]
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < minimum or time.perf_counter() < end:
        begin = time.perf_counter_ns()
        engine.submit(slot, 1)
        engine.wait(slot)
        samples.append((time.perf_counter_ns() - begin) / 1e3)
    return samples


class _Lane:
    """The engine of this process."""

    def __init__(self) -> None:
        self.engine: Engine | None = None

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        try:
            if "open" in order:
                wanted = dict(order["open"])
                spec: AnySpec = TypeAdapter(AnySpec).validate_python(wanted.pop("spec"))
                self.engine = open_onnx(Path(wanted.pop("onnx")), spec, **wanted)
                time_calls(self.engine, WARM_UP_S, 2)
                return {"ready": True}
            if self.engine is None:
                return {"error": "no engine was opened"}
            return {"median_us": statistics.median(time_calls(self.engine, order["measure_s"], MINIMUM_SAMPLES))}
        except EdgeFerError as error:
            return {"error": str(error)}


if __name__ == "__main__":
    serve(_Lane().answer)
