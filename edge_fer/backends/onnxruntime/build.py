"""ONNX file -> engine for ONNX Runtime: the graph as its optimiser leaves it on this CPU.

Storing the optimised graph makes a cold start cheaper, and lets a reader see which kernels will run. Of an int8 graph,
every convolution gets the kernel that is the fastest on this CPU (:mod:`edge_fer.backends.onnxruntime.kernels`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_fer.backends.host import cpu_identity
from edge_fer.backends.onnxruntime.kernels import fastest_kernels
from edge_fer.core.engine import HEIGHT, WIDTH
from edge_fer.core.errors import DeviceError, EdgeFerError, MissingDependencyError, UsageError

ENGINE_FILE = "model.ort.onnx"
PRECISIONS = ("fp32", "int8")
ERRORS_ONLY = 3
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def version() -> str | None:
    """Version of the installed package, or ``None``; asks the metadata, so nothing is loaded."""
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None


def missing() -> MissingDependencyError:
    """What to say where it is not installed."""
    return MissingDependencyError("onnxruntime", extra="", purpose="the ONNX Runtime backend")


def import_library() -> Any:
    """The ``onnxruntime`` package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise missing() from None
    return onnxruntime


def device() -> str:
    return cpu_identity()


def precisions() -> tuple[str, ...]:
    """What the CPU provider computes in. It runs fp16 graphs too, but by casting every layer to fp32 and back."""
    return PRECISIONS


def onnx_form(precision: str) -> str:
    """Which form of the bundle a precision is built from."""
    if precision not in PRECISIONS:
        raise UsageError(
            f"ONNX Runtime's CPU provider has no {precision} kernels; it would cast every layer to fp32 and back.",
            fix="Use --precision fp32 or int8.",
        )
    return precision


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

    ``input_shape`` (C, H, W) is fixed in the engine even where the ONNX file leaves it open. ``on_step`` is for
    backends that take minutes; here it is told nothing.
    """
    onnx_form(precision)
    ort = import_library()
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name(HEIGHT, input_shape[1])
    options.add_free_dimension_override_by_name(WIDTH, input_shape[2])
    options.optimized_model_filepath = str(out / ENGINE_FILE)
    try:
        ort.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        if precision == "int8":
            fastest_kernels(ort, out / ENGINE_FILE, lambda: as_stored(ort), input_shape)
    except Exception as error:
        raise explain(error, onnx) from None
    return [ENGINE_FILE]


def as_stored(ort: Any) -> Any:
    """Session options that execute a stored graph as it is."""
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def explain(error: Exception, path: Path) -> EdgeFerError:
    """One sentence for what ONNX Runtime raises about a file."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DeviceError(f"ONNX Runtime cannot load {path}: {text}")
