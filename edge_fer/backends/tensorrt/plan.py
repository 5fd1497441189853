"""ONNX file -> TensorRT plan, by one path for TensorRT 8.5 to 11 and TensorRT for RTX."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_fer.backends.tensorrt.dialect import read_dialect
from edge_fer.backends.tensorrt.library import Said, listener, listening
from edge_fer.backends.tensorrt.progress import make_monitor
from edge_fer.core.engine import INPUT, OUTPUT
from edge_fer.core.errors import BadInputError, DeviceError, DeviceMemoryError, UsageError
from edge_fer.core.files import atomic_file
from edge_fer.core.spec import Frozen
from edge_fer.cuda.failures import MAKE_ROOM

PRECISIONS = ("fp32", "fp16", "int8")
HARMLESS = ("INT64",)
"""A parser's warning with one of these words is no finding: 8.x says that it narrows INT64 weights (the shape of a
Reshape) to INT32, and complains when a value does not fit in an error."""


@dataclass(frozen=True)
class Order:
    """What to build.

    Attributes:
        onnx: the form that :func:`onnx_form` names.
        input_shape: (C, H, W), fixed in the plan even where the file leaves it open.
        max_batch: the profile reaches from 1 to this, and is tuned for 1: a loop mostly sees one face.
        workspace_bytes: scratch memory that a kernel may ask for.
        sm: build for this architecture instead of that of the GPU at hand, where the library can (TensorRT for RTX).
        calibrator: TensorRT's own, over a file that is not quantised, instead of stored ranges
            (:mod:`edge_fer.backends.tensorrt.calibrated`).
    """

    onnx: Path
    precision: str
    input_shape: tuple[int, int, int]
    max_batch: int
    workspace_bytes: int
    sm: tuple[int, int] | None = None
    calibrator: Any | None = None


class BuildRecord(Frozen):
    """``build.json`` beside the plan: how it came about. ``warnings`` are the builder's; the parser's stop a build."""

    library: str
    precision: str
    flags: tuple[str, ...]
    strongly_typed: bool
    sm: str | None
    max_batch: int
    workspace_bytes: int
    layers: int
    harmless: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    timing_cache: str


@dataclass(frozen=True)
class Plan:
    """A serialised engine, exactly as TensorRT gave it, and how it came about."""

    data: bytes
    record: BuildRecord


def onnx_form(trt: Any, precision: str) -> str:
    """Which form of a bundle a precision is built from: fp16 is the fp32 graph with a flag where the graph's own types
    cannot decide.

    Raises:
        UsageError: TensorRT has no such precision here.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"The TensorRT backend has no precision {precision!r}.", fix=f"Known: {', '.join(PRECISIONS)}."
        )
    if precision == "fp16" and _flag_of(trt, precision) is not None:
        return "fp32"
    return precision


