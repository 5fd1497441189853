"""Run a plan: host arrays in pinned memory for everybody, device addresses for a loop that lives on the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_fer.backends.base import HostEngine
from edge_fer.backends.pinned_slot import PinnedSlot
from edge_fer.backends.tensorrt.build import ENGINE_FILE
from edge_fer.backends.tensorrt.kernel_cache import KernelCache, open_kernel_cache
from edge_fer.backends.tensorrt.library import (
    Said,
    contexts_share_profiles,
    import_tensorrt,
    listener,
    listening,
    start_runtime,
)
from edge_fer.core.engine import INPUT, OUTPUT, Slot
from edge_fer.core.errors import BundleError, DeviceError, DeviceMemoryError
from edge_fer.core.manifest import EngineManifest
from edge_fer.cuda.device import CudaDevice
from edge_fer.cuda.failures import MAKE_ROOM


class TensorRtSlot(PinnedSlot):
    """A stream, and an execution context for every number of faces that came up.

    A captured graph belongs to the state of the context that it was captured from, and a change of the context's input
    shape changes that state. So a context has one shape for good. Those of a slot never run at the same time and share
    the memory of its activations.

    Where contexts do not share an optimisation profile, a slot has one context, which changes its shape, and ``engine``
    is no other slot's.
    """

    def __init__(
        self, trt: Any, engine: Any, device: CudaDevice, manifest: EngineManifest, kernels: KernelCache | None
    ) -> None:
        super().__init__(device, manifest.model, manifest.max_batch)
        self.stream = device.stream()
        self._trt, self._engine, self._kernels, self._name = trt, engine, kernels, manifest.model.name
        self._activation_bytes = activation_bytes(engine)
        self._activations = device.allocate(max(self._activation_bytes, 1))
        self._only_one = not contexts_share_profiles(trt)
        self._contexts: dict[int, Any] = {}
        self.context_for(1)

    def context_for(self, n: int) -> Any:
        """The context whose input is ``n`` rows.

        Raises:
            DeviceError: there is no memory for another one, or the plan's profile does not reach so far.
        """
        if (made := self._contexts.get(n)) is not None:
            return made
        with listening(self._trt) as said:
            context = self._contexts.popitem()[1] if self._only_one and self._contexts else self._made_context(said)
            if not context.set_input_shape(INPUT, (n, *self.row_shapes[INPUT])):
                raise DeviceError(f"TensorRT takes no {n} faces of {self._name}: {said.last()}.")
        self._contexts[n] = context
        return context

    def _made_context(self, said: Said) -> Any:
        """Another context, which has its memory and no shape yet."""
        trt, engine = self._trt, self._engine
        if self._kernels is not None:
            context = engine.create_execution_context(self._kernels.runtime_config)
        elif hasattr(trt, "ExecutionContextAllocationStrategy"):
            context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        else:
            context = engine.create_execution_context_without_device_memory()
        if context is None:
            raise DeviceMemoryError(
                f"The GPU has no memory left for another execution context of {self._name}: {said.last()}.",
                fix=MAKE_ROOM,
            )
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(self._activations.pointer, self._activation_bytes)
        else:
            context.device_memory = self._activations.pointer
        # The plan tells its layers in detail, for the inspector. To mark them at every run would cost the host time.
        context.nvtx_verbosity = trt.ProfilingVerbosity.NONE
        for name, memory in self.memory.items():
            if not context.set_tensor_address(name, memory.pointer):
                raise BundleError(f"The plan of {self._name} has no tensor {name!r}: {said.last()}.")
        return context

    def close(self) -> None:
        """Let go of the contexts, which must not outlive their engine. Nothing may be under way."""
        self._contexts.clear()
        self._engine = self._kernels = None


class TensorRtEngine(HostEngine[TensorRtSlot]):
    """A plan on a GPU. ``submit`` returns as soon as copy, inference and copy are queued on the slot's stream."""

    capturable = True

    def __init__(self, folder: Path, manifest: EngineManifest, device: CudaDevice, *, slots: int) -> None:
        self._trt, self.device = import_tensorrt(), device
        self.keeps_captured = contexts_share_profiles(self._trt)
        with listening(self._trt) as said:
            self._runtime = start_runtime(self._trt, said)
            self._engine = self._loaded(folder, manifest, said)
            _check_tensors(self._engine, manifest, folder)
            # The weights lie in the GPU's memory once, or where contexts share no profile, once for each slot.
            others = range(0 if self.keeps_captured else slots - 1)
            engines = [self._engine, *(self._loaded(folder, manifest, said) for _ in others)]
        self._kernels = open_kernel_cache(self._trt, self._engine, manifest, ENGINE_FILE)
        super().__init__(
            manifest,
            [
                TensorRtSlot(self._trt, engines[index % len(engines)], device, manifest, self._kernels)
                for index in range(slots)
            ],
        )

    def _loaded(self, folder: Path, manifest: EngineManifest, said: Said) -> Any:
        engine = self._runtime.deserialize_cuda_engine((folder / ENGINE_FILE).read_bytes())
        if engine is not None:
            return engine
        if said.mentions("out of memory", "outofmemory"):
            raise DeviceMemoryError(
                f"The GPU has no memory left for {manifest.model.name}: {said.last()}.", fix=MAKE_ROOM
            )
        raise BundleError(
            f"{manifest.backend_version} does not load the plan in {folder}: {said.last()}.",
            fix="Run the bundle instead of the engine, and it is rebuilt: edge-fer run --engine BUNDLE",
        )

    def enqueue(self, slot: Slot, stream: int, n: int) -> None:
        """See :class:`edge_fer.core.engine.DeviceEngine`.

        Raises:
            DeviceError: TensorRT refuses, or the device was lost.
        """
        if not isinstance(slot, TensorRtSlot) or slot not in self._slots:
            raise ValueError("the slot belongs to another engine")
        if not 1 <= n <= self._manifest.max_batch:
            raise ValueError(f"n must lie in 1..{self._manifest.max_batch}, not {n}")
        self.device.take_over()  # free, unless the loop's thread is another one than the one that opened the engine
        context = slot.context_for(n)
        if not context.execute_async_v3(stream):
            said = listener(self._trt).said
            raise DeviceError(f"TensorRT failed during inference of {n} faces: {said.last()}.")

    def layers(self) -> str:
        """The engine inspector's report, as JSON."""
        inspector = self._engine.create_engine_inspector()
        report: str = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return report

    def _start(self, slot: TensorRtSlot, n: int) -> None:
        self.device.take_over()
        slot.copy_in(n, slot.stream)
        self.enqueue(slot, slot.stream.handle, n)
        slot.copy_out(n, slot.stream)

    def _finish(self, slot: TensorRtSlot) -> None:
        self.device.take_over()
        slot.done.synchronize()

    def close(self) -> None:
        """Free everything, contexts before the engine that they belong to, and the device last; also where the device
        is lost, which is raised then."""
        try:
            self.device.take_over()
            for slot in self._slots:
                slot.stream.synchronize()
            if self._kernels is not None:
                self._kernels.keep()
        finally:
            for slot in self._slots:
                slot.close()
            self._slots = ()
            for name in ("_kernels", "_engine", "_runtime"):
                self.__dict__.pop(name, None)
            self.device.close()


