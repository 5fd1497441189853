"""TensorRT of any version, simulated: exactly the public names that the real bindings of that version have, and behind
those that our code uses, ONNX Runtime.

Names come from ``tensorrt_names.json``. A class here has what the class of that name has in that version, and nothing
else, so code that runs over every version touches no name that one of them lacks. A plan holds the ONNX file, which is
executed on the CPU when the stream that it was queued on gets to it. Loading a plan that is cut short, or of another
version or GPU, crashes, as the real one may.
"""

from __future__ import annotations

import enum
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from edge_fer.cuda.device import DeviceInfo

NAMES = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text(encoding="utf-8"))
VERSIONS: tuple[str, ...] = tuple(NAMES["versions"])
MAGIC = b"SIMULATED PLAN\n"
STATIC = ("Severity", "name", "value")


class Crash(BaseException):
    """The process would be gone."""


@dataclass
class Machine:
    """What the simulated library runs on, and what goes wrong there.

    Attributes:
        device: a function that gives the simulated CUDA device in use.
        contexts: how many execution contexts fit into its memory.
        build_error, runtime_error, enqueue_error: what the library says instead of building, loading or running.
        most_faces: an engine for more does not fit into its memory.
        parser_warnings: what the parser says about every file.
        built, loaded, calibrated: how often it did.
        compiled: how often TensorRT for RTX compiled kernels for an execution context.
        flags: builder flags of the last build.
    """

    info: DeviceInfo
    device: Callable[[], Any]
    contexts: int = 100
    build_error: str = ""
    runtime_error: str = ""
    most_faces: int = 1 << 20
    enqueue_error: str = ""
    parser_warnings: tuple[str, ...] = ()
    built: int = 0
    loaded: int = 0
    compiled: int = 0
    calibrated: list[np.ndarray] = field(default_factory=list)
    table_used: bool = False
    flags: set[str] = field(default_factory=set)
    config: Any = None


def has(kind: str, name: str, version: str) -> bool:
    where = NAMES["names"].get(kind, {}).get(name, "")
    return where == "*" or version in where.split(", ")


