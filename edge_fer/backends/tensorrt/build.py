"""ONNX file -> engine for TensorRT: the plan, and beside it how it was built and what its layers became.

The plan is exactly what TensorRT serialised, so that ``trtexec --loadEngine=model.plan`` loads it. Which library, GPU
and driver it belongs to, and the hash of its bytes, stand in ``manifest.json`` beside it, which is read first: a plan
that does not belong here, or is cut short, never reaches TensorRT, which may crash on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_fer.backends.gpu import (
    check_precision,
    current_gpu,
    identity,
    precisions_of,
    workspace_bytes,
)
from edge_fer.backends.tensorrt import library
from edge_fer.backends.tensorrt import plan as plans
from edge_fer.core.errors import DeviceError

ENGINE_FILE, RECORD_FILE, LAYERS_FILE = "model.plan", "build.json", "layers.json"


def version() -> str | None:
    """Library and version that would be used, or ``None``; asks the metadata, so nothing is loaded."""
    found = library.installed()
    return None if found is None else " ".join(found)


def missing() -> DeviceError:
    """The sentence for a machine where neither ``tensorrt`` nor ``tensorrt_rtx`` is installed."""
    return library.missing()


def import_library() -> Any:
    """The module ``tensorrt`` or ``tensorrt_rtx``; raises what :func:`library.import_tensorrt` raises."""
    return library.import_tensorrt()


def device() -> str:
    """The GPU, as far as a plan depends on it.

    Raises:
        DeviceError: there is no driver or no GPU.
    """
    return identity(current_gpu())


def precisions() -> tuple[str, ...]:
    """What is worth building on the GPU here; nothing where there is none, or where the library does not load."""
    try:
        gpu = current_gpu()
        library.import_tensorrt()
    except DeviceError:
        return ()
    return precisions_of(gpu.sm)


def onnx_form(precision: str) -> str:
    """Which form of the bundle a precision is built from."""
    return plans.onnx_form(library.import_tensorrt(), precision)


def build(
    onnx: Path,
    out: Path,
    *,
    precision: str,
    max_batch: int,
    threads: int,
    input_shape: tuple[int, int, int],
    on_step: Callable[[str], None] | None = None,
) -> list[str]:
    """Write the engine's files into ``out`` and return their names.

    Args:
        input_shape: (C, H, W), fixed in the plan even where the ONNX file leaves it open.
        threads: not used: the GPU computes.
        on_step: told in words how far a build is.

    Raises:
        ProviderError: the GPU would compute this precision slower than fp32.
        EdgeFerError: see :func:`edge_fer.backends.tensorrt.plan.build_plan`.
    """
    trt, gpu = library.import_tensorrt(), current_gpu()
    check_precision(gpu, precision)
    order = plans.Order(
        onnx=onnx,
        precision=precision,
        input_shape=input_shape,
        max_batch=max_batch,
        workspace_bytes=workspace_bytes(gpu),
    )
    built = plans.build_plan(trt, order, timing_cache=timing_cache_path(), on_step=on_step)
    (out / ENGINE_FILE).write_bytes(built.data)
    (out / RECORD_FILE).write_text(built.record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (out / LAYERS_FILE).write_text(describe_layers(trt, built.data) + "\n", encoding="utf-8")
    return [ENGINE_FILE, RECORD_FILE, LAYERS_FILE]


def timing_cache_path() -> Path:
    """Where kernel timings of this library on this GPU are kept, beside the engines that they helped to build."""
    from edge_fer.backends.registry import cache_folder

    digest = hashlib.sha256(f"{version()}\n{device()}".encode()).hexdigest()[:16]
    return cache_folder() / "tensorrt-timings" / f"{digest}.cache"


def describe_layers(trt: Any, data: bytes) -> str:
    """The engine inspector's report on a plan, as JSON: what each layer became, with its formats and tactics.

    Raises:
        DeviceError: TensorRT does not load the plan that it has just built.
    """
    with library.listening(trt) as said:
        runtime = library.start_runtime(trt, said)
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise DeviceError(f"TensorRT {trt.__version__} does not load the plan that it built: {said.last()}.")
        inspector = engine.create_engine_inspector()
        report: str = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return report