def build_plan(
    trt: Any,
    order: Order,
    *,
    timing_cache: Path | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Plan:
    """Parse and build.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        timing_cache: file of kernel timings, read and written; it makes the second build on a machine faster.

    Raises:
        BadInputError: the file is not what the precision needs, or the parser rejects it or warns about it.
        DeviceError: TensorRT cannot build it here: wrong GPU for this version, not enough memory, or another reason.
    """
    _check_form(trt, order)
    with warnings.catch_warnings():
        # Versions of the middle call names old that the versions before them need.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _build(trt, order, timing_cache, on_step)


def _build(trt: Any, order: Order, timing_cache: Path | None, on_step: Callable[[str], None] | None) -> Plan:
    with listening(trt) as said:
        builder = _builder(trt, said)
        network = builder.create_network(_network_flags(trt, order))
    harmless = _parse(trt, network, order)
    with listening(trt) as said:
        config = _configure(trt, builder, order)
        known = _use_timing_cache(trt, config, timing_cache)
        if on_step is not None:
            if (monitor := make_monitor(trt, on_step)) is not None:
                config.progress_monitor = monitor
            else:
                on_step(
                    "TensorRT is choosing kernels, which can take minutes; this version does not tell how far it is"
                )
        try:
            serialized = builder.build_serialized_network(network, config)
        except Exception as error:
            said.errors.append(str(error))
            serialized = None
        if serialized is None:
            raise _cannot_build(trt, order, said)
        data = bytes(memoryview(serialized))
        if known != "none":
            _keep_timing_cache(config, timing_cache)
    return Plan(
        data,
        BuildRecord(
            library=_library(trt),
            precision=order.precision,
            flags=() if _flag_of(trt, order.precision) is None else (order.precision.upper(),),
            strongly_typed=_is_strongly_typed(trt, order),
            sm=None if order.sm is None else f"sm_{order.sm[0]}{order.sm[1]}",
            max_batch=order.max_batch,
            workspace_bytes=order.workspace_bytes,
            layers=network.num_layers,
            harmless=tuple(harmless),
            warnings=tuple(line.strip() for line in said.warnings),
            timing_cache=known,
        ),
    )


def _check_form(trt: Any, order: Order) -> None:
    """The file must be what the precision is built from: TensorRT itself would build, and compute something else."""
    found = read_dialect(order.onnx)
    if order.precision == "int8" and order.calibrator is None:
        if found.nodes == 0:
            raise BadInputError(f"{order.onnx} is not quantised, so it is no int8 form.", fix=_COMPILE)
        if not found.is_trt:
            raise BadInputError(
                f"{order.onnx} is quantised for CPUs, not for TensorRT: {found.violations[0]}. TensorRT would load it "
                "and compute something else.",
                fix=_COMPILE,
            )
    elif found.nodes:
        raise BadInputError(f"{order.onnx} is quantised, so it is no form for {order.precision}.")
    wants_half = order.calibrator is None and onnx_form(trt, order.precision) == "fp16"
    if found.half != wants_half:
        holds, wants = ("float16", "float32") if found.half else ("float32", "float16")
        raise BadInputError(
            f"{order.onnx} holds {holds} weights; {_library(trt)} builds {order.precision} from {wants} ones."
        )


_COMPILE = "Compile the bundle with: edge-fer compile CHECKPOINT --precision int8 --trt-dialect"


def _builder(trt: Any, said: Said) -> Any:
    try:
        builder = trt.Builder(listener(trt))
    except Exception as error:
        said.errors.append(str(error))
        builder = None
    if builder is None:
        raise DeviceError(f"TensorRT {trt.__version__} cannot start its builder: {said.last()}.", fix=_DOCTOR)
    return builder


_DOCTOR = "`edge-fer doctor` prints what to install for this GPU."


def _library(trt: Any) -> str:
    return f"{trt.__name__} {trt.__version__}"


def _flag_of(trt: Any, precision: str) -> Any | None:
    """The builder flag that allows a precision, or ``None`` where the graph's own types decide.

    In fp16 they decide wherever they can: the bundle's cast graph keeps in fp32 what would leave fp16's range, and the
    flag lets TensorRT compute just that in fp16, on faces that no canary holds.
    """
    if precision == "fp16" and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return None
    return getattr(trt.BuilderFlag, precision.upper(), None)


def _is_strongly_typed(trt: Any, order: Order) -> bool:
    return order.precision != "fp32" and _flag_of(trt, order.precision) is None


def _network_flags(trt: Any, order: Order) -> int:
    kinds, flags = trt.NetworkDefinitionCreationFlag, 0
    if hasattr(kinds, "EXPLICIT_BATCH"):
        flags |= 1 << int(kinds.EXPLICIT_BATCH)
    if _is_strongly_typed(trt, order) and hasattr(kinds, "STRONGLY_TYPED"):
        flags |= 1 << int(kinds.STRONGLY_TYPED)
    return flags


def _parse(trt: Any, network: Any, order: Order) -> list[str]:
    """Read the file into the network; returns warnings that mean nothing."""
    with listening(trt) as said:
        parser = trt.OnnxParser(network, listener(trt))
        understood = parser.parse_from_file(str(order.onnx))
        complaints = [_complaint(parser.get_error(index)) for index in range(parser.num_errors)]
    if not understood or complaints:
        raise BadInputError(f"TensorRT does not accept {order.onnx}: {(complaints or [said.last()])[0]}.")
    findings = [line.strip() for line in said.warnings if not any(word in line for word in HARMLESS)]
    if findings:
        raise BadInputError(
            f"TensorRT would read {order.onnx} otherwise than it was verified: {findings[0]}",
            fix="Compile the bundle again with this version of edge-fer.",
        )
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    if (inputs, outputs) != ([INPUT], [OUTPUT]):
        raise BadInputError(f"{order.onnx} has inputs {inputs} and outputs {outputs}, not {INPUT} and {OUTPUT}.")
    return [line.strip() for line in said.warnings]


def _complaint(error: Any) -> str:
    where = f"node {error.node()}: " if error.node() >= 0 else ""
    return f"{where}{error.desc()}".rstrip(".")


def _configure(trt: Any, builder: Any, order: Order) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_bytes)
    # TF32 keeps 10 of 23 bits of the mantissa and is on by default: what is called fp32 here is fp32.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if (flag := _flag_of(trt, order.precision)) is not None:
        config.set_flag(flag)
    if order.sm is not None and hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, order.sm), 0)
    profile = builder.create_optimization_profile()
    smallest, largest = (1, *order.input_shape), (order.max_batch, *order.input_shape)
    profile.set_shape(INPUT, smallest, smallest, largest)
    config.add_optimization_profile(profile)
    if hasattr(trt.PreviewFeature, "PROFILE_SHARING_0806"):
        # 8.6 gives a profile to one execution context only, unless it is told otherwise here; 10 always shares them.
        sharing = trt.PreviewFeature.PROFILE_SHARING_0806
        if not config.get_preview_feature(sharing):
            config.set_preview_feature(sharing, True)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # TensorRT for RTX allocates while it runs, unless told not to, and then its streams cannot be captured.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if order.calibrator is not None:
        config.int8_calibrator = order.calibrator
        # Faces come in batches of one size, which need not be one that the engine will see.
        calibration_profile = builder.create_optimization_profile()
        size = (order.calibrator.get_batch_size(), *order.input_shape)
        calibration_profile.set_shape(INPUT, size, size, size)
        config.set_calibration_profile(calibration_profile)
    return config