def make(version: str, machine: Machine) -> ModuleType:
    """The module ``tensorrt`` (or ``tensorrt_rtx``) of a version."""
    module = ModuleType("tensorrt_rtx" if version.startswith("rtx") else "tensorrt")
    module.__version__ = version.removeprefix("rtx ")  # type: ignore[attr-defined]

    def offer(kind: type, name: str | None = None) -> type:
        """Put a class into the module with the members that it has in this version; none may be of our invention."""
        name = name or kind.__name__
        if not has("", name, version):
            return kind
        for member in [m for m in vars(kind) if not m.startswith("_") and m not in STATIC]:
            known = NAMES["names"].get(name)
            if known is not None:
                assert member in known, f"{name}.{member} is in no version of TensorRT"
                if not has(name, member, version):
                    delattr(kind, member)
        setattr(module, name, kind)
        return kind

    def enumeration(name: str) -> Any:
        members = [m for m in NAMES["names"].get(name, {}) if has(name, m, version)]
        if has("", name, version):
            setattr(module, name, enum.IntEnum(name, {m: i for i, m in enumerate(members)}))
        return getattr(module, name, None)

    exclusive = version.startswith("8.")
    flags = enumeration("BuilderFlag")
    network_flags = enumeration("NetworkDefinitionCreationFlag")
    for name in (
        "ExecutionContextAllocationStrategy",
        "MemoryPoolType",
        "ProfilingVerbosity",
        "LayerInformationFormat",
        "ComputeCapability",
        "PreviewFeature",
        "DynamicShapesKernelSpecializationStrategy",
    ):
        enumeration(name)

    class ILogger:
        Severity = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)

    offer(ILogger)
    severity = ILogger.Severity

    class IProgressMonitor:
        pass

    class IInt8EntropyCalibrator2:
        pass

    for kind in (IProgressMonitor, IInt8EntropyCalibrator2):
        offer(kind)

    class IRuntimeCache:
        """What belongs to this version and driver, and the batch sizes that kernels were compiled for."""

        def __init__(self) -> None:
            self._compiled: set[int] = set()

        def deserialize(self, blob: Any) -> bool:
            mine, _, compiled = bytes(blob).decode().partition(":")
            if mine != f"{version} {machine.info.driver_version}":
                return False
            self._compiled = set(json.loads(compiled))
            return True

        def serialize(self) -> bytes:
            return f"{version} {machine.info.driver_version}:{sorted(self._compiled)}".encode()

    class IRuntimeConfig:
        dynamic_shapes_kernel_specialization_strategy: Any = None

        def __init__(self) -> None:
            self._strategy: Any = None
            self._cache: Any = None

        def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
            self._strategy = strategy

        def create_runtime_cache(self) -> Any:
            return IRuntimeCache()

        def set_runtime_cache(self, cache: Any) -> bool:
            self._cache = cache
            return True

    for kind in (IRuntimeCache, IRuntimeConfig):
        offer(kind)

    class IOptimizationProfile:
        def __init__(self) -> None:
            self._shapes: dict[str, tuple[Any, Any, Any]] = {}

        def set_shape(self, name: str, smallest: Any, usual: Any, largest: Any) -> None:
            assert len(smallest) == len(usual) == len(largest)
            self._shapes[name] = (tuple(smallest), tuple(usual), tuple(largest))

    class ITimingCache:
        def __init__(self, data: bytes) -> None:
            self._data = data

        def serialize(self) -> bytes:
            return self._data

    class IBuilderConfig:
        int8_calibrator: Any = None
        progress_monitor: Any = None
        profiling_verbosity: Any = None
        num_compute_capabilities: int = 0

        def __init__(self) -> None:
            self._pools: dict[Any, int] = {}
            self._flags: set[Any] = {flags.TF32}
            self._profiles: list[Any] = []
            self._calibration_profile: Any = None
            self._timing: ITimingCache | None = None
            # NVIDIA's guide for 8.6: one context to a profile, unless this is set; since 10.0 it is, and stays.
            self._previews: set[Any] = set() if exclusive else {"PROFILE_SHARING_0806"}

        def __setattr__(self, name: str, value: Any) -> None:
            # Real configurations take no attribute that they do not have.
            if not name.startswith("_") and not hasattr(type(self), name):
                raise AttributeError(f"IBuilderConfig of TensorRT {version} has no {name}")
            super().__setattr__(name, value)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self._pools[pool] = size

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag)

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(flag)

        def get_preview_feature(self, feature: Any) -> bool:
            return feature.name in self._previews

        def set_preview_feature(self, feature: Any, enable: bool) -> None:
            assert enable
            self._previews.add(feature.name)

        def add_optimization_profile(self, profile: Any) -> int:
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def set_calibration_profile(self, profile: Any) -> bool:
            self._calibration_profile = profile
            return True

        def create_timing_cache(self, data: bytes) -> Any:
            return ITimingCache(data)

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert ignore_mismatch is False
            fits = not cache._data or cache._data == f"timings of {version}".encode()
            self._timing = cache if fits else None
            return fits

        def get_timing_cache(self) -> Any:
            return self._timing

        def set_compute_capability(self, capability: Any, index: int) -> bool:
            return True

    class _Tensor:
        def __init__(self, name: str) -> None:
            self.name = name

    class INetworkDefinition:
        def __init__(self, typing: int) -> None:
            self._typing = typing
            self._model: Any = None

        @property
        def num_layers(self) -> int:
            return len(self._model.graph.node)

        @property
        def num_inputs(self) -> int:
            return len(self._model.graph.input)

        @property
        def num_outputs(self) -> int:
            return len(self._model.graph.output)

        def get_input(self, index: int) -> Any:
            return _Tensor(self._model.graph.input[index].name)

        def get_output(self, index: int) -> Any:
            return _Tensor(self._model.graph.output[index].name)

    class OnnxParser:
        num_errors = 0

        def __init__(self, network: Any, logger: Any) -> None:
            self._network, self._logger = network, logger

        def parse_from_file(self, path: str) -> bool:
            self._network._model = onnx.load(path)
            for warning in machine.parser_warnings:
                self._logger.log(severity.WARNING, warning)
            return True

        def get_error(self, index: int) -> Any:
            raise IndexError(index)

    class Builder:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def create_network(self, typing: int) -> Any:
            if hasattr(network_flags, "EXPLICIT_BATCH"):
                assert typing & 1 << network_flags.EXPLICIT_BATCH, "the implicit batch knows no dynamic shapes"
            return INetworkDefinition(typing)

        def create_builder_config(self) -> Any:
            return IBuilderConfig()

        def create_optimization_profile(self) -> Any:
            return IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            machine.built += 1
            machine.config = config
            machine.flags = {flag.name for flag in config._flags}
            if machine.build_error:
                self._logger.log(severity.ERROR, machine.build_error)
                return None
            if config._profiles[0]._shapes["input"][2][0] > machine.most_faces:
                self._logger.log(severity.ERROR, "Error Code 2: OutOfMemory (no further information)")
                return None
            if (calibrator := getattr(config, "int8_calibrator", None)) is not None:
                _calibrate(calibrator, config._calibration_profile)
            if (monitor := getattr(config, "progress_monitor", None)) is not None:
                monitor.phase_start("Building Engine", None, 2)
                monitor.phase_start("Timing", "Building Engine", 3)
                assert monitor.step_complete("Timing", 0)
                assert monitor.step_complete("Building Engine", 0)
                monitor.phase_finish("Timing")
                monitor.phase_finish("Building Engine")
            if config._timing is not None:
                config._timing._data = f"timings of {version}".encode()
            shapes = {name: [list(s) for s in found] for name, found in config._profiles[0]._shapes.items()}
            header = {"version": version, "device": machine.info.name, "sm": machine.info.sm, "shapes": shapes}
            header["shared"] = "PROFILE_SHARING_0806" in config._previews
            return MAGIC + json.dumps(header).encode() + b"\n" + network._model.SerializeToString() + b"END"

    def _calibrate(calibrator: Any, profile: Any) -> None:
        if (table := calibrator.read_calibration_cache()) is not None:
            assert bytes(table).startswith(b"TRT-")
            machine.table_used = True
            return
        size, usual, largest = profile._shapes["input"]
        assert size == usual == largest
        assert size[0] == calibrator.get_batch_size()
        while (pointers := calibrator.get_batch(["input"])) is not None:
            (pointer,) = pointers
            view = machine.device().view(pointer, 4 * int(np.prod(size)))
            machine.calibrated.append(np.array(view.view(np.float32).reshape(size)))
        calibrator.write_calibration_cache(memoryview(b"TRT-8503-EntropyCalibration2\ninput: 3c010a14\n"))

    class EngineInspector:
        def __init__(self, plan: _Loaded) -> None:
            self._plan = plan

        def get_engine_information(self, kind: Any) -> str:
            assert kind == module.LayerInformationFormat.JSON
            return json.dumps({"Layers": [node.name for node in self._plan.model.graph.node]})

    class _Loaded:
        def __init__(self, data: bytes) -> None:
            if not data.startswith(MAGIC) or not data.endswith(b"END"):
                raise Crash("a plan that is cut short or edited")
            header, _, model = data[len(MAGIC) :].partition(b"\n")
            self.header = json.loads(header)
            if self.header["version"] != version or self.header["device"] != machine.info.name:
                raise Crash("a plan of another version or GPU")
            self.model = onnx.load_from_string(model[: -len(b"END")])
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            self.session = ort.InferenceSession(self.model.SerializeToString(), options)
            self.first_context: Callable[[], Any] = lambda: None

    class IExecutionContext:
        def __init__(self, plan: _Loaded, logger: Any, kernels: Any) -> None:
            self._plan, self._logger, self._kernels = plan, logger, kernels
            self._addresses: dict[str, int] = {}
            self._shape: tuple[int, ...] | None = None
            self._memory = False
            self._shapes_set = 0
            # The first context takes profile 0; another one has none where it cannot share that.
            self._has_profile = plan.header["shared"] or plan.first_context() is None
            if plan.first_context() is None:
                plan.first_context = weakref.ref(self)

        def set_device_memory(self, memory: int, size: int) -> None:
            machine.device().view(memory, size)
            self._memory = True

        nvtx_verbosity: Any = None
        device_memory = property(None, lambda self, memory: setattr(self, "_memory", bool(memory)))

        def set_tensor_address(self, name: str, address: int) -> bool:
            if name not in ("input", "logits"):
                return False
            self._addresses[name] = address
            return True

        def set_input_shape(self, name: str, shape: Any) -> bool:
            if not self._has_profile:
                self._logger.log(severity.ERROR, "Profile 0 has been chosen by another IExecutionContext")
                return False
            smallest, _, largest = self._plan.header["shapes"][name]
            if not all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True)):
                self._logger.log(severity.ERROR, "the shape is outside of the profile")
                return False
            self._shape = tuple(shape)
            self._shapes_set += 1
            if hasattr(module, "IRuntimeCache") and shape[0] not in self._kernels._compiled:
                machine.compiled += 1
                self._kernels._compiled.add(shape[0])
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            if machine.enqueue_error:
                self._logger.log(severity.ERROR, machine.enqueue_error)
                return False
            assert self._shape is not None, "no input shape"
            assert self._memory, "no memory for activations"
            assert self.nvtx_verbosity == module.ProfilingVerbosity.NONE, "a plan built in detail marks every layer"
            device, shape, addresses = machine.device(), self._shape, dict(self._addresses)
            captured = device._streams[stream_handle].captured is not None
            shapes_set = self._shapes_set

            def compute() -> None:
                if captured and shapes_set != self._shapes_set:
                    raise Crash("a graph was launched whose context has another shape since")
                source = device.view(addresses["input"], 4 * int(np.prod(shape))).view(np.float32).reshape(shape)
                (found,) = self._plan.session.run(["logits"], {"input": np.array(source)})
                device.view(addresses["logits"], found.nbytes)[:] = found.astype(np.float32).reshape(-1).view(np.uint8)

            device.enqueue(stream_handle, compute)
            return True

    class ICudaEngine:
        device_memory_size = 1 << 20
        device_memory_size_v2 = 1 << 20
        num_io_tensors = 2

        def __init__(self, plan: _Loaded, logger: Any) -> None:
            self._plan, self._logger = plan, logger

        def get_tensor_name(self, index: int) -> str:
            return ("input", "logits")[index]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            smallest, _, largest = self._plan.header["shapes"]["input"]
            batch = -1 if smallest[0] != largest[0] else largest[0]
            if name == "input":
                return (batch, *largest[1:])
            (found,) = self._plan.session.run(["logits"], {"input": np.zeros(smallest, np.float32)})
            return (batch, *found.shape[1:])

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
            assert profile_index == 0
            shapes: list[list[int]] = self._plan.header["shapes"][name]
            return shapes

        def create_engine_inspector(self) -> Any:
            return EngineInspector(self._plan)

        def create_runtime_config(self) -> Any:
            return IRuntimeConfig()

        def create_execution_context(self, how: Any) -> Any:
            kernels = None
            if hasattr(module, "IRuntimeCache"):
                lazy = module.DynamicShapesKernelSpecializationStrategy.LAZY
                if how.dynamic_shapes_kernel_specialization_strategy in (None, lazy):
                    raise Crash("which kernels a capture records hangs on how far a thread of TensorRT's has come")
                how, kernels = how._strategy, how._cache
            assert how == module.ExecutionContextAllocationStrategy.USER_MANAGED
            return self._context(kernels)

        def create_execution_context_without_device_memory(self) -> Any:
            return self._context(None)

        def _context(self, kernels: Any) -> Any:
            if machine.contexts == 0:
                self._logger.log(severity.ERROR, "Error Code 1: Cuda Runtime (out of memory)")
                return None
            machine.contexts -= 1
            return IExecutionContext(self._plan, self._logger, kernels)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            if machine.runtime_error:
                logger.log(severity.ERROR, machine.runtime_error)
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            machine.loaded += 1
            return ICudaEngine(_Loaded(data), self._logger)

    for kind in (
        IOptimizationProfile,
        ITimingCache,
        IBuilderConfig,
        INetworkDefinition,
        OnnxParser,
        Builder,
        EngineInspector,
        IExecutionContext,
        ICudaEngine,
        Runtime,
    ):
        offer(kind)
    return module