def activation_bytes(engine: Any) -> int:
    """Device memory that an execution context needs besides inputs, outputs and weights."""
    if hasattr(engine, "device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)


def _check_tensors(engine: Any, manifest: EngineManifest, folder: Path) -> None:
    """The plan must be of this network: its tensors by name and shape, and a profile up to the batch."""
    spec = manifest.model
    expected = {INPUT: (-1, *spec.input_shape), OUTPUT: (-1, *spec.output_shape)}
    found = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        found[name] = tuple(engine.get_tensor_shape(name))
    if manifest.max_batch == 1:
        # A profile of one size only makes a fixed dimension.
        found = {name: (-1, *shape[1:]) for name, shape in found.items()}
    if found != expected:
        raise BundleError(
            f"The plan in {folder} has tensors {found}, not {expected}.",
            fix="Run the bundle instead of the engine, and it is rebuilt: edge-fer run --engine BUNDLE",
        )
    largest = tuple(engine.get_tensor_profile_shape(INPUT, 0)[2])
    if largest != (manifest.max_batch, *spec.input_shape):
        raise BundleError(
            f"The plan in {folder} is for inputs up to {largest}, not {manifest.max_batch} faces.",
            fix="Run the bundle instead of the engine, and it is rebuilt: edge-fer run --engine BUNDLE",
        )


def load(folder: Path, manifest: EngineManifest, *, threads: int, slots: int) -> TensorRtEngine:
    """Open the plan in ``folder``, whose files were compared with the manifest before.

    Raises:
        EdgeFerError: no GPU, no library, not enough memory, or the plan is not of this network.
    """
    from edge_fer.cuda.open import open_device

    device = open_device()
    try:
        return TensorRtEngine(folder, manifest, device, slots=slots)
    except BaseException:
        device.close()
        raise
