"""The GPU package of ONNX Runtime, simulated over the real CPU package.

Everything that our code asks of the module is asked of the real one first, so that no name or signature is of our
invention: a binding is a real ``IOBinding`` of a real session, of the CPU's provider over memory of the host. What is
played is what the CPU package lacks: providers of a GPU, granted as a test says; inference that happens when the stream
of the session gets to it, on the device's memory; a wait at the end of a run, unless the run's options say otherwise;
and graphs, which replay the addresses that they were captured with.

Names of the providers' options were read off onnxruntime-gpu 1.26.0's libraries.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from simulated import SimulatedDevice
from simulated_parts import floats

from edge_fer.backends.onnxruntime import gpu
from edge_fer.cuda.device import DeviceInfo

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
KNOWN_OPTIONS = {
    CUDA: {
        "device_id", "user_compute_stream", "use_tf32", "arena_extend_strategy", "cudnn_conv_algo_search",
        "enable_cuda_graph",
    },
    TENSORRT: {
        "device_id", "user_compute_stream", "trt_max_workspace_size", "trt_fp16_enable", "trt_int8_enable",
        "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes", "trt_engine_cache_enable",
        "trt_engine_cache_path", "trt_timing_cache_enable", "trt_timing_cache_path",
    },
}  # fmt: skip
SWITCHES = {"trt_fp16_enable", "trt_int8_enable", "trt_engine_cache_enable", "trt_timing_cache_enable"}
"""Of onnxruntime-gpu 1.23.2: ``strings onnxruntime_pybind11_state*.so | grep "should be 'True' or 'False'"``."""
CARD = DeviceInfo("Simulated RTX 3050", (8, 6), 4 << 30, 12_080, integrated=False, async_engines=1, can_map=True)
REAL_SESSION, REAL_OPTIONS = ort.InferenceSession, ort.RunOptions


@dataclass
class Machine:
    """What the simulated package runs on, and what goes wrong there.

    Attributes:
        view: float32 arrays over device memory: (address, shape) -> array.
        enqueue, synchronize: put a function on the stream of a handle, and wait for it.
        granted: the providers that a session is given, whatever it asked for.
        load_error, run_error: what ONNX Runtime raises instead of making a session or of running it.
        runs, replays, waits: how often inference was queued, as a graph, and waited for before ``run`` returned.
        sessions: every one that was made.
    """

    view: Callable[[int, tuple[int, ...]], NDArray[np.float32]]
    enqueue: Callable[[int, Callable[[], None]], None]
    synchronize: Callable[[int], None]
    granted: tuple[str, ...] = (CUDA, CPU)
    load_error: str = ""
    run_error: str = ""
    runs: int = 0
    replays: int = 0
    waits: int = 0
    sessions: list[Session] = field(default_factory=list)


class Binding:
    """A real binding's calls, kept; and made on a real binding too, over memory of the host."""

    def __init__(self, real: ort.InferenceSession) -> None:
        self._real, self._binding = real, real.io_binding()
        self._memory: dict[str, NDArray[np.float32]] = {}
        self.bound: dict[str, tuple[int, tuple[int, ...]]] = {}

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
    ) -> None:
        self._keep(self._binding.bind_input, name, device_type, device_id, element_type, shape, buffer_ptr)

    def bind_output(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
    ) -> None:
        self._keep(self._binding.bind_output, name, device_type, device_id, element_type, shape, buffer_ptr)

    def _keep(
        self, bind: Callable[..., None], name: str, where: str, index: int, kind: Any, shape: Any, pointer: int
    ) -> None:
        assert (where, index, kind) == ("cuda", 0, np.float32)
        assert pointer, "a null pointer"
        self._memory[name] = np.full(shape, np.nan, np.float32)
        bind(name, "cpu", index, kind, shape, self._memory[name].ctypes.data)
        self.bound[name] = (pointer, tuple(shape))

    def compute(self, machine: Machine, bound: dict[str, tuple[int, tuple[int, ...]]]) -> None:
        """Inference by the real session, from and to device memory as it is now."""
        self._memory["input"][:] = machine.view(*bound["input"])
        self._real.run_with_iobinding(self._binding)
        machine.view(*bound["logits"])[:] = self._memory["logits"]


