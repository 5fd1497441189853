"""Run an engine with OpenVINO on the CPU, through tensors that share the slots' memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from edge_fer.backends.base import HostEngine
from edge_fer.backends.openvino.build import ENGINE_FILE, HINTS, _last_line, import_openvino, settings
from edge_fer.backends.slot import HostSlot
from edge_fer.core.errors import BundleError, EdgeFerError, ProviderError
from edge_fer.core.manifest import EngineManifest


class OvSlot(HostSlot):
    """A slot with one infer request, and the tensors of every batch size over the same memory."""

    def __init__(
        self, openvino: Any, compiled: Any, max_batch: int, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
    ) -> None:
        super().__init__(max_batch, input_shape, output_shape)
        self.request = compiled.create_infer_request()
        self.tensors = [
            (
                openvino.Tensor(self.input[:n], shared_memory=True),
                openvino.Tensor(self.output[:n], shared_memory=True),
            )
            for n in range(1, max_batch + 1)
        ]
        self.bound = 0

    def bind(self, n: int) -> None:
        """Point the request at the first ``n`` rows; free when ``n`` has not changed."""
        if n != self.bound:
            source, result = self.tensors[n - 1]
            self.request.set_input_tensor(source)
            self.request.set_output_tensor(result)
            self.bound = n


class OvEngine(HostEngine[OvSlot]):
    def __init__(self, folder: Path, manifest: EngineManifest, *, threads: int, slots: int) -> None:
        openvino = import_openvino()
        path = folder / ENGINE_FILE
        core = openvino.Core()
        try:
            compiled = core.import_model(io.BytesIO(path.read_bytes()), "CPU", settings(manifest.precision, threads))
        except (RuntimeError, OSError) as error:
            raise BundleError(f"OpenVINO cannot load {path}: {_last_line(error)}") from None
        granted = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if granted != HINTS[manifest.precision]:
            raise ProviderError(f"The engine in {folder} computes in {granted}, not {HINTS[manifest.precision]}.")
        if compiled.get_property("EXECUTION_DEVICES") != ["CPU"]:
            raise ProviderError(
                f"OpenVINO loaded {path} on {compiled.get_property('EXECUTION_DEVICES')}, not on the CPU."
            )
        shapes = manifest.model.input_shape, manifest.model.output_shape
        self.compiled = compiled
        super().__init__(manifest, [OvSlot(openvino, compiled, manifest.max_batch, *shapes) for _ in range(slots)])

    def _start(self, slot: OvSlot, n: int) -> None:
        slot.bind(n)
        slot.request.start_async()

    def _finish(self, slot: OvSlot) -> None:
        try:
            slot.request.wait()
        except RuntimeError as error:
            raise EdgeFerError(f"OpenVINO failed during inference: {_last_line(error)}") from error

    def close(self) -> None:
        for slot in self._slots:
            slot.request.wait()
        self._slots = ()
        self.__dict__.pop("compiled", None)


def load(folder: Path, manifest: EngineManifest, *, threads: int, slots: int) -> OvEngine:
    return OvEngine(folder, manifest, threads=threads, slots=slots)
