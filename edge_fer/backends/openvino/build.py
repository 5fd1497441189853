"""ONNX file -> engine for OpenVINO's CPU plugin: the compiled network as a blob."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_fer.backends.host import cpu_identity
from edge_fer.backends.openvino.bytes_first import round_before_rearranging
from edge_fer.backends.openvino.strided import skip_before_strided
from edge_fer.core.errors import DeviceError, MissingDependencyError, ProviderError, UsageError

ENGINE_FILE, SINGLE_FILE = "model.blob", "single.blob"
"""The network for any number of faces up to the largest, and for exactly one: a fixed batch saves OpenVINO working out
shapes in every call, which is a measurable part of a call on a small network."""
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""What the layers that are not quantised compute in. OpenVINO's own default is bf16 where the CPU has it, which is why
an "fp32" engine must say so."""
TELEMETRY = "openvino_telemetry"
_CAPABILITY = {"bf16": "BF16", "fp16": "FP16"}


def version() -> str | None:
    """Version of the installed package, or ``None``; asks the metadata, so nothing is loaded."""
    try:
        return metadata.version("openvino")
    except metadata.PackageNotFoundError:
        return None


def device() -> str:
    return cpu_identity()


def import_openvino() -> Any:
    """The ``openvino`` package, without its telemetry.

    Importing it loads its converter, which reports to Google Analytics and leaves an id in the home folder, and no
    variable of the environment stops that. It goes on quietly where ``openvino_telemetry`` is not installed, so that
    package is hidden during the import.

    Raises:
        MissingDependencyError: it is not installed.
    """
    hidden = TELEMETRY not in sys.modules and "openvino" not in sys.modules
    if hidden:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # what the import system calls "not to be found"
    try:
        import openvino
    except ImportError:
        raise missing() from None
    finally:
        if hidden:
            del sys.modules[TELEMETRY]
    return openvino


def missing() -> MissingDependencyError:
    """What to say where it is not installed."""
    return MissingDependencyError("openvino", extra="openvino", purpose="the OpenVINO backend")


import_library = import_openvino


def precisions() -> tuple[str, ...]:
    """fp32 and int8 everywhere; bf16 and fp16 where the CPU has instructions for them."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", *(name for name, flag in _CAPABILITY.items() if flag in capabilities), "int8")


def onnx_form(precision: str) -> str:
    """Which form of the bundle a precision is built from: half precisions are the fp32 graph with a hint."""
    if precision not in HINTS:
        raise UsageError(f"OpenVINO has no precision {precision!r}.", fix=f"Known: {', '.join(HINTS)}.")
    return "int8" if precision == "int8" else "fp32"


def settings(precision: str, threads: int) -> dict[str, Any]:
    """Plugin settings: one stream, a fixed number of threads, and the precision that was asked for."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "ENABLE_CPU_PINNING": False,
    }


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

    Raises:
        ProviderError: the plugin would compute in another precision than the one asked for.
    """
    onnx_form(precision)
    openvino = import_openvino()
    core = openvino.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision in _CAPABILITY and _CAPABILITY[precision] not in capabilities:
        raise ProviderError(
            f"This CPU has no {precision} instructions, so OpenVINO would compute in fp32.",
            fix="Use --precision int8 or fp32; `edge-fer doctor` says what this machine is good for.",
        )
    batches = {ENGINE_FILE: openvino.Dimension(1, max_batch), SINGLE_FILE: openvino.Dimension(1)}
    if max_batch == 1:
        del batches[ENGINE_FILE]
    for name, batch in batches.items():
        try:
            model = core.read_model(str(onnx))
            if precision == "int8":
                round_before_rearranging(model)
                skip_before_strided(model)
            shape = model.input(0).partial_shape
            shape[0] = batch
            for axis, length in enumerate(input_shape, start=1):
                shape[axis] = openvino.Dimension(length)
            model.reshape(shape)
            compiled = core.compile_model(model, "CPU", settings(precision, threads))
        except RuntimeError as error:
            raise DeviceError(
                f"OpenVINO cannot compile {onnx}: {last_line(error)}", fix="Take another one: --backend onnxruntime"
            ) from None
        granted = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if granted != HINTS[precision]:
            raise ProviderError(
                f"Asked OpenVINO for {HINTS[precision]}, it compiled for {granted}.",
                fix="Take another one: --backend onnxruntime",
            )
        (out / name).write_bytes(compiled.export_model().getvalue())
    return list(batches)


def last_line(error: Exception) -> str:
    """What OpenVINO says was wrong, which stands below the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
