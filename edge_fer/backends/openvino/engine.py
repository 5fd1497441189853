"""Run an engine with OpenVINO on the CPU, through tensors that share the slots' memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from edge_fer.backends.base import HostEngine
from edge_fer.backends.openvino.build import ENGINE_FILE, HINTS, SINGLE_FILE, import_openvino, last_line, settings
from edge_fer.backends.slot import HostSlot
from edge_fer.core.errors import BundleError, EdgeFerError, ProviderError
from edge_fer.core.manifest import EngineManifest


class OvSlot(HostSlot):
    """A slot with an infer request for one face and one for more, and a tensor of every batch size over one memory."""

    def __init__(
        self,
        openvino: Any,
        single: Any,
        several: Any | None,
        max_batch: int,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
    ) -> None:
        super().__init__(max_batch, input_shape, output_shape)
        tensors = [
            (
                openvino.Tensor(self.input[:n], shared_memory=True),
                openvino.Tensor(self.output[:n], shared_memory=True),
            )
            for n in range(1, max_batch + 1)
        ]
        self._single = single.create_infer_request()
        _point(self._single, tensors[0])
        self._several = several.create_infer_request() if several is not None else None
        self._tensors, self._bound = tensors, 0

    def request(self, n: int) -> Any:
        """The request that computes the first ``n`` rows; rebinds nothing while ``n`` stays the same."""
        if n == 1:
            return self._single
        if n != self._bound:
            _point(self._several, self._tensors[n - 1])
            self._bound = n
        return self._several


def _point(request: Any, tensors: tuple[Any, Any]) -> None:
    source, result = tensors
    request.set_input_tensor(source)
    request.set_output_tensor(result)


class OvEngine(HostEngine[OvSlot]):
    """``submit`` computes before it returns: handing the work to OpenVINO's own thread and waking up again costs a
    tenth of a millisecond a call, a fifth of the default network's time, and nobody here works in between. The GIL is
    released meanwhile, so other stages go on."""

    def __init__(self, folder: Path, manifest: EngineManifest, *, threads: int, slots: int) -> None:
        openvino = import_openvino()
        core = openvino.Core()

        def open_blob(name: str) -> Any:
            path = folder / name
            try:
                compiled = core.import_model(
                    io.BytesIO(path.read_bytes()), "CPU", settings(manifest.precision, threads)
                )
            except (RuntimeError, OSError) as error:
                raise BundleError(
                    f"OpenVINO cannot load {path}: {last_line(error)}",
                    fix="Run the bundle instead of the engine, and it is rebuilt: edge-fer run --engine BUNDLE",
                ) from None
            granted = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
            if granted != HINTS[manifest.precision]:
                raise ProviderError(
                    f"The engine in {folder} computes in {granted}, not {HINTS[manifest.precision]}.",
                    fix="Run the bundle instead of the engine, and it is rebuilt: edge-fer run --engine BUNDLE",
                )
            if (devices := compiled.get_property("EXECUTION_DEVICES")) != ["CPU"]:
                raise ProviderError(f"OpenVINO loaded {path} on {devices}, not on the CPU.")
            return compiled

        self.compiled = open_blob(SINGLE_FILE)
        several = open_blob(ENGINE_FILE) if manifest.max_batch > 1 else None
        shapes = manifest.model.input_shape, manifest.model.output_shape
        super().__init__(
            manifest, [OvSlot(openvino, self.compiled, several, manifest.max_batch, *shapes) for _ in range(slots)]
        )

    def _start(self, slot: OvSlot, n: int) -> None:
        try:
            slot.request(n).infer()
        except RuntimeError as error:
            raise EdgeFerError(f"OpenVINO failed during inference: {last_line(error)}") from error

    def _finish(self, slot: OvSlot) -> None:
        pass

    def close(self) -> None:
        self._slots = ()
        self.__dict__.pop("compiled", None)


def load(folder: Path, manifest: EngineManifest, *, threads: int, slots: int) -> OvEngine:
    return OvEngine(folder, manifest, threads=threads, slots=slots)
