"""What this processor can do at best, measured: arithmetic in large convolutions, and memory by reading and copying.

A matrix product in NumPy or torch is no peak here: on the machine that this was written on, convolutions of the
inference libraries run twice as fast. So the peak is what the fastest of our backends reaches in stacks of 3x3
convolutions that are large enough to keep every unit busy.

Of memory the fastest of several ways counts, too. A network with large dense layers only reads its weights, and reading
is up to twice as fast as copying, which fetches even what it overwrites. How fast memory is changes from minute to
minute on a machine that shares it with others; so a benchmark measures it between its rounds, and keeps the best.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_fer.backends.child import ChildFailed
from edge_fer.bench.measure import Progress, Worker
from edge_fer.bench.plan import Case
from edge_fer.core.errors import MissingDependencyError
from edge_fer.core.spec import Frozen, ModelSpec, PreprocessSpec

STACKS = ((128, 56, 4), (256, 28, 4), (512, 14, 4))
"""(channels, height and width, convolutions): 0.5 GMAC each layer, as in the stages of a ResNet."""
WAYS = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
MEMORY_BYTES = tuple(1 << power for power in (19, 21, 23, 25, 27, 29))
"""Sizes of what is read or copied: 0.5 MiB, which a core's own cache holds, to 512 MiB, which few caches do."""
PIECE_BYTES = 1 << 23
TIMEOUT_S = 120.0


class ComputePeak(Frozen):
    """Operations a second (a multiply-accumulate is two), with the engine and the stack that reached them."""

    precision: str
    threads: int
    ops_per_s: float
    engine: str
    stack: str


class CopyRate(Frozen):
    """Bytes a second, read and written together, over ``size_bytes`` of memory, and the way that reached them."""

    size_bytes: int
    threads: int
    bytes_per_s: float
    way: str = "numpy.copyto"


class CpuPeaks(Frozen):
    """Measured peaks of this machine; ``copy_rates`` holds the fastest way for each size and number of threads.

    Reaching 100 % of a bound made of them is possible. A case that goes beyond shows that they were measured too low;
    reports say so instead of calling it a bound.
    """

    compute: tuple[ComputePeak, ...]
    copy_rates: tuple[CopyRate, ...]

    def ops_per_s(self, precision: str, threads: int) -> float | None:
        found = [peak.ops_per_s for peak in self.compute if (peak.precision, peak.threads) == (precision, threads)]
        return max(found, default=None)

    def bytes_per_s(self, working_set_bytes: int, threads: int) -> float | None:
        """Of the largest measured size that is not above the working set: the cache that could hold it counts. If a
        larger size ran faster, then that: what more memory can do, less can."""
        rates = sorted((r for r in self.copy_rates if r.threads == threads), key=lambda r: r.size_bytes)
        below = [rate for rate in rates if rate.size_bytes <= working_set_bytes] or rates[:1]
        return max((r.bytes_per_s for r in rates if r.size_bytes >= below[-1].size_bytes), default=None)


def measure_peaks(threads: Sequence[int], progress: Progress) -> CpuPeaks:
    """Measure both for each number of threads.

    Raises:
        MissingDependencyError: onnx is not installed.
    """
    memory = measure_memory(threads, progress)
    compute = measure_compute(threads, progress)
    return best_of(memory, compute, measure_memory(threads, progress))


def best_of(*found: CpuPeaks) -> CpuPeaks:
    """The best of each kind: of one machine, whatever was reached at any time is possible."""
    compute: dict[tuple[str, int], ComputePeak] = {}
    for peak in (peak for peaks in found for peak in peaks.compute):
        key = (peak.precision, peak.threads)
        if key not in compute or peak.ops_per_s > compute[key].ops_per_s:
            compute[key] = peak
    rates: dict[tuple[int, int], CopyRate] = {}
    for rate in (rate for peaks in found for rate in peaks.copy_rates):
        place = (rate.size_bytes, rate.threads)
        if place not in rates or rate.bytes_per_s > rates[place].bytes_per_s:
            rates[place] = rate
    return CpuPeaks(compute=tuple(compute.values()), copy_rates=tuple(rates[place] for place in sorted(rates)))


