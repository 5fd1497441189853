"""Ways to run a case, each opened in a worker process of its own: one class per runtime."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_fer.backends.gpu import ON_GPU_BACKENDS
from edge_fer.backends.openvino.build import HINTS, import_openvino
from edge_fer.core.errors import DeviceError, MissingDependencyError, UsageError
from edge_fer.core.spec import ModelSpec


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


class Job(Protocol):
    """An opened case.

    Attributes:
        executed: library with version, precision and device, in words.
        gpu: the GPU that it runs on; empty for the processor.
        spec: the model's contract.
    """

    executed: str
    gpu: str
    spec: ModelSpec

    def first(self) -> None:
        """The first inference, which ends a cold start."""
        ...

    def measure(self, seconds: float, iterations: int) -> list[int]:
        """Nanoseconds of single calls, at least so many seconds and calls."""
        ...

    def predict(self, samples: Any) -> NDArray[np.float32]:
        """Logits (n, classes) of a dataset.

        Raises:
            UsageError: this runtime only measures speed.
        """
        ...

    def layers(self) -> dict[str, int]:
        """Weighted layers (convolutions and dense ones) by the precision that they are really computed in."""
        ...


def open_job(description: dict[str, Any], stack: ExitStack) -> Job:
    """Open what :func:`edge_fer.bench.measure.run_plan` describes; ``stack`` closes it."""
    runtime = description["case"]["runtime"]
    if runtime in ("torch", "torch-compile"):
        return TorchJob(description)
    if runtime == "benchmark-app":
        return BenchmarkAppJob(description, stack)
    return EngineJob(description, stack)


class EngineJob:
    """One of our backends, through the same calls as the run loop's."""

    def __init__(self, description: dict[str, Any], stack: ExitStack) -> None:
        from edge_fer.backends.registry import open_engine, open_onnx
        from edge_fer.core.bundle import open_bundle

        case = description["case"]
        self.spec = ModelSpec.model_validate(description["spec"])
        options = {
            "backend": case["runtime"],
            "precision": case["precision"],
            "max_batch": max(8, int(case["batch"])),
            "threads": int(case["threads"]),
        }
        if description["bundle"] is not None:
            self._engine = open_engine(open_bundle(Path(description["bundle"])), **options)
        else:
            self._engine = open_onnx(Path(description["onnx"]), self.spec, **options)
        stack.enter_context(self._engine)
        self._onnx, self._slot, self._count = Path(description["onnx"]), self._engine.slots[0], int(case["batch"])
        manifest = self._engine.manifest
        self.gpu = manifest.device if manifest.backend in ON_GPU_BACKENDS else ""
        self.executed = f"{manifest.backend} {manifest.backend_version}, {manifest.precision}, {manifest.device}"

    def first(self) -> None:
        self._engine.submit(self._slot, self._count)
        self._engine.wait(self._slot)

    def measure(self, seconds: float, iterations: int) -> list[int]:
        submit, wait, slot, count = self._engine.submit, self._engine.wait, self._slot, self._count

        def call() -> None:
            submit(slot, count)
            wait(slot)

        return measure(call, seconds, iterations)

    def predict(self, samples: Any) -> NDArray[np.float32]:
        from edge_fer.evaluate.predict import predict

        return predict(self._engine, samples, self.spec.preprocess)

    def layers(self) -> dict[str, int]:
        if self._engine.manifest.backend == "openvino":
            # The loaded network itself, not a second compilation of the same file.
            from edge_fer.compile.executed import layers_by_precision

            return layers_by_precision(self._engine.compiled)  # type: ignore[attr-defined]
        if self._engine.manifest.backend != "onnxruntime":
            return {}  # `layers.json` beside a plan says it in TensorRT's own words
        try:
            import onnx

            from edge_fer.compile.executed import executed_by_onnxruntime
        except ModuleNotFoundError:
            raise MissingDependencyError(
                "onnx", extra="compile", purpose="reading which layers ONNX Runtime executes"
            ) from None
        found = executed_by_onnxruntime(onnx.load(self._onnx))
        return {name: count for name, count in (("int8", found.int8), ("fp32", found.other)) if count}


