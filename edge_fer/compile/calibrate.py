"""Measure the ranges of a network's tensors over a calibration set, and keep them in one documented file.

``calibration.json`` holds, per tensor, what was seen (``minimum``, ``maximum``) and what is represented (``threshold``:
the largest magnitude), the method, the layers that stay in floating point because int8 hurt them (``float_layers``) or,
in the ``cpu`` form alone, because int8 made them slower where the bundle was compiled (``cpu_float_layers``), what bias
correction adds to the biases of the ``cpu`` form where it was asked for, and the hashes of the network and of the
samples that prove that they belong together. Every int8 form of a bundle comes from this one file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto
from pydantic import Field

from edge_fer.compile.calibrators import BINS, CALIBRATORS, TensorStats, threshold
from edge_fer.compile.graph import Graph, model_hash
from edge_fer.compile.plan import Plan, plan_quantisation
from edge_fer.core.engine import INPUT, OUTPUT
from edge_fer.core.errors import CalibrationError, UsageError
from edge_fer.core.files import atomic_file, read_validated
from edge_fer.core.spec import Frozen, PreprocessSpec
from edge_fer.data.calibration_set import CalibrationSet

DEFAULT_METHOD = "mse"
BATCH = 16

Batches = Callable[[], Iterator[NDArray[np.float32]]]
"""Start over: batches (n, C, H, W) of the same samples in the same order each time it is called."""
Progress = Callable[[int, int], None]


class TensorRange(Frozen):
    """One tensor: extremes that were seen, the largest magnitude that is represented, and whether a sign is needed."""

    minimum: float
    maximum: float
    threshold: float = Field(ge=0)
    never_negative: bool


class Calibration(Frozen):
    """``calibration.json``."""

    kind: Literal["edge-fer-calibration"] = "edge-fer-calibration"
    format: Literal[1] = 1
    method: str
    model_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    data_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    source: str
    sample_ids: tuple[str, ...]
    tensors: dict[str, TensorRange]
    float_layers: tuple[str, ...] = ()
    cpu_float_layers: tuple[str, ...] = ()
    bias_shifts: dict[str, tuple[float, ...]] = Field(default_factory=dict)

    def thresholds(self) -> dict[str, float]:
        return {name: tensor.threshold for name, tensor in self.tensors.items()}

    @property
    def cpu_float(self) -> tuple[str, ...]:
        """Every layer that the ``cpu`` form computes in floating point, in alphabetical order."""
        return tuple(sorted({*self.float_layers, *self.cpu_float_layers}))


def calibrate(
    model: ModelProto,
    samples: CalibrationSet,
    preprocess: PreprocessSpec,
    *,
    method: str = DEFAULT_METHOD,
    threads: int = 1,
    progress: Progress | None = None,
) -> Calibration:
    """Run a calibration set through the folded fp32 graph and choose every range.

    Raises:
        UsageError: no such method.
        CalibrationError: the network gives NaN or infinity for these samples.
    """
    plan = plan_quantisation(Graph(model))
    batches = partial(samples.batches, preprocess, BATCH)
    return measure_ranges(model, plan, samples, batches, method=method, threads=threads, progress=progress)


def measure_ranges(
    model: ModelProto,
    plan: Plan,
    samples: CalibrationSet,
    batches: Batches,
    *,
    method: str,
    threads: int = 1,
    progress: Progress | None = None,
) -> Calibration:
    """Choose every range of a plan.

    Args:
        batches: of ``samples``, as the network's input.
        progress: called with (samples done, of how many); every sample is run twice.

    Raises:
        UsageError: no such method.
        CalibrationError: the network gives NaN or infinity for these samples.
    """
    check_method(method)
    told = None if progress is None else lambda done: progress(done, 2 * len(samples))
    stats = collect(model, plan.measured, batches, threads=threads, progress=told)
    return Calibration(
        method=method,
        model_sha256=model_hash(model),
        data_sha256=samples.sha256,
        source=samples.source,
        sample_ids=samples.ids,
        tensors=choose_ranges(stats, plan, method),
    )


def choose_ranges(stats: dict[str, TensorStats], plan: Plan, method: str) -> dict[str, TensorRange]:
    return {
        name: TensorRange(
            minimum=found.minimum,
            maximum=found.maximum,
            threshold=threshold(found, method, never_negative=name in plan.never_negative),
            never_negative=name in plan.never_negative,
        )
        for name, found in stats.items()
    }


def check_method(method: str) -> None:
    if method not in CALIBRATORS:
        raise UsageError(f"Unknown calibration method {method!r}.", fix=f"Known: {', '.join(CALIBRATORS)}.")


def open_session(model: ModelProto, threads: int, *, literal: bool = False) -> Any:
    """ONNX Runtime on a model in memory. ``literal`` runs each operator as written, nothing fused or rewritten."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if literal:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_logits(session: Any, inputs: NDArray[np.float32], batch: int = BATCH) -> NDArray[np.float32]:
    """Logits (n, classes) of inputs (n, C, H, W)."""
    parts = [session.run([OUTPUT], {INPUT: inputs[start : start + batch]})[0] for start in range(0, len(inputs), batch)]
    return np.concatenate(parts).astype(np.float32, copy=False)


