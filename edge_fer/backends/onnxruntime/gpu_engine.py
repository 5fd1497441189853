"""Run a network with ONNX Runtime on a GPU, on memory and a stream of ours.

A session computes on one CUDA stream for good, the one that it was made with (``user_compute_stream``), and is told not
to wait at the end of a run. So everything here is put on that stream, and other streams are tied to it by events:

    caller's stream  ── crop ──┐ ready                      finished ┌── softmax ──
    session's stream           └──────── inference ──────────────────┘
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_fer.backends.base import HostEngine
from edge_fer.backends.pinned_slot import PinnedSlot
from edge_fer.core.engine import INPUT, OUTPUT, Slot
from edge_fer.core.errors import DeviceError, DeviceLostError, DeviceMemoryError
from edge_fer.core.manifest import EngineManifest
from edge_fer.core.spec import EngineSpec
from edge_fer.cuda.device import CudaDevice, Stream
from edge_fer.cuda.failures import MAKE_ROOM, START_AGAIN

if TYPE_CHECKING:
    from edge_fer.backends.onnxruntime.gpu import GpuProvider

ENGINE_FILE = "model.onnx"
DOCTOR = "`edge-fer doctor` prints what to install for this GPU."
_DO_NOT_WAIT, _GRAPH = "disable_synchronize_execution_providers", "gpu_graph_id"
"""Entries of ``RunOptions``; ``onnxruntime_run_options_config_keys.h`` lists them."""
_CUDA_SAYS = re.compile(r"(?:CUDA|CUDNN|CUBLAS)\w* failure (\w+): ?([^;\n]+)")
_FULL = ("out of memory", "failed to allocate memory", "alloc_failed")
_WRONG_GPU = ("no kernel image",)
_LOST = frozenset({"214", "700", "702", "709", "714", "715", "716", "717", "718", "719", "999"})
"""Of ``cudaError``: from ``cudaErrorECCUncorrectable`` to ``cudaErrorUnknown``, after which the context is broken."""


def bind_rows(session: Any, kind: str, n: int, spec: EngineSpec, pointers: Mapping[str, int]) -> Any:
    """An IO binding of the first ``n`` rows at two addresses.

    Args:
        kind: ``cuda``, or ``cpu`` for a session of the CPU's provider.
        pointers: of the input and the output, float32 (at least n, ...), C-contiguous; whoever has them keeps them
            alive as long as the binding.
    """
    binding = session.io_binding()
    binding.bind_input(INPUT, kind, 0, np.float32, (n, *spec.input_shape), pointers[INPUT])
    binding.bind_output(OUTPUT, kind, 0, np.float32, (n, *spec.output_shape), pointers[OUTPUT])
    return binding


class GpuSlot(PinnedSlot):
    """A binding for every number of faces, made once: rebinding costs more than a small network."""

    def __init__(self, ort: Any, session: Any, device: CudaDevice, manifest: EngineManifest, first_graph: int) -> None:
        """``first_graph``: number of the CUDA graph for one face, where ONNX Runtime makes graphs; else 0."""
        spec, batch = manifest.model, manifest.max_batch
        super().__init__(device, spec, batch)
        self.ready, self.finished = device.event(), device.event()
        pointers = {name: memory.pointer for name, memory in self.memory.items()}
        self.bindings = [bind_rows(session, "cuda", n, spec, pointers) for n in range(1, batch + 1)]
        self.options = [_options(ort, first_graph and first_graph + index) for index in range(batch)]


def _options(ort: Any, graph: int) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry(_DO_NOT_WAIT, "1")
    if graph:
        # A graph holds the addresses that it was captured with: one per slot and number of faces.
        options.add_run_config_entry(_GRAPH, str(graph))
    return options


class GpuEngine(HostEngine[GpuSlot]):
    """``submit`` returns as soon as copy, inference and copy are queued on the session's stream."""

    def __init__(
        self, provider: GpuProvider, folder: Path, manifest: EngineManifest, device: CudaDevice, *, slots: int
    ) -> None:
        ort = provider.import_library()
        self.device, self._stream = device, device.stream()
        self._provider = provider.provider
        self.session = provider.open_session(folder / ENGINE_FILE, manifest, folder, self._stream.handle)
        batch = manifest.max_batch
        graphs = [1 + index * batch if provider.graph else 0 for index in range(slots)]
        super().__init__(manifest, [GpuSlot(ort, self.session, device, manifest, graph) for graph in graphs])

    def _infer(self, slot: GpuSlot, n: int) -> None:
        """Queue inference on the session's stream."""
        try:
            self.session.run_with_iobinding(slot.bindings[n - 1], slot.options[n - 1])
        except Exception as error:
            raise explain_gpu(error, f"ONNX Runtime's {self._provider} failed during inference of {n} faces") from None

    def _start(self, slot: GpuSlot, n: int) -> None:
        self.device.take_over()
        slot.copy_in(n, self._stream)
        self._infer(slot, n)
        slot.copy_out(n, self._stream)

    def _finish(self, slot: GpuSlot) -> None:
        slot.done.synchronize()

    def close(self) -> None:
        """Free everything: bindings before the session, the session before the stream that it computes on."""
        if self.__dict__.get("session") is None:
            return
        try:
            self.device.take_over()
            self._stream.synchronize()
        finally:
            for slot in self._slots:
                slot.bindings.clear()
            self._slots = ()
            self.session = None
            self.device.close()