class TorchJob:
    """The checkpoint in torch: eager, or compiled by torch.compile with its default settings."""

    gpu = ""

    def __init__(self, description: dict[str, Any]) -> None:
        import torch

        from edge_fer.models.checkpoint import load_checkpoint

        case = description["case"]
        self.spec = ModelSpec.model_validate(description["spec"])
        self._threads = int(case["threads"])
        torch.set_num_threads(self._threads)
        model = load_checkpoint(Path(description["checkpoint"])).model.eval()
        self._eager = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = torch.zeros(case["batch"], *self.spec.input_shape)
        self._batch = batch.to(memory_format=torch.channels_last)
        compiled = case["runtime"] == "torch-compile"
        self._model = torch.compile(self._eager) if compiled else self._eager
        mode = "torch.compile (inductor)" if compiled else "eager"
        self.executed = f"torch {torch.__version__} {mode}, channels_last, fp32"

    def first(self) -> None:
        import torch

        with torch.inference_mode():
            self._model(self._batch)

    def measure(self, seconds: float, iterations: int) -> list[int]:
        import torch

        model, batch = self._model, self._batch

        def call() -> None:
            model(batch)

        with torch.inference_mode():
            return measure(call, seconds, iterations)

    def predict(self, samples: Any) -> NDArray[np.float32]:
        # Compiling for a dataset's last, smaller batch would take longer than the whole dataset; the weights are equal.
        from edge_fer.evaluate.predict import predict_module

        return predict_module(self._eager, samples, self.spec.preprocess, threads=self._threads)

    def layers(self) -> dict[str, int]:
        import torch
        from torch import nn

        names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        weighted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        found = Counter(
            names.get(module.weight.dtype, str(module.weight.dtype))
            for module in self._eager.modules()
            if isinstance(module, weighted)
        )
        return dict(found)


class BenchmarkAppJob:
    """OpenVINO's own ``benchmark_app`` in its synchronous latency mode, on the file that our engine is built from.

    Its times come from inside the library, so that they hold no Python at all: what our call adds shows in the
    difference. Precision hint, threads and pinning equal our backend's.
    """

    gpu = ""

    def __init__(self, description: dict[str, Any], stack: ExitStack) -> None:
        self.spec = ModelSpec.model_validate(description["spec"])
        openvino = import_openvino()
        case, folder = description["case"], stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-fer-bench-"))
        model = openvino.Core().read_model(description["onnx"])
        model.reshape([int(case["batch"]), *self.spec.input_shape])
        ir = Path(folder) / "model.xml"
        openvino.save_model(model, str(ir), compress_to_fp16=False)
        self._arguments = [
            *("-m", str(ir), "-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1", "-pin", "NO"),
            *("-nthreads", str(case["threads"]), "-infer_precision", HINTS[case["precision"]]),
        ]
        self.executed = f"benchmark_app of openvino {openvino.__version__.split('-')[0]}, {case['precision']}"

    def first(self) -> None:
        self._run(["-niter", "1"])

    def measure(self, seconds: float, iterations: int) -> list[int]:
        # It takes whole seconds, or a number of calls, but not the larger of both.
        samples = self._run(["-t", str(max(1, math.ceil(seconds)))])
        return samples if len(samples) >= iterations else self._run(["-niter", str(iterations)])

    def _run(self, arguments: list[str]) -> list[int]:
        from openvino.tools.benchmark import benchmark, main

        kept: list[float] = []
        original = benchmark.Benchmark.sync_inference

        def keep(tool: Any, *positional: Any) -> Any:
            result = original(tool, *positional)
            kept.extend(result[0])
            return result

        benchmark.Benchmark.sync_inference, command = keep, sys.argv
        sys.argv = ["benchmark_app", *self._arguments, *arguments]
        # The tool counts its steps for the whole process and refuses a twelfth; it was not made to be called twice.
        main.next_step.step_id = 0
        try:
            main.main()
        except SystemExit as end:
            if end.code:
                raise DeviceError(f"benchmark_app failed with status {end.code}.") from None
        finally:
            benchmark.Benchmark.sync_inference, sys.argv = original, command
        return [round(1e6 * value) for value in kept]

    def predict(self, samples: Any) -> NDArray[np.float32]:
        raise UsageError("benchmark_app measures speed only.")

    def layers(self) -> dict[str, int]:
        return {}
