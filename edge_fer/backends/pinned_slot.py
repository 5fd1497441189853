"""The memory of a slot whose engine computes on a GPU: what :class:`edge_fer.core.engine.DeviceSlot` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.engine import INPUT, OUTPUT
from edge_fer.core.spec import EngineSpec
from edge_fer.cuda.device import CudaDevice, Stream

_FLOAT_BYTES = 4


class PinnedSlot:
    """Input and output twice, float32 and as long as the slot lives: pinned on the host, and on the device.

    Attributes:
        host: pinned arrays by name, (max_batch, ...).
        memory: device buffers of the same sizes.
        done: recorded when the slot's outputs are in ``host``.
    """

    def __init__(self, device: CudaDevice, spec: EngineSpec, max_batch: int) -> None:
        self.row_shapes = {INPUT: spec.input_shape, OUTPUT: spec.output_shape}
        self._device = device
        self._row_bytes = {name: int(np.prod(shape)) * _FLOAT_BYTES for name, shape in self.row_shapes.items()}
        self.host = {name: device.pinned((max_batch, *shape), np.float32) for name, shape in self.row_shapes.items()}
        self.memory = {name: device.allocate(max_batch * size) for name, size in self._row_bytes.items()}
        self.done = device.event()
        self._inputs: Mapping[str, NDArray[np.float32]] = MappingProxyType({INPUT: self.host[INPUT].array})
        self._outputs: Mapping[str, NDArray[np.float32]] = MappingProxyType({OUTPUT: self.host[OUTPUT].array})

    @property
    def inputs(self) -> Mapping[str, NDArray[np.float32]]:
        """The host's array, which :meth:`copy_in` takes to the device."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, NDArray[np.float32]]:
        """The host's array, which :meth:`copy_out` fills."""
        return self._outputs

    @property
    def input_pointer(self) -> int:
        """Device address of the input."""
        return self.memory[INPUT].pointer

    @property
    def output_pointer(self) -> int:
        """Device address of the output."""
        return self.memory[OUTPUT].pointer

    def copy_in(self, n: int, stream: Stream) -> None:
        """Queue the copy of the input's first ``n`` rows to the device."""
        self._device.copy_to_device(self.memory[INPUT], self.host[INPUT], n * self._row_bytes[INPUT], stream)

    def copy_out(self, n: int, stream: Stream) -> None:
        """Queue the copy of the output's first ``n`` rows to the host, and note when it is there."""
        self._device.copy_to_host(self.host[OUTPUT], self.memory[OUTPUT], n * self._row_bytes[OUTPUT], stream)
        self.done.record(stream)