def measure_compute(
    threads: Sequence[int],
    progress: Progress,
    *,
    stacks: Sequence[tuple[int, int, int]] = STACKS,
    ways: Sequence[tuple[str, str]] = WAYS,
    seconds: float = 0.3,
) -> CpuPeaks:
    """Arithmetic, in every precision; what does not run here is left out.

    Raises:
        MissingDependencyError: onnx is not installed.
    """
    compute: list[CpuPeaks] = []
    with tempfile.TemporaryDirectory(prefix="edge-fer-peak-", ignore_cleanup_errors=True) as folder:
        steps = [(stack, way, count) for stack in stacks for way in ways for count in threads]
        files = {stack: _write_stack(Path(folder), *stack) for stack in stacks}
        for index, (stack, (runtime, precision), count) in enumerate(steps):
            progress(f"peak: {runtime} {precision}, {stack[0]} channels", index, len(steps))
            spec, forms, macs = files[stack]
            try:
                call_s = _fastest_call(runtime, precision, count, spec, forms, seconds)
            except ChildFailed:
                continue
            name = f"{stack[2]} convolutions 3x3 of {stack[0]} channels on {stack[1]}x{stack[1]}"
            peak = ComputePeak(
                precision=precision, threads=count, ops_per_s=2 * macs / call_s, engine=runtime, stack=name
            )
            compute.append(CpuPeaks(compute=(peak,), copy_rates=()))
    return best_of(*compute)


def measure_memory(
    threads: Sequence[int],
    progress: Progress,
    *,
    memory_bytes: Sequence[int] = MEMORY_BYTES,
    seconds: float = 0.15,
) -> CpuPeaks:
    """Memory and caches: of each size the fastest way.

    Args:
        seconds: for each size and way.
    """
    rates: list[CopyRate] = []
    for index, size in enumerate(memory_bytes):
        progress(f"memory: {size >> 10} KiB", index, len(memory_bytes))
        rates += [memory_rate(size, count, seconds) for count in threads]
    return CpuPeaks(compute=(), copy_rates=tuple(rates))


def _fastest_call(
    runtime: str, precision: str, threads: int, spec: ModelSpec, forms: dict[str, Path], seconds: float
) -> float:
    """Seconds of the fastest call of three rounds, because a peak is what nothing disturbed."""
    case = Case.model_validate(
        {"model": "peak", "runtime": runtime, "precision": precision, "threads": threads, "batch": 1}
    )
    description = {
        "case": case.model_dump(),
        "spec": spec.model_dump(mode="json"),
        "bundle": None,
        "onnx": str(forms["int8" if precision == "int8" else "fp32"]),
    }
    with Worker(TIMEOUT_S) as worker:
        worker.ask({"job": description})
        worker.ask({"warm_up": seconds})
        rounds = [worker.ask({"measure": [seconds, 3]})["samples_ns"] for _ in range(3)]
    return float(min(min(samples) for samples in rounds)) / 1e9


