"""What the loop needs around a simulated device: kernels that are the CPU's own functions, and an engine that runs the
real network on the device's memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simulated import KernelFunction, SimulatedDevice

from edge_fer.backends.registry import open_engine
from edge_fer.core.bundle import Bundle
from edge_fer.core.engine import INPUT, OUTPUT, Slot
from edge_fer.core.spec import ModelSpec
from edge_fer.cuda.device import Dim3
from edge_fer.cuda.face_kernels import FACE, JOB
from edge_fer.runtime.postprocess import softmax_into
from edge_fer.runtime.preprocess import FaceCropper

FLOAT_BYTES = 4


def face_kernels(model: ModelSpec) -> dict[str, KernelFunction]:
    """The kernels of face.cu by their names, as functions of the CPU on the same structures in device memory."""
    # A job's rectangles are the squares already, margin included.
    cropper = FaceCropper(model.preprocess.model_copy(update={"margin": 0.0}))

    def cut_faces(device: SimulatedDevice, grid: Dim3, block: Dim3, values: tuple[Any, ...]) -> None:
        job_pointer, input_pointer = (value.value for value in values)
        job = device.view(job_pointer, JOB.itemsize).view(JOB)[0]
        count, height, width = (int(job[name]) for name in ("count", "height", "width"))
        assert grid[2] == count, "described for another number of faces"
        assert job["pitch"] == 3 * width
        faces = device.view(job_pointer + JOB.itemsize, count * FACE.itemsize).view(FACE)
        picture = device.view(int(job["pixels"]), height * width * 3).reshape(height, width, 3)
        for row, face in zip(floats(device, input_pointer, (count, *model.input_shape)), faces, strict=True):
            left, top, wide, high = (int(side) for side in face)
            if (left, top, wide, high) == (0, 0, width, height):
                cropper.whole_into(row, picture)
            else:
                cropper.crop_into(row, picture, np.array([left, top, left + wide, top + high], np.float32))

    def softmax_rows(device: SimulatedDevice, _grid: Dim3, _block: Dim3, values: tuple[Any, ...]) -> None:
        logits, scores, *shape = (value.value for value in values)
        softmax_into(floats(device, scores, tuple(shape)), floats(device, logits, tuple(shape)))

    return {"cut_faces": cut_faces, "softmax_rows": softmax_rows}


def floats(device: SimulatedDevice, pointer: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Device memory as an array; no copy."""
    return device.view(pointer, FLOAT_BYTES * int(np.prod(shape))).view(np.float32).reshape(shape)


class SimulatedSlot:
    def __init__(self, device: SimulatedDevice, rows: int, host: Slot, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.host, self.shape_for = host, 0
        self.warm: set[int] = set()
        self._memory = {
            name: device.allocate(FLOAT_BYTES * rows * int(np.prod(shape))) for name, shape in shapes.items()
        }

    @property
    def inputs(self) -> Mapping[str, NDArray[np.float32]]:
        return self.host.inputs

    @property
    def outputs(self) -> Mapping[str, NDArray[np.float32]]:
        return self.host.outputs

    @property
    def input_pointer(self) -> int:
        return self._memory[INPUT].pointer

    @property
    def output_pointer(self) -> int:
        return self._memory[OUTPUT].pointer


class SimulatedEngine:
    """A ``DeviceEngine`` of ONNX Runtime, as strict as TensorRT about captures: none before a call with the same slot
    and number of faces, and a captured launch only while the context has the shape that it had then."""

    def __init__(self, bundle: Bundle, device: SimulatedDevice, *, max_batch: int = 8) -> None:
        self._inner = open_engine(bundle, backend="onnxruntime", precision="int8", max_batch=max_batch)
        self._device, self.manifest = device, self._inner.manifest
        model = self.manifest.classifier
        self._shapes = {INPUT: model.input_shape, OUTPUT: model.output_shape}
        self.slots = tuple(SimulatedSlot(device, max_batch, slot, self._shapes) for slot in self._inner.slots)

    def enqueue(self, slot: Slot, stream: int, n: int) -> None:
        assert isinstance(slot, SimulatedSlot)
        if self._device.is_capturing(stream) and n not in slot.warm:
            raise AssertionError(f"captured before a first call with {n} faces")
        slot.warm.add(n)
        slot.shape_for = n

        def run() -> None:
            assert slot.shape_for == n, "the execution context was changed after the capture"
            source, target = ((n, *self._shapes[name]) for name in (INPUT, OUTPUT))
            slot.host.inputs[INPUT][:n] = floats(self._device, slot.input_pointer, source)
            self._inner.submit(slot.host, n)
            self._inner.wait(slot.host)
            floats(self._device, slot.output_pointer, target)[:] = slot.host.outputs[OUTPUT][:n]

        self._device.enqueue(stream, run)

    def submit(self, slot: Slot, n: int) -> None:
        assert isinstance(slot, SimulatedSlot)
        self._inner.submit(slot.host, n)

    def wait(self, slot: Slot) -> None:
        assert isinstance(slot, SimulatedSlot)
        self._inner.wait(slot.host)

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> SimulatedEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
