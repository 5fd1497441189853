"""The loop on a GPU with ONNX Runtime's CUDA provider, played, as its engine, on a device that does everything late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from simulated import SimulatedDevice, SimulatedStream
from simulated_gpu import box, noise
from simulated_onnxruntime import CARD, Machine, install
from simulated_parts import face_kernels

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.backends.on_gpu import loop_backend
from edge_fer.backends.onnxruntime import gpu
from edge_fer.backends.registry import open_engine
from edge_fer.backends.tensorrt import library
from edge_fer.cli.run import DEMO
from edge_fer.core.bundle import Bundle, find_bundle, open_bundle
from edge_fer.core.engine import Engine
from edge_fer.core.errors import DeviceError
from edge_fer.runtime.cuda_face_stage import STEADY
from edge_fer.runtime.cuda_loop import CudaLoop
from edge_fer.runtime.detectors.haar import HaarDetector
from edge_fer.runtime.face_stage import FaceStage, HostFaceStage
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sources.choose import open_source

FRAMES = 6


class Machinery:
    """A simulated card, the loop's side of it, and the played package."""

    def __init__(self, patch: pytest.MonkeyPatch, cache: Path, model: Bundle, faces: Bundle | None = None) -> None:
        detector = faces.manifest.detector if faces is not None else None
        self.device = SimulatedDevice(face_kernels(model.manifest.classifier, detector), info=CARD)
        # Engines open the device for themselves and close that opening; here all of them share this one.
        patch.setattr(self.device, "close", lambda: None)
        self.ort: Machine = install(patch, cache, device=self.device)
        self.loop = CudaLoop(self.device)  # type: ignore[arg-type]


Make = Callable[..., Machinery]


@pytest.fixture
def machinery(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shipped: Bundle) -> Make:
    return lambda faces=None: Machinery(monkeypatch, tmp_path, shipped, faces)


def open_cuda(shipped: Bundle) -> Engine:
    return open_engine(shipped, backend="onnxruntime-cuda", precision="fp32")


class Keep:
    name, lossless = "keep", True

    def __init__(self) -> None:
        self.scores: list[list[np.ndarray]] = []

    def write(self, result: FrameResult) -> None:
        self.scores.append([face.scores.copy() for face in result.faces])

    def close(self, *, complete: bool) -> None:
        pass


def through_the_loop(engine: Engine, gpu_loop: CudaLoop | None, stage: FaceStage | None) -> list[list[np.ndarray]]:
    keep = Keep()
    memory = gpu_loop.pictures if gpu_loop is not None else None
    source = open_source(str(DEMO), pool_size=Pipeline.frames_held(1), memory=memory)
    detector = HaarDetector(min_face_px=80)
    Pipeline(source, detector, engine, [keep], smooth=0.0, detect_every=1, stage=stage).run(max_frames=FRAMES)
    source.close()
    return keep.scores


def test_the_loop_in_threads_gives_the_cpu_s_scores_frame_by_frame(shipped: Bundle, machinery: Make) -> None:
    with open_engine(shipped, backend="onnxruntime", precision="fp32") as reference:
        wanted = through_the_loop(reference, None, None)
    made = machinery()
    with open_cuda(shipped) as engine, made.loop.stage(engine) as stage:
        waits = made.ort.waits
        found = through_the_loop(engine, made.loop, stage)
        notes = stage.notes()
    assert [len(frame) for frame in found] == [len(frame) for frame in wanted] == [1] * FRAMES
    np.testing.assert_allclose(np.stack(found), np.stack(wanted), atol=1e-5)
    assert made.ort.waits == waits, "a run waited for the device in the finder's thread"
    assert made.loop.copies.on_host == 0, "the decoder wrote somewhere else"
    assert made.device.launched_graphs == 0
    assert any("onnxruntime-cuda launches its own kernels" in note for note in notes)


def test_two_frames_in_flight_do_not_mix_and_a_missing_wait_shows(
    shipped: Bundle, machinery: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = machinery()
    with open_engine(shipped, backend="onnxruntime", precision="fp32") as reference:
        host = HostFaceStage(reference)
        expected = []
        for seed in range(2 * STEADY):
            host.prepare(host.places[0], noise(seed), [box(seed)], whole=False)
            expected.append(host.scores(host.places[0], 1).copy())

    def all_agree() -> None:
        with open_cuda(shipped) as engine, made.loop.stage(engine) as stage:
            one, two = stage.places
            for seed in range(0, 2 * STEADY, 2):
                for place, number in ((one, seed), (two, seed + 1)):
                    picture = made.loop.pictures.allocate((*noise(0).shape,))
                    picture[:] = noise(number)
                    stage.prepare(place, picture, [box(number)], whole=False)
                for place, number in ((one, seed), (two, seed + 1)):
                    np.testing.assert_allclose(stage.scores(place, 1), expected[number], atol=1e-5)

    all_agree()
    monkeypatch.setattr(SimulatedStream, "wait", lambda _stream, _event: None)
    with pytest.raises(AssertionError):
        all_agree()


@pytest.mark.usefixtures("averaged_at_once")
def test_the_detector_s_engine_may_be_one_of_onnx_runtime_too(shipped: Bundle, machinery: Make) -> None:
    faces = open_bundle(find_bundle("edge-fer-face"))
    source = open_source(str(DEMO), pool_size=2)
    frame = source.read(60.0)
    assert frame is not None
    on_cpu = open_face_detector("edge-fer-face", min_face_px=80, backend="onnxruntime", precision="fp32")
    wanted = on_cpu.detect(frame.image_bgr)
    made = machinery(faces)
    on_gpu = open_face_detector(
        "edge-fer-face", min_face_px=80, backend="onnxruntime-cuda", precision="fp32", gpu=made.loop
    )
    found = on_gpu.detect(frame.image_bgr)
    np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=1e-2)
    assert made.loop.copies.searched == 1
    for detector in (on_cpu, on_gpu):
        detector.close()  # type: ignore[attr-defined]
    source.close()


def test_an_engine_that_captures_for_itself_is_refused_in_the_loop(shipped: Bundle, machinery: Make) -> None:
    made = machinery()
    with (
        open_engine(shipped, backend="onnxruntime-cuda-graph", precision="fp32") as engine,
        pytest.raises(DeviceError, match=r"onnxruntime-cuda-graph takes no addresses.*tensorrt or onnxruntime-cuda"),
    ):
        made.loop.stage(engine)


def test_the_loop_takes_tensorrt_where_it_is_installed_and_else_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def has(tensorrt: bool, onnxruntime_gpu: bool) -> None:
        monkeypatch.setattr(library, "installed", lambda: ("tensorrt", "8.5.3.1") if tensorrt else None)
        monkeypatch.setattr(gpu.GpuProvider, "version", lambda self: "1.26.0" if onnxruntime_gpu else None)

    has(tensorrt=True, onnxruntime_gpu=True)
    assert loop_backend() == "tensorrt"
    has(tensorrt=False, onnxruntime_gpu=True)
    assert loop_backend() == "onnxruntime-cuda"
    has(tensorrt=False, onnxruntime_gpu=False)
    with pytest.raises(DeviceError, match=r"needs TensorRT or onnxruntime-gpu, and neither is installed.*doctor"):
        loop_backend()
