"""The slot of every backend that computes in host memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.engine import INPUT, OUTPUT

_CACHE_LINE = 64


def aligned_zeros(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A float32 array whose data begins on a cache line: OpenVINO copies inputs that do not."""
    size = int(np.prod(shape)) * 4
    raw = np.zeros(size + _CACHE_LINE, np.uint8)
    offset = -raw.ctypes.data % _CACHE_LINE
    return raw[offset : offset + size].view(np.float32).reshape(shape)


class HostSlot:
    """One input and one output array that live as long as the slot."""

    def __init__(self, max_batch: int, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        self.input = aligned_zeros((max_batch, *input_shape))
        self.output = aligned_zeros((max_batch, *output_shape))
        self._inputs = MappingProxyType({INPUT: self.input})
        self._outputs = MappingProxyType({OUTPUT: self.output})

    @property
    def inputs(self) -> Mapping[str, NDArray[np.float32]]:
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, NDArray[np.float32]]:
        return self._outputs
