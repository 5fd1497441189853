"""What every inference backend looks like to the rest of the project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.manifest import EngineManifest

Precision = Literal["fp32", "fp16", "bf16", "int8"]

INPUT = "input"
"""Name of the one input of every network that we export: float32 (N, C, H, W)."""
OUTPUT = "logits"
"""Name of the one output: float32 (N, classes) before softmax, or a detector's (N, 15, places) before the sigmoid."""
BATCH, HEIGHT, WIDTH = "N", "H", "W"
"""Names of the dimensions that an ONNX file may leave open; an engine fixes all but the batch."""


@runtime_checkable
class Slot(Protocol):
    """Buffers of one request, allocated once. Only one request may be in flight per slot."""

    @property
    def inputs(self) -> Mapping[str, NDArray[np.float32]]:
        """Write the batch here before ``submit``: each (max_batch, ...), C-contiguous."""
        ...

    @property
    def outputs(self) -> Mapping[str, NDArray[np.float32]]:
        """Valid after ``wait`` and until this slot's next ``submit``: each (max_batch, ...)."""
        ...


@runtime_checkable
class Engine(Protocol):
    """A network ready to run on one device. Use as a context manager, from one thread at a time."""

    @property
    def manifest(self) -> EngineManifest: ...

    @property
    def slots(self) -> Sequence[Slot]: ...

    def submit(self, slot: Slot, n: int) -> None:
        """Start inference on the first ``n`` rows of the slot (1 <= n <= max_batch). Allocates nothing."""
        ...

    def wait(self, slot: Slot) -> None:
        """Block until the slot's outputs are valid; raise what the backend raised, as an ``EdgeFerError``."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class DeviceSlot(Slot, Protocol):
    """A slot whose batch also lies in a GPU's memory, at addresses that stay the same while the engine is open."""

    @property
    def input_pointer(self) -> int:
        """Device address of float32 (max_batch, C, H, W), C-contiguous."""
        ...

    @property
    def output_pointer(self) -> int:
        """Device address of the outputs, float32 (max_batch, ...), C-contiguous."""
        ...


@runtime_checkable
class DeviceEngine(Engine, Protocol):
    """An engine that can work where the data already lies. ``submit`` and ``wait`` move data between host and device
    by a stream of its own; ``enqueue`` moves nothing."""

    @property
    def capturable(self) -> bool:
        """Whether ``enqueue`` may be given a stream that is being captured."""
        ...

    @property
    def keeps_captured(self) -> bool:
        """Whether what was captured may be launched after a call with the same slot and another ``n``. Where not, such
        a call ends the captured work of that slot."""
        ...

    def enqueue(self, slot: Slot, stream: int, n: int) -> None:
        """Put inference on the first ``n`` rows at the slot's addresses on a CUDA stream, and return at once.

        Where the engine is ``capturable``, a stream that is being captured may be given, but only after a call with the
        same slot and ``n`` outside of a capture: the first one with a new ``n`` may allocate. What was captured may be
        launched as long as the engine is open; where it ``keeps_captured``, whatever other ``n`` were enqueued since.

        Args:
            stream: the handle of a ``cudaStream_t`` in the device's primary context.
        """
        ...
