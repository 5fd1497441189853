"""Run an engine with ONNX Runtime on the CPU, through IO bindings made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_fer.backends.base import HostEngine
from edge_fer.backends.onnxruntime.build import ENGINE_FILE, as_stored, explain
from edge_fer.backends.slot import HostSlot
from edge_fer.core.engine import INPUT, OUTPUT
from edge_fer.core.errors import EdgeFerError, ProviderError
from edge_fer.core.manifest import EngineManifest

PROVIDER = "CPUExecutionProvider"


class OrtSlot(HostSlot):
    """A slot with one binding per batch size, so that changing the number of faces rebinds nothing."""

    def __init__(
        self, session: Any, max_batch: int, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
    ) -> None:
        super().__init__(max_batch, input_shape, output_shape)
        self.bindings = []
        for n in range(1, max_batch + 1):
            binding = session.io_binding()
            binding.bind_input(INPUT, "cpu", 0, np.float32, (n, *input_shape), self.input.ctypes.data)
            binding.bind_output(OUTPUT, "cpu", 0, np.float32, (n, *output_shape), self.output.ctypes.data)
            self.bindings.append(binding)


class OrtEngine(HostEngine[OrtSlot]):
    """``submit`` computes before it returns: ONNX Runtime's asynchronous call needs threads of its own that compete
    with the loop's. The GIL is released meanwhile, so other stages go on."""

    def __init__(self, folder: Path, manifest: EngineManifest, *, threads: int, slots: int) -> None:
        import onnxruntime as ort

        options = as_stored(ort)
        options.intra_op_num_threads = threads
        path = folder / ENGINE_FILE
        try:
            self.session = ort.InferenceSession(str(path), options, providers=[PROVIDER])
        except Exception as error:
            raise explain(error, path) from None
        if self.session.get_providers() != [PROVIDER]:
            raise ProviderError(
                f"Asked ONNX Runtime for {PROVIDER}, got {self.session.get_providers()}.",
                fix="Install it again: pip install --force-reinstall onnxruntime",
            )
        shapes = manifest.model.input_shape, manifest.model.output_shape
        super().__init__(manifest, [OrtSlot(self.session, manifest.max_batch, *shapes) for _ in range(slots)])

    def _start(self, slot: OrtSlot, n: int) -> None:
        try:
            self.session.run_with_iobinding(slot.bindings[n - 1])
        except Exception as error:
            raise EdgeFerError(f"ONNX Runtime failed during inference: {error}") from error

    def _finish(self, slot: OrtSlot) -> None:
        pass

    def close(self) -> None:
        for slot in self._slots:
            slot.bindings.clear()
        self._slots = ()
        self.__dict__.pop("session", None)


def load(folder: Path, manifest: EngineManifest, *, threads: int, slots: int) -> OrtEngine:
    return OrtEngine(folder, manifest, threads=threads, slots=slots)
