"""What the loop needs around a simulated device: kernels that are the CPU's own functions, and an engine that runs the
real network on the device's memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from simulated import SimulatedDevice

from edge_fer.backends.registry import open_engine
from edge_fer.core.bundle import Bundle
from edge_fer.core.engine import INPUT, OUTPUT, Slot
from edge_fer.core.spec import ModelSpec
from edge_fer.cuda.device import Stream
from edge_fer.runtime.postprocess import softmax_into
from edge_fer.runtime.preprocess import FaceCropper

FLOAT_BYTES = 4
HEADER = ("pointer", "height", "width", "faces", "whole")


class SimulatedFaceKernels:
    """``edge_fer.runtime.cuda_face_stage.FaceKernels``, reading its description when it runs, as device code does."""

    def __init__(self, device: SimulatedDevice, model: ModelSpec, max_faces: int) -> None:
        self._device, self._model = device, model
        self._header = device.pinned((len(HEADER),), np.int64, mapped=True)
        self._boxes = device.pinned((max_faces, 4), np.float32, mapped=True)
        self._cropper = FaceCropper(model.preprocess)

    def describe(
        self, picture_pointer: int, size_hw: tuple[int, int], boxes_xyxy: NDArray[np.float32], *, whole: bool = False
    ) -> None:
        self._header.array[:] = (picture_pointer, *size_hw, len(boxes_xyxy), whole)
        self._boxes.array[: len(boxes_xyxy)] = boxes_xyxy

    def preprocess(self, input_pointer: int, n: int, stream: Stream) -> None:
        shape = (n, *self._model.input_shape)

        def run() -> None:
            pointer, height, width, faces, whole = (int(value) for value in self._header.array)
            assert faces == n, "described for another number of faces"
            picture = self._device.view(pointer, height * width * 3).reshape(height, width, 3)
            for row, box in zip(floats(self._device, input_pointer, shape), self._boxes.array, strict=False):
                if whole:
                    self._cropper.whole_into(row, picture)
                else:
                    self._cropper.crop_into(row, picture, box)

        self._device.enqueue(stream.handle, run)

    def softmax(self, logits_pointer: int, scores_pointer: int, n: int, stream: Stream) -> None:
        shape = (n, len(self._model.labels))

        def run() -> None:
            softmax_into(floats(self._device, scores_pointer, shape), floats(self._device, logits_pointer, shape))

        self._device.enqueue(stream.handle, run)


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