def _capability(trt: Any, sm: tuple[int, int]) -> Any:
    found = getattr(trt.ComputeCapability, f"SM{sm[0]}{sm[1]}", None)
    if found is None:
        names = ", ".join(name for name in dir(trt.ComputeCapability) if name.startswith("SM"))
        raise DeviceError(f"{_library(trt)} builds nothing for sm_{sm[0]}{sm[1]}; it knows {names}.", fix=_DOCTOR)
    return found


def _use_timing_cache(trt: Any, config: Any, path: Path | None) -> str:
    """Give the builder what was timed before; a file of another machine is ignored by TensorRT itself."""
    if path is None or hasattr(trt, "IRuntimeCache"):
        # TensorRT for RTX times nothing when it builds: it compiles kernels when an engine is loaded.
        return "none"
    stored = b""
    with contextlib.suppress(FileNotFoundError):
        stored = path.read_bytes()
    timing_cache = config.create_timing_cache(stored)
    if timing_cache is not None and config.set_timing_cache(timing_cache, False):
        return f"{len(stored)} bytes" if stored else "new"
    empty = config.create_timing_cache(b"")
    config.set_timing_cache(empty, False)
    return "new: the old one did not fit"


def _keep_timing_cache(config: Any, path: Path | None) -> None:
    timing_cache = config.get_timing_cache() if path is not None else None
    if path is None or timing_cache is None:
        return
    with atomic_file(path) as temporary:
        temporary.write_bytes(bytes(memoryview(timing_cache.serialize())))


def _cannot_build(trt: Any, order: Order, said: Said) -> DeviceError:
    library = _library(trt)
    if said.mentions("unsupported sm", "not supported on this platform", "no kernel image"):
        return DeviceError(f"{library} does not serve this GPU: {said.last()}.", fix=_DOCTOR)
    if said.mentions("out of memory", "outofmemory", "insufficient memory"):
        return DeviceMemoryError(
            f"The GPU ran out of memory while {library} built {order.onnx.name} for up to {order.max_batch} faces: "
            f"{said.last()}.",
            fix=MAKE_ROOM,
        )
    return DeviceError(f"{library} cannot build {order.onnx.name} in {order.precision}: {said.last()}.")
