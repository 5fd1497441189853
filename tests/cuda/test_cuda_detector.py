"""The search for faces on a device that does everything late: what the CPU finds, and every byte counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from simulated import MX250, SimulatedDevice, SimulatedEvent
from simulated_parts import SimulatedEngine, face_kernels

from edge_fer.backends.registry import open_engine
from edge_fer.cli.run import DEMO
from edge_fer.core.bundle import Bundle, find_bundle, open_bundle
from edge_fer.core.errors import DeviceError
from edge_fer.core.faces import Faces
from edge_fer.cuda.device import DeviceInfo
from edge_fer.runtime.cuda_loop import CudaLoop
from edge_fer.runtime.detectors.face_pyramid import FacePyramidDetector

SMALLEST_PX = 80

pytestmark = pytest.mark.usefixtures("averaged_at_once")


@pytest.fixture(scope="module")
def faces() -> Bundle:
    return open_bundle(find_bundle("edge-fer-face"))


@pytest.fixture(scope="module")
def frames() -> list[NDArray[np.uint8]]:
    clip = cv2.VideoCapture(str(DEMO))
    found = [np.asarray(clip.read()[1], np.uint8) for _ in range(3)]
    clip.release()
    return [*found, np.asarray(cv2.resize(found[0], (507, 301), interpolation=cv2.INTER_AREA), np.uint8)]


@pytest.fixture(scope="module")
def on_cpu(faces: Bundle) -> Iterator[FacePyramidDetector]:
    def open_at(size_hw: tuple[int, int]) -> object:
        return open_engine(faces, backend="onnxruntime", precision="int8", max_batch=1, slots=1, size_hw=size_hw)

    detector = FacePyramidDetector(open_at, faces.manifest.detector, min_face_px=SMALLEST_PX)  # type: ignore[arg-type]
    yield detector
    detector.close()


class OnGpu:
    """A simulated device with a detector on it."""

    def __init__(self, faces: Bundle, model: Bundle, info: DeviceInfo = MX250) -> None:
        spec = faces.manifest.detector
        self.device = SimulatedDevice(face_kernels(model.manifest.classifier, spec), info=info)
        self.loop = CudaLoop(self.device)  # type: ignore[arg-type]
        self.detector = FacePyramidDetector(
            lambda size_hw: SimulatedEngine(faces, self.device, max_batch=1, size_hw=size_hw),  # type: ignore[arg-type, return-value]
            spec,
            min_face_px=SMALLEST_PX,
            full_level=self.loop.level,
        )

    def pinned(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        made = self.loop.pictures.allocate(image.shape)
        made[:] = image
        return made


def same(found: Faces, wanted: Faces) -> None:
    assert found.landmarks is not None
    assert wanted.landmarks is not None
    for here, there in (
        (found.boxes_xyxy, wanted.boxes_xyxy),
        (found.landmarks, wanted.landmarks),
        (found.scores, wanted.scores),
    ):
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("integrated", [False, True])
def test_it_finds_what_the_cpu_finds_in_frames_of_any_size_from_anywhere(
    faces: Bundle, shipped: Bundle, frames: list, on_cpu: FacePyramidDetector, integrated: bool
) -> None:
    gpu = OnGpu(faces, shipped, replace(MX250, integrated=integrated))
    for frame in frames:
        wanted = on_cpu.detect(frame)
        assert len(wanted) > 0
        same(gpu.detector.detect(gpu.pinned(frame)), wanted)
    known = on_cpu.detect(frames[1]).boxes_xyxy
    same(gpu.detector.detect_near(gpu.pinned(frames[1]), known), on_cpu.detect_near(frames[1], known))
    copies = gpu.loop.copies
    assert (copies.on_host, copies.searched) == (0, len(frames))
    assert copies.searched_bytes == (0 if integrated else sum(frame.nbytes for frame in frames))
    same(gpu.detector.detect(frames[0]), on_cpu.detect(frames[0]))
    assert (copies.on_host, copies.on_host_bytes) == (1, frames[0].nbytes)
    assert f"For {len(frames) + 1} searches" in copies.sentence()


def test_boxes_that_are_read_before_the_device_is_done_are_wrong_here(
    faces: Bundle, shipped: Bundle, frames: list, on_cpu: FacePyramidDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = OnGpu(faces, shipped)
    monkeypatch.setattr(SimulatedEvent, "synchronize", lambda _self: None)
    with pytest.raises(AssertionError):
        same(gpu.detector.detect(gpu.pinned(frames[0])), on_cpu.detect(frames[0]))


def test_an_engine_that_takes_no_addresses_is_refused(faces: Bundle, shipped: Bundle) -> None:
    gpu = OnGpu(faces, shipped)
    with (
        open_engine(faces, backend="onnxruntime", precision="int8", max_batch=1, size_hw=(96, 96)) as engine,
        pytest.raises(DeviceError, match="no addresses on the GPU"),
    ):
        gpu.loop.level(engine)