class Session:
    def __init__(self, machine: Machine, path: str, options: Any, providers: Any, enable_fallback: int | None) -> None:
        assert enable_fallback == 0, "a provider that throws would be replaced by the next"
        assert isinstance(options, ort.SessionOptions)
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        self.asked: dict[str, dict[str, str]] = dict(providers)
        for provider, settings in self.asked.items():
            assert set(settings) <= KNOWN_OPTIONS[provider], "an option that the provider does not know is an error"
            assert all(isinstance(value, str) for value in settings.values())
            for switch in SWITCHES & set(settings):
                if settings[switch] not in ("True", "False"):
                    raise RuntimeError(f"The value for the key '{switch}' should be 'True' or 'False'.")
        if machine.load_error:
            raise RuntimeError(machine.load_error)
        self.options, self._machine = options, machine
        streams = {settings["user_compute_stream"] for settings in self.asked.values()}
        (self.stream,) = (int(stream) for stream in streams)
        self.graph = self.asked[CUDA]["enable_cuda_graph"] == "1"
        self.graph_ids: list[str] = []
        self._seen: dict[tuple[int, str], int] = {}
        self._captured: dict[tuple[int, str], dict[str, tuple[int, tuple[int, ...]]]] = {}
        single = ort.SessionOptions()
        single.intra_op_num_threads = 1
        self._real = REAL_SESSION(path, single, providers=[CPU])
        machine.sessions.append(self)

    def get_providers(self) -> list[str]:
        return list(self._machine.granted)

    def io_binding(self) -> Binding:
        return Binding(self._real)

    def run_with_iobinding(self, binding: Binding, options: ort.RunOptions) -> None:
        machine = self._machine
        if machine.run_error:
            raise RuntimeError(machine.run_error)
        entry = {key: _entry(options, key) for key in ("disable_synchronize_execution_providers", "gpu_graph_id")}
        self.graph_ids.append(entry["gpu_graph_id"])
        bound = dict(binding.bound)
        if self.graph:
            # A graph belongs to the thread that captured it, at its second run there.
            key = threading.get_ident(), entry["gpu_graph_id"]
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] >= 2:
                bound = self._captured.setdefault(key, bound)
                machine.replays += 1
        machine.runs += 1
        machine.enqueue(self.stream, lambda: binding.compute(machine, bound))
        if entry["disable_synchronize_execution_providers"] != "1":
            machine.waits += 1
            machine.synchronize(self.stream)


def _entry(options: ort.RunOptions, key: str) -> str:
    try:
        return str(options.get_run_config_entry(key))
    except RuntimeError:  # the real one raises where there is none
        return ""


def install(
    patch: pytest.MonkeyPatch,
    cache: Path,
    *granted: str,
    card: DeviceInfo = CARD,
    device: SimulatedDevice | None = None,
    **changes: Any,
) -> Machine:
    """Let the imported ``onnxruntime`` be the GPU package, on a machine with a card, until ``patch`` is undone.

    Args:
        cache: where engines are built.
        granted: see :class:`Machine`.
        device: what every opening of the card gives; otherwise each gives a new simulated device.
    """
    opened: list[SimulatedDevice] = [] if device is None else [device]

    def open_device(index: int = 0, adapter: str = "cuda-python") -> SimulatedDevice:
        if device is None:
            opened.append(SimulatedDevice(info=card))
        return opened[-1]

    def session(path: str, options: Any, *, providers: Any, enable_fallback: int | None = None) -> Any:
        if providers == [CPU]:
            return REAL_SESSION(path, options, providers=providers)
        return Session(machine, path, options, providers, enable_fallback)

    machine = Machine(
        view=lambda pointer, shape: floats(opened[-1], pointer, shape),
        enqueue=lambda handle, work: opened[-1].enqueue(handle, work),
        synchronize=lambda handle: opened[-1].borrow(handle).synchronize(),
        **changes,
    )
    machine.granted = granted or machine.granted
    patch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    patch.setattr(ort, "InferenceSession", session)
    patch.setattr(ort, "set_default_logger_severity", lambda level: None)
    if hasattr(ort, "preload_dlls"):
        patch.setattr(ort, "preload_dlls", lambda: None)
    patch.setenv("EDGE_FER_CACHE", str(cache))
    patch.setattr("edge_fer.cuda.open.open_device", open_device)
    patch.setattr("edge_fer.cuda.open.describe_device", lambda index=0: card)
    patch.setattr(gpu.GpuProvider, "version", lambda self: "1.26.0")
    return machine