def collect(
    model: ModelProto,
    tensors: Sequence[str],
    batches: Batches,
    *,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> dict[str, TensorStats]:
    """Extremes first, then histograms of magnitudes over exactly that range: two passes, no rebinning.

    Args:
        progress: told how many samples have been run, over both passes.

    Raises:
        CalibrationError: a tensor holds NaN or infinity.
    """
    session = _session_with_outputs(model, tensors, threads)
    computed = [name for name in tensors if name != INPUT]
    minima = dict.fromkeys(tensors, np.inf)
    maxima = dict.fromkeys(tensors, -np.inf)
    peaks: dict[str, list[float]] = {name: [] for name in tensors}
    done = 0
    for inputs in batches():
        for name, values in _values(session, computed, inputs, INPUT in tensors):
            low, high = float(values.min()), float(values.max())
            if not np.isfinite(low) or not np.isfinite(high):
                raise CalibrationError(
                    f"The network gives NaN or infinite values at {name} for the calibration images, so it has no "
                    "range there."
                )
            minima[name], maxima[name] = min(minima[name], low), max(maxima[name], high)
            peaks[name].append(max(abs(low), abs(high)))
        done += len(inputs)
        if progress is not None:
            progress(done)
    if not done:
        raise CalibrationError("The calibration set is empty.")
    histograms = {name: np.zeros(BINS, np.int64) for name in tensors}
    for inputs in batches():
        for name, values in _values(session, computed, inputs, INPUT in tensors):
            histograms[name] += magnitude_histogram(values, max(abs(minima[name]), abs(maxima[name])))
        done += len(inputs)
        if progress is not None:
            progress(done)
    return {name: TensorStats(minima[name], maxima[name], tuple(peaks[name]), histograms[name]) for name in tensors}


def peak_magnitudes(model: ModelProto, inputs: NDArray[np.float32]) -> dict[str, float]:
    """Largest magnitude of every tensor of the graph over some inputs (n, C, H, W)."""
    tensors = [INPUT, *(name for node in model.graph.node for name in node.output)]
    stats = collect(model, tensors, lambda: iter([inputs]))
    return {name: found.peak for name, found in stats.items()}


def magnitude_histogram(values: NDArray[np.float32], peak: float) -> NDArray[np.int64]:
    """Counts (BINS,) of ``|values|`` in equal bins over ``[0, peak]``; the top edge belongs to the last bin."""
    if peak <= 0:
        counts = np.zeros(BINS, np.int64)
        counts[0] = values.size
        return counts
    index = np.abs(values, dtype=np.float32).ravel()
    # Two steps, because BINS / peak overflows for the tiniest peaks.
    index /= np.float32(peak)
    index *= np.float32(BINS)
    bins = np.minimum(index.astype(np.int32), BINS - 1)
    return np.bincount(bins, minlength=BINS).astype(np.int64)


def _session_with_outputs(model: ModelProto, tensors: Sequence[str], threads: int) -> Any:
    watched = ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(ValueInfoProto(name=name) for name in tensors if name not in (INPUT, OUTPUT))
    return open_session(watched, threads)


def _values(
    session: Any, computed: list[str], inputs: NDArray[np.float32], with_input: bool
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    if with_input:
        yield INPUT, inputs
    yield from zip(computed, session.run(computed, {INPUT: inputs}), strict=True)


def write_calibration(path: Path, calibration: Calibration) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(calibration.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def read_calibration(path: Path) -> Calibration:
    """Read ``calibration.json``.

    Raises:
        CalibrationError: missing, not JSON, or not a file of this kind.
    """
    return read_validated(path, Calibration, "a valid calibration file", CalibrationError)
