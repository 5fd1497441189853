"""The launches of the face kernels through the real adapter: on the simulated driver the device code runs as compiled
for the host, on a GPU it is the shipped PTX. Collected like check_device.py."""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from simulated_kernels import driver, register, value

from edge_fer.core.spec import DetectorSpec, ModelSpec, PreprocessSpec
from edge_fer.cuda.device import CudaDevice
from edge_fer.cuda.face_kernels import CudaDetectorKernel, CudaFaceKernels, cutter
from edge_fer.cuda.open import open_device
from edge_fer.runtime.detectors.pyramid_input import picture_into
from edge_fer.runtime.preprocess import FaceCropper

KERNELS = Path(__file__).resolve().parents[1] / "kernels" / "conftest.py"
PROVE = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "prove.py"
MODEL = ModelSpec(
    name="m",
    arch="compact",
    preprocess=PreprocessSpec(size_hw=(48, 48), colour="gray", mean=(0.508,), std=(0.255,), margin=0.1),
)
FACES = 4
BOXES = np.array([[10, 20, 110, 130], [200, -10, 290, 90], [300, 180, 340, 230]], np.float32)


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """On the simulated driver: the same source, compiled for the host."""
    if driver() is None:
        return
    spec = importlib.util.spec_from_file_location("kernels_conftest", KERNELS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    host = module.compile_for_host(tmp_path_factory.mktemp("kernels"))

    def cut(name: str, parameters: Any, geometry: tuple[int, ...]) -> None:
        job, out = (ctypes.c_void_p(value(parameters, index, ctypes.c_uint64)) for index in range(2))
        getattr(host, f"host_{name}")((ctypes.c_uint * 6)(*geometry), job, out)

    def softmax_rows(parameters: Any, geometry: tuple[int, ...]) -> None:
        logits, scores = (ctypes.c_void_p(value(parameters, index, ctypes.c_uint64)) for index in range(2))
        rows, classes = (value(parameters, index, ctypes.c_int32) for index in (2, 3))
        host.host_softmax_rows((ctypes.c_uint * 6)(*geometry), logits, scores, rows, classes)

    for turns, half in itertools.product((False, True), repeat=2):
        register(name := cutter(turns=turns, half=half), partial(cut, name))
    register("softmax_rows", softmax_rows)


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    with open_device() as opened:
        yield opened


def picture(seed: int, height: int = 200, width: int = 320) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def cut_by_cpu(image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.empty((len(boxes), *MODEL.input_shape), np.float32)
    cropper = FaceCropper(MODEL.preprocess)
    for row, box in zip(out, boxes, strict=True):
        cropper.crop_into(row, image, box)
    return out


def test_a_captured_graph_follows_the_boxes_and_pictures_of_every_frame(device: CudaDevice) -> None:
    launcher, stream = CudaFaceKernels(device, MODEL, FACES), device.stream()
    frames = [device.pinned((200, 320, 3), np.uint8, mapped=True) for _ in range(2)]
    network_input = device.pinned((FACES, *MODEL.input_shape), np.float32, mapped=True)
    for index, buffer in enumerate(frames):
        buffer.array[:] = picture(index)
    launcher.describe(frames[0].device_pointer, (200, 320), BOXES)
    launcher.preprocess(network_input.device_pointer, len(BOXES), stream)
    stream.synchronize()
    device.begin_capture(stream)
    launcher.preprocess(network_input.device_pointer, len(BOXES), stream)
    graph = device.end_capture(stream)
    level = 1 / 255 / 0.255
    for turn, buffer in enumerate([frames[1], frames[0], frames[1]]):
        boxes = BOXES + 7 * turn
        launcher.describe(buffer.device_pointer, (200, 320), boxes)
        graph.launch(stream)
        stream.synchronize()
        want = cut_by_cpu(buffer.array, boxes)
        np.testing.assert_allclose(network_input.array[: len(boxes)], want, atol=1.01 * level)


def test_a_whole_picture_and_camera_formats(device: CudaDevice) -> None:
    launcher, stream = CudaFaceKernels(device, MODEL, FACES), device.stream()
    memory = device.pinned((300, 320), np.uint8, mapped=True)
    memory.array[:] = np.random.default_rng(0).integers(0, 256, (300, 320))
    out = device.pinned((1, *MODEL.input_shape), np.float32, mapped=True)
    launcher.describe(memory.device_pointer, (200, 320), BOXES[:1], pixels="nv12")
    launcher.preprocess(out.device_pointer, 1, stream)
    stream.synchronize()
    bgr = np.asarray(cv2.cvtColor(memory.array, cv2.COLOR_YUV2BGR_NV12), np.uint8)
    np.testing.assert_allclose(out.array, cut_by_cpu(bgr, BOXES[:1]), atol=1.01 / 255 / 0.255)
    frame = device.pinned((200, 320, 3), np.uint8, mapped=True)
    frame.array[:] = bgr
    launcher.describe(frame.device_pointer, (200, 320), BOXES[:1], whole=True)
    launcher.preprocess(out.device_pointer, 1, stream)
    stream.synchronize()
    want = np.empty(MODEL.input_shape, np.float32)
    FaceCropper(MODEL.preprocess).whole_into(want, bgr)
    np.testing.assert_allclose(out.array[0], want, atol=1.01 / 255 / 0.255)


def test_scores_are_the_softmax_of_the_logits(device: CudaDevice) -> None:
    launcher, stream = CudaFaceKernels(device, MODEL, FACES), device.stream()
    logits, scores = (device.pinned((FACES, 7), np.float32, mapped=True) for _ in range(2))
    logits.array[:] = np.random.default_rng(1).normal(size=(FACES, 7)) * 20
    launcher.softmax(logits.device_pointer, scores.device_pointer, 3, stream)
    stream.synchronize()
    exponents = np.exp(logits.array[:3] - logits.array[:3].max(axis=1, keepdims=True))
    np.testing.assert_allclose(scores.array[:3], exponents / exponents.sum(axis=1, keepdims=True), atol=1e-6)
    assert not scores.array[3].any()


def test_the_proof_script_times_what_it_checks(device: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/gpu/prove.py must work at the first try when a GPU is at hand at last."""
    spec = importlib.util.spec_from_file_location("prove", PROVE)
    assert spec is not None
    assert spec.loader is not None
    prove = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prove)
    monkeypatch.setattr(prove, "REPEATS", 10)
    found = prove.kernels()
    for what in (
        "cut 8 faces, frame in mapped memory",
        "cut 8 turned faces, frame in device memory",
        "make a frame small for the detector",
        "the same as a graph, 1 face",
        "copy NV12 frame",
    ):
        assert found[what]["device_ms_p50"] > 0
        assert found[what]["host_us_p50"] > 0
    assert found["copy BGR frame"]["bytes"] == 720 * 1280 * 3
    rate = device.info.memory_bytes_per_s
    if driver() is not None:
        assert rate == 48.048e9, "an MX250's"
    for faces in (1, 4, 8) if rate else ():
        kept = found["bars"][f"the kernel beside its bytes, {faces} faces"]
        assert kept["limit"] > 2e3 * found[f"cut {faces} faces, frame in device memory"]["bytes"] / rate
        assert kept["passed"] == (kept["found"] <= kept["limit"])


def test_more_faces_than_there_is_room_for_are_refused(device: CudaDevice) -> None:
    with pytest.raises(ValueError, match="room for 4"):
        CudaFaceKernels(device, MODEL, FACES).describe(1, (10, 10), np.zeros((5, 4), np.float32))


def test_a_turned_face_and_a_detector_s_input_are_those_of_the_cpu(device: CudaDevice) -> None:
    """In single and in half precision."""
    stream, frame = device.stream(), device.pinned((200, 320, 3), np.uint8, mapped=True)
    frame.array[:] = picture(5)
    model = MODEL.model_copy(update={"preprocess": MODEL.preprocess.model_copy(update={"alignment": "eyes"})})
    angles, want = [20.0, 0.0, -7.5], np.empty((len(BOXES), *MODEL.input_shape), np.float32)
    cropper = FaceCropper(model.preprocess)
    for row, box, angle_deg in zip(want, BOXES, angles, strict=True):
        cropper.crop_into(row, frame.array, box, angle_deg)
    detector = DetectorSpec(name="d", arch="x", size_hw=(96, 160))
    small = np.empty(detector.input_shape, np.float32)
    picture_into(small, frame.array, detector)
    for half in (False, True):
        dtype = np.float16 if half else np.float32
        faces = device.pinned(want.shape, dtype, mapped=True)
        launcher = CudaFaceKernels(device, model, FACES, half=half)
        launcher.describe(frame.device_pointer, (200, 320), BOXES, angles_deg=angles)
        launcher.preprocess(faces.device_pointer, len(BOXES), stream)
        seen = device.pinned(small.shape, dtype, mapped=True)
        whole = CudaDetectorKernel(device, detector, half=half)
        assert whole.describe(frame.device_pointer, (200, 320)) == (154 / 320, 96 / 200)
        whole.preprocess(seen.device_pointer, stream)
        stream.synchronize()
        rounding = 0.003 if half else 0.0
        np.testing.assert_allclose(faces.array, want, atol=1.01 / 255 / 0.255 + rounding)
        np.testing.assert_allclose(seen.array, small, atol=1.01 / 255 / detector.std + rounding)