class GpuDeviceEngine(GpuEngine):
    """The same for a loop whose data lies on the GPU; see :class:`edge_fer.core.engine.DeviceEngine`."""

    capturable = keeps_captured = False
    """Kernels of another library's session in a graph of ours are not promised by anybody."""

    def enqueue(self, slot: Slot, stream: int, n: int) -> None:
        """See :class:`edge_fer.core.engine.DeviceEngine`. Inferences of several streams run one after the other.

        Raises:
            DeviceError: ONNX Runtime refuses, the GPU's memory is full, or the device was lost.
        """
        if not isinstance(slot, GpuSlot) or slot not in self._slots:
            raise ValueError("the slot belongs to another engine")
        if not 1 <= n <= self._manifest.max_batch:
            raise ValueError(f"n must lie in 1..{self._manifest.max_batch}, not {n}")
        self.device.take_over()  # free, unless the loop's thread is another one than the one that opened the engine
        caller: Stream = self.device.borrow(stream)
        slot.ready.record(caller)
        self._stream.wait(slot.ready)
        self._infer(slot, n)
        slot.finished.record(self._stream)
        caller.wait(slot.finished)


class GpuGraphEngine(GpuEngine):
    """Every run replays a CUDA graph that ONNX Runtime captured for its slot and number of faces.

    It captures in CUDA's global mode, in which a call of any other thread may break the capture
    (``cuda_graph.cc``), and keeps a graph for each thread. So a run is over before ``submit`` returns, no thread waits
    beside another's run, and a loop that lives on the GPU cannot have this engine.
    """

    def _start(self, slot: GpuSlot, n: int) -> None:
        super()._start(slot, n)
        slot.done.synchronize()

    def _finish(self, slot: GpuSlot) -> None:
        pass


def explain_gpu(error: Exception, what: str) -> DeviceError:
    """One sentence for what ONNX Runtime raises about a GPU, in which its sources, lines and host names are left out.

    Args:
        what: the beginning of the sentence: who failed, and at what.
    """
    text = str(error)
    found = _CUDA_SAYS.search(text)
    said = (found[2] if found else (text.splitlines() or [type(error).__name__])[0]).strip().rstrip(".")
    lower = text.lower()
    if any(word in lower for word in _FULL):
        return DeviceMemoryError(f"{what}: the GPU's memory is full ({said}).", fix=MAKE_ROOM)
    if any(word in lower for word in _WRONG_GPU):
        return DeviceError(f"{what}: this version does not serve this GPU ({said}).", fix=DOCTOR)
    if found and found[1] in _LOST:
        return DeviceLostError(f"{what}: the GPU was lost ({said}).", fix=START_AGAIN)
    return DeviceError(f"{what}: {said}.")
