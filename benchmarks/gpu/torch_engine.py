"""An engine of PyTorch for the loop on a GPU, so that prove.py can run all of the loop on a machine that has neither
TensorRT nor onnxruntime-gpu. The project itself runs nothing on torch: this is one of its measuring devices.

The network is the checkpoint's, in fp32. What it does for a number of faces is captured as a CUDA graph by torch when
the engine is opened; the loop's streams replay it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from edge_fer.backends.pinned_slot import PinnedSlot
from edge_fer.core.bundle import Bundle
from edge_fer.core.engine import INPUT, OUTPUT, Slot
from edge_fer.core.manifest import EngineManifest
from edge_fer.core.spec import ModelSpec
from edge_fer.cuda.device import CudaDevice
from edge_fer.models.checkpoint import find_checkpoint, load_checkpoint

WARM_UP = 3
"""Runs before a capture, in which cuDNN chooses its algorithms and torch allocates."""

Run = Callable[[], None]
Replay = Callable[[int], None]
"""Takes the handle of a stream."""


class _Memory:
    """Device memory as torch takes it over: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html"""

    def __init__(self, pointer: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {"data": (pointer, False), "shape": shape, "typestr": "<f4", "version": 3}


def tensor_at(pointer: int, shape: tuple[int, ...]) -> torch.Tensor:
    """float32 at a device address; no copy, and nothing is kept alive."""
    found: torch.Tensor = torch.as_tensor(_Memory(pointer, shape), device="cuda")
    if found.data_ptr() != pointer:
        raise RuntimeError("torch has copied the memory instead of using it where it lies")
    return found


def captured(run: Run) -> Replay:
    """What replays ``run``, which is captured now, on any stream."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    # Another thread of the loop may be waiting for the device meanwhile.
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        run()
    streams: dict[int, Any] = {}

    def replay(handle: int) -> None:
        stream = streams.get(handle)
        if stream is None:
            stream = streams[handle] = torch.cuda.ExternalStream(handle)
        with torch.cuda.stream(stream):
            graph.replay()

    return replay


def load_network(accelerator: str = "cuda") -> torch.nn.Module:
    """The shipped checkpoint's network in fp32, without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return load_checkpoint(find_checkpoint()).model.eval().requires_grad_(False).to(accelerator)


class TorchSlot(PinnedSlot):
    """A stream, and a replay for every number of faces."""

    def __init__(
        self,
        device: CudaDevice,
        network: torch.nn.Module,
        spec: ModelSpec,
        max_batch: int,
        view: Callable[[int, tuple[int, ...]], torch.Tensor],
        record: Callable[[Run], Replay],
    ) -> None:
        super().__init__(device, spec, max_batch)
        self.stream = device.stream()
        source, target = (
            view(self.memory[name].pointer, (max_batch, *self.row_shapes[name])) for name in (INPUT, OUTPUT)
        )
        self.replays = {}
        for n in range(1, max_batch + 1):

            def run(n: int = n) -> None:
                target[:n].copy_(network(source[:n]))

            self.replays[n] = record(run)


class TorchEngine:
    """A :class:`edge_fer.core.engine.DeviceEngine` of the bundle's network.

    Args:
        device: an opened device, which is closed with the engine.
        view, record: how memory becomes a tensor, and a run something to replay; tests have no GPU for it.
    """

    capturable = keeps_captured = False
    """Whether a graph may be launched into a capture is nothing to find out in a proof of other things."""

    def __init__(
        self,
        device: CudaDevice,
        bundle: Bundle,
        network: torch.nn.Module,
        *,
        max_batch: int = 8,
        slots: int = 2,
        view: Callable[[int, tuple[int, ...]], torch.Tensor] = tensor_at,
        record: Callable[[Run], Replay] = captured,
    ) -> None:
        model = bundle.manifest.classifier
        self.device = device
        self.manifest = EngineManifest(
            model=model,
            bundle_sha256=bundle.sha256,
            variant_sha256=bundle.sha256,
            backend="torch",
            backend_version=torch.__version__,
            device=device.info.name,
            precision="fp32",
            max_batch=max_batch,
            files=(),
            canary=bundle.manifest.canary,
        )
        with torch.inference_mode():
            self.slots = tuple(TorchSlot(device, network, model, max_batch, view, record) for _ in range(slots))

    def enqueue(self, slot: Slot, stream: int, n: int) -> None:
        """See :class:`edge_fer.core.engine.DeviceEngine`."""
        assert isinstance(slot, TorchSlot)
        self.device.take_over()
        slot.replays[n](stream)

    def submit(self, slot: Slot, n: int) -> None:
        """Copy the first ``n`` rows in, infer, copy the results out, all on the slot's stream."""
        assert isinstance(slot, TorchSlot)
        self.device.take_over()
        slot.copy_in(n, slot.stream)
        self.enqueue(slot, slot.stream.handle, n)
        slot.copy_out(n, slot.stream)

    def wait(self, slot: Slot) -> None:
        """Until the slot's outputs are there."""
        assert isinstance(slot, TorchSlot)
        slot.done.synchronize()

    def close(self) -> None:
        """Wait for what is under way and give the memory back."""
        self.device.take_over()
        for slot in self.slots:
            slot.stream.synchronize()
        self.slots = ()
        self.device.close()

    def __enter__(self) -> TorchEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
