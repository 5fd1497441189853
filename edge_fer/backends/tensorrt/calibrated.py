"""TensorRT's own entropy calibration, for comparison with ranges that travel in the bundle.

It exists in TensorRT 8.5 to 10 (``IInt8EntropyCalibrator2``). Its ranges are of one machine and one version, and no
other engine can use them, which is why bundles carry Q/DQ instead. Decision 0018 has the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_fer.backends.gpu import check_precision, identity, workspace_bytes
from edge_fer.backends.tensorrt import library
from edge_fer.backends.tensorrt import plan as plans
from edge_fer.backends.tensorrt.build import ENGINE_FILE, RECORD_FILE, version
from edge_fer.backends.tensorrt.engine import TensorRtEngine
from edge_fer.core.bundle import Bundle, record_files
from edge_fer.core.errors import CalibrationError, UsageError
from edge_fer.core.files import atomic_file
from edge_fer.core.manifest import EngineManifest
from edge_fer.cuda.device import CudaDevice

TABLE_FILE = "calibration.table"
"""The cache in TensorRT's own text format: its version, then a scale per tensor as the hexadecimal of a float32."""


def make_calibrator(trt: Any, device: CudaDevice, batches: Iterable[NDArray[np.float32]], table: Path) -> Any:
    """An ``IInt8EntropyCalibrator2`` that shows TensorRT faces, or gives it the table of an earlier calibration.

    Args:
        batches: preprocessed faces, each float32 (n, C, H, W) with the same n; a smaller last one is left out.
        table: file that TensorRT's ranges are kept in. Where it exists, TensorRT looks at no face.

    Raises:
        UsageError: this version has no calibrator of its own.
        CalibrationError: there is no full batch.
    """
    if not hasattr(trt, "IInt8EntropyCalibrator2"):
        raise UsageError(
            f"{trt.__name__} {trt.__version__} has no calibrator of its own.",
            fix="int8 ranges come with the bundle: edge-fer compile --precision int8 --trt-dialect",
        )
    waiting = iter(batches)
    first = next(waiting, None)
    if first is None or len(first) == 0:
        raise CalibrationError("There are no faces to calibrate on.")
    size, host = len(first), device.pinned(first.shape, np.float32)
    memory, stream = device.allocate(host.nbytes), device.stream()

    def all_batches() -> Iterator[NDArray[np.float32]]:
        yield first
        yield from (batch for batch in waiting if batch.shape == first.shape)

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]  # the base class exists only there
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self._batches = all_batches()
            self._kept = host, memory, stream

        def get_batch_size(self) -> int:
            return size

        def get_batch(self, names: list[str]) -> list[int] | None:
            batch = next(self._batches, None)
            if batch is None:
                return None
            host.array[...] = batch
            device.copy_to_device(memory, host, host.nbytes, stream)
            # TensorRT reads on a stream of its own, and the host array is written again for the next batch.
            stream.synchronize()
            return [memory.pointer]

        def read_calibration_cache(self) -> bytes | None:
            with contextlib.suppress(FileNotFoundError):
                return table.read_bytes()
            return None

        def write_calibration_cache(self, cache: Any) -> None:
            with atomic_file(table) as temporary:
                temporary.write_bytes(bytes(memoryview(cache)))

    return Calibrator()


def open_calibrated(
    bundle: Bundle,
    batches: Iterable[NDArray[np.float32]],
    folder: Path,
    *,
    max_batch: int = 8,
    slots: int = 2,
    on_step: Callable[[str], None] | None = None,
) -> TensorRtEngine:
    """Build the bundle's fp32 form in int8 by TensorRT's calibration, and open it. Nothing holds it to the canary: its
    rounding is not the bundle's.

    Args:
        batches: see :func:`make_calibrator`.
        folder: where plan, calibration table and build record are written; the table is used again.

    Raises:
        EdgeFerError: no GPU, no library, a version without calibrators, or what :func:`plan.build_plan` raises.
    """
    from edge_fer.cuda.open import open_device

    trt, spec = library.import_tensorrt(), bundle.manifest.model
    device = open_device()
    try:
        check_precision(device.info, "int8")
        folder.mkdir(parents=True, exist_ok=True)
        form = bundle.variant("fp32")
        order = plans.Order(
            onnx=bundle.file(form.file),
            precision="int8",
            input_shape=spec.input_shape,
            max_batch=max_batch,
            workspace_bytes=workspace_bytes(device.info),
            calibrator=make_calibrator(trt, device, batches, folder / TABLE_FILE),
        )
        built = plans.build_plan(trt, order, on_step=on_step)
        (folder / ENGINE_FILE).write_bytes(built.data)
        (folder / RECORD_FILE).write_text(built.record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        manifest = EngineManifest(
            model=spec,
            bundle_sha256=bundle.sha256,
            variant_sha256=bundle.record(form.file).sha256,
            backend="tensorrt",
            backend_version=version() or "",
            device=identity(device.info),
            precision="int8",
            max_batch=max_batch,
            files=record_files(folder, [ENGINE_FILE, RECORD_FILE]),
            canary=bundle.manifest.canary,
        )
        return TensorRtEngine(folder, manifest, device, slots=slots)
    except BaseException:
        device.close()
        raise
