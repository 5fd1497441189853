"""What the loop needs around a simulated device: kernels that are the CPU's own functions, and an engine that runs the
real network on the device's memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from simulated import KernelFunction, SimulatedDevice

from edge_fer.backends.registry import open_engine
from edge_fer.core.bundle import Bundle
from edge_fer.core.engine import INPUT, OUTPUT, Slot
from edge_fer.core.spec import DetectorSpec, ModelSpec
from edge_fer.cuda.device import Dim3
from edge_fer.cuda.face_kernels import BLUE_FIRST, FACE, FORMATS, JOB, PIXEL_BYTES, cutter
from edge_fer.runtime.detectors.pyramid_input import picture_into
from edge_fer.runtime.postprocess import softmax_into
from edge_fer.runtime.preprocess import FaceCropper

FLOAT_BYTES = 4


def face_kernels(model: ModelSpec, detector: DetectorSpec | None = None) -> dict[str, KernelFunction]:
    """The kernels of face.cu by their names, as functions of the CPU on the same structures in device memory.

    Args:
        detector: the contract of the detector that searches on the device, at any input size.
    """
    # A job's rectangles are the squares already, margin included.
    cropper = FaceCropper(model.preprocess.model_copy(update={"margin": 0.0}))

    def cut_faces(device: SimulatedDevice, grid: Dim3, block: Dim3, values: tuple[Any, ...], *, turns: bool) -> None:
        job_pointer, input_pointer = (value.value for value in values)
        job = device.view(job_pointer, JOB.itemsize).view(JOB)[0]
        count = int(job["count"])
        assert grid[2] == count, "described for another number of faces"
        faces = device.view(job_pointer + JOB.itemsize, count * FACE.itemsize).view(FACE)
        picture = picture_of(device, job)
        if job["colour"] == BLUE_FIRST:
            assert detector is not None, "a job for a detector"
            size_hw = (int(job["plane_height"]), int(job["plane_width"]))
            sized = detector.model_copy(update={"size_hw": size_hw})
            (row,) = floats(device, input_pointer, (1, *sized.input_shape))
            picture_into(row, picture, sized)
            return
        for row, face in zip(floats(device, input_pointer, (count, *model.input_shape)), faces, strict=True):
            left, top, wide, high = (int(face[name]) for name in ("left", "top", "width", "height"))
            box = np.array([left, top, left + wide, top + high], np.float32)
            if (left, top, wide, high) == (0, 0, *picture.shape[1::-1]):
                cropper.whole_into(row, picture)
            elif turns and face["sine"]:
                cropper.crop_into(row, picture, box, math.degrees(math.atan2(face["sine"], face["cosine"])))
            else:
                cropper.crop_into(row, picture, box)

    def softmax_rows(device: SimulatedDevice, _grid: Dim3, _block: Dim3, values: tuple[Any, ...]) -> None:
        logits, scores, *shape = (value.value for value in values)
        softmax_into(floats(device, scores, tuple(shape)), floats(device, logits, tuple(shape)))

    cutters = {cutter(turns=turns, half=False): partial(cut_faces, turns=turns) for turns in (False, True)}
    return {**cutters, "softmax_rows": softmax_rows}


def picture_of(device: SimulatedDevice, job: NDArray[np.void]) -> NDArray[np.uint8]:
    """The picture that a job reads, as BGR; what was not copied to the device is poison."""
    height, width, pitch = (int(job[name]) for name in ("height", "width", "pitch"))
    (pixels,) = (name for name, number in FORMATS.items() if number == job["format"])
    assert pitch == width * PIXEL_BYTES[pixels]
    picture = device.view(int(job["pixels"]), height * pitch).reshape(height, width, -1)
    if pixels == "bgr24":
        return picture
    if pixels == "yuyv422":
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_YUV2BGR_YUYV), np.uint8)
    assert job["chroma_pitch"] == width
    chroma = device.view(int(job["chroma"]), height // 2 * width).reshape(height // 2, width)
    return np.asarray(cv2.cvtColor(np.vstack([picture[..., 0], chroma]), cv2.COLOR_YUV2BGR_NV12), np.uint8)


def floats(device: SimulatedDevice, pointer: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Device memory as an array; no copy."""
    return device.view(pointer, FLOAT_BYTES * int(np.prod(shape))).view(np.float32).reshape(shape)


class SimulatedSlot:
    def __init__(self, device: SimulatedDevice, rows: int, host: Slot, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.host = host
        self.warm: set[int] = set()
        self.epoch = 0
        """Of an engine that keeps apart nothing that was captured: how often another number of faces came up."""
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
    """A ``DeviceEngine`` that runs the real network, as strict as TensorRT's about captures: none before a call with
    the same slot and number of faces. (That its contexts keep their shapes is proved in
    tests/backends/test_tensorrt_engine.py.)"""

    capturable = True

    def __init__(
        self,
        bundle: Bundle,
        device: SimulatedDevice,
        *,
        max_batch: int = 8,
        size_hw: tuple[int, int] | None = None,
        keeps_captured: bool = True,
    ) -> None:
        self.keeps_captured = keeps_captured
        self._inner = open_engine(bundle, backend="onnxruntime", precision="int8", max_batch=max_batch, size_hw=size_hw)
        self._device, self.manifest = device, self._inner.manifest
        model = self.manifest.model
        self._shapes = {INPUT: model.input_shape, OUTPUT: model.output_shape}
        self.slots = tuple(SimulatedSlot(device, max_batch, slot, self._shapes) for slot in self._inner.slots)

    def enqueue(self, slot: Slot, stream: int, n: int) -> None:
        assert isinstance(slot, SimulatedSlot)
        if self._device.is_capturing(stream) and n not in slot.warm:
            raise AssertionError(f"captured before a first call with {n} faces")
        if not self.keeps_captured and slot.warm != {n}:
            slot.warm.clear()
            slot.epoch += 1
        slot.warm.add(n)
        epoch = slot.epoch if self._device.is_capturing(stream) else None

        def run() -> None:
            if epoch not in (None, slot.epoch):
                raise AssertionError(f"a graph for {n} faces was launched after a call with another number")
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