def _write_stack(folder: Path, channels: int, side: int, depth: int) -> tuple[ModelSpec, dict[str, Path], int]:
    """A stack of convolutions as fp32 and as int8, its contract, and its multiply-accumulates."""
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        from edge_fer.compile.graph import Graph, count_macs
        from edge_fer.compile.plan import plan_quantisation
        from edge_fer.compile.quantize_int8 import quantize_int8
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            error.name or "onnx", extra="compile", purpose="measuring this processor's peak"
        ) from None
    random = np.random.default_rng(0)
    nodes, stored, width, tensor = [], [], 3, "input"
    for index in range(depth):
        weight = random.normal(0, (2 / (9 * width)) ** 0.5, (channels, width, 3, 3)).astype(np.float32)
        stored += [
            numpy_helper.from_array(weight, f"conv{index}.weight"),
            numpy_helper.from_array(np.zeros(channels, np.float32), f"conv{index}.bias"),
        ]
        inputs = [tensor, f"conv{index}.weight", f"conv{index}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"conv{index}"], f"conv{index}", pads=[1, 1, 1, 1]))
        tensor, width = f"conv{index}.relu", channels
        nodes.append(helper.make_node("Relu", [f"conv{index}"], [tensor], tensor))
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"], "pooled"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], "flat"))
    nodes.append(helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1))
    stored.append(numpy_helper.from_array(random.normal(0, 0.1, (7, channels)).astype(np.float32), "fc.weight"))
    stored.append(numpy_helper.from_array(np.zeros(7, np.float32), "fc.bias"))
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 7])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = ModelSpec(
        name=f"peak-{channels}",
        arch="peak",
        preprocess=PreprocessSpec(size_hw=(side, side), colour="rgb", mean=(0.5,) * 3, std=(0.5,) * 3),
    )
    forms = {kind: folder / f"peak-{channels}-{side}.{kind}.onnx" for kind in ("fp32", "int8")}
    onnx.save(model, forms["fp32"])
    plan = plan_quantisation(Graph(model))
    # Speed does not depend on the ranges, so any will do.
    onnx.save(quantize_int8(model, plan, dict.fromkeys(plan.measured, 4.0), "cpu"), forms["int8"])
    return spec, forms, count_macs(model)


def memory_rate(size_bytes: int, threads: int, seconds: float) -> CopyRate:
    """The fastest of all ways to go through ``size_bytes`` of memory, each thread through its own part.

    Args:
        seconds: for each way.
    """
    part = max(64, size_bytes // threads) & ~63
    arrays = [np.ones(part, np.uint8) for _ in range(threads)]
    ways = _ways()
    rates = {name: _best_rate(way, arrays, seconds) for name, way in ways.items()}
    fastest = max(rates, key=lambda name: rates[name])
    return CopyRate(size_bytes=size_bytes, threads=threads, bytes_per_s=rates[fastest], way=fastest)


def _ways() -> Mapping[str, Callable[[NDArray[np.uint8]], object]]:
    """Functions that touch every byte of an array of ones once, without the interpreter's lock: half of it read and
    half written, or all of it read. Which is the fastest depends on the processor and on how a library was compiled."""

    def copy(array: NDArray[np.uint8]) -> None:
        half = len(array) // 2
        np.copyto(array[half:], array[:half])

    ways: dict[str, Callable[[NDArray[np.uint8]], object]] = {
        "numpy.copyto": copy,
        "numpy.max of bytes": lambda array: array.max(),
        "numpy.max of floats": lambda array: array.view(np.float32).max(),
        "numpy.bitwise_or of words": lambda array: np.bitwise_or.reduce(array.view(np.uint64)),
    }
    if os.name != "nt":
        # The C library's search is written by hand for every generation of processors. There is no 0 to be found.
        search = ctypes.CDLL(None).memchr
        search.restype, search.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        ways["memchr"] = lambda array: search(array.ctypes.data, 0, array.nbytes)
    return ways


def _best_rate(
    way: Callable[[NDArray[np.uint8]], object], arrays: Sequence[NDArray[np.uint8]], seconds: float
) -> float:
    """Best rate of ``way`` over a piece of all arrays at once, bytes a second.

    Piece after piece, round and round: a cache that cannot hold the arrays has lost a piece when its turn comes again,
    and a piece is short enough that some are not interrupted even on a busy machine.
    """
    size = arrays[0].nbytes
    piece = min(size, PIECE_BYTES)
    repeats = max(1, (1 << 21) // piece)

    def go(array: NDArray[np.uint8]) -> None:
        for _ in range(repeats):
            way(array)

    best, start = 0.0, 0
    with ThreadPoolExecutor(len(arrays)) as pool:
        end = time.perf_counter() + seconds
        while True:
            pieces = [array[start : start + piece] for array in arrays]
            began = time.perf_counter()
            if len(pieces) == 1:
                go(pieces[0])
            else:
                list(pool.map(go, pieces))
            best = max(best, piece * len(arrays) * repeats / (time.perf_counter() - began))
            start = start + piece if start + 2 * piece <= size else 0
            if time.perf_counter() > end:
                return best
