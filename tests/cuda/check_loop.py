"""The whole loop over the real adapter and the simulated driver: a clip is decoded into pinned memory, the shipped
device code cuts the faces (compiled for the host), the real network runs on device memory; the labels are the CPU's.
Collected like check_device.py; on a real GPU the loop needs a real engine, and benchmarks/gpu/prove.py runs it."""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import cv2
import numpy as np
import pytest
from check_face_kernels import kernels  # noqa: F401 (a fixture for the whole module)
from numpy.typing import NDArray
from simulated_kernels import array_at, driver, register, value

from edge_fer.backends.registry import open_engine
from edge_fer.cli.run import DEMO
from edge_fer.core.bundle import find_bundle, open_bundle
from edge_fer.core.engine import INPUT, OUTPUT, Engine, Slot
from edge_fer.core.errors import EdgeFerError
from edge_fer.cuda.device import CudaDevice, KernelArguments
from edge_fer.cuda.open import DEFAULT_ADAPTER, open_device
from edge_fer.runtime.cuda_loop import open_cuda_loop
from edge_fer.runtime.detectors.haar import HaarDetector
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sources.choose import open_source

pytestmark = pytest.mark.skipif(driver() is None, reason="the engine of this check is one of the simulated driver")
FRAMES = 40
FRAME_PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "frame_path.py"
NETWORK_PTX = b".version 6.0\n.target sm_61\n"


class EngineOnTheDriver:
    """A ``DeviceEngine``: a kernel of the simulated driver that runs ONNX Runtime on device memory. It opens the device
    for itself, as TensorRT's does: the primary context is the same."""

    capturable = keeps_captured = True

    def __init__(self, inner: Engine) -> None:
        device: CudaDevice = open_device()
        self._inner, self._device, self.manifest = inner, device, inner.manifest
        model = self.manifest.classifier
        self._shapes = {INPUT: model.input_shape, OUTPUT: model.output_shape}
        self.slots = tuple(self._slot(slot) for slot in inner.slots)
        register("run_network", self._run)
        self._kernel = device.load_module(NETWORK_PTX).kernel("run_network")

    def _slot(self, host: Slot) -> Any:
        rows = self.manifest.max_batch
        memory = {name: self._device.allocate(4 * rows * int(np.prod(shape))) for name, shape in self._shapes.items()}
        return SimpleNamespace(
            inputs=host.inputs,
            outputs=host.outputs,
            memory=memory,
            input_pointer=memory[INPUT].pointer,
            output_pointer=memory[OUTPUT].pointer,
        )

    def _run(self, parameters: Any, _geometry: tuple[int, ...]) -> None:
        source, target = (value(parameters, index, ctypes.c_uint64) for index in range(2))
        n, slot = value(parameters, 2, ctypes.c_int32), self._inner.slots[0]
        slot.inputs[INPUT][:n] = array_at(source, (n, *self._shapes[INPUT]), np.float32)
        self._inner.submit(slot, n)
        self._inner.wait(slot)
        array_at(target, (n, *self._shapes[OUTPUT]), np.float32)[:] = slot.outputs[OUTPUT][:n]

    def enqueue(self, slot: Any, stream: int, n: int) -> None:
        values = ctypes.c_uint64(slot.input_pointer), ctypes.c_uint64(slot.output_pointer), ctypes.c_int32(n)
        on: Any = SimpleNamespace(handle=stream)
        self._device.take_over()
        self._device.launch(self._kernel, (1, 1, 1), (1, 1, 1), KernelArguments(*values), on)

    def submit(self, slot: Slot, n: int) -> None:
        raise NotImplementedError

    def wait(self, slot: Slot) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.slots = ()
        del self._kernel
        self._device.close()

    def __enter__(self) -> EngineOnTheDriver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Keep:
    name, lossless = "keep", True

    def __init__(self) -> None:
        self.scores: list[NDArray[np.float32]] = []

    def write(self, result: FrameResult) -> None:
        self.scores += [face.scores for face in result.faces]

    def close(self, *, complete: bool) -> None:
        pass


def test_the_demo_gets_the_cpu_s_labels_and_nothing_is_left_behind() -> None:
    simulated, held = driver(), Pipeline.frames_held(1)
    assert simulated is not None
    wanted, found, detector = Keep(), Keep(), HaarDetector(min_face_px=80)
    bundle = open_bundle(find_bundle())
    with open_engine(bundle, backend="onnxruntime", precision="int8") as inner:
        source = open_source(str(DEMO), pool_size=held)
        Pipeline(source, detector, inner, [wanted], detect_every=1).run(max_frames=FRAMES)
        source.close()
        gpu = open_cuda_loop(DEFAULT_ADAPTER, 0)
        source = open_source(str(DEMO), pool_size=held, memory=gpu.pictures)
        with EngineOnTheDriver(inner) as engine, gpu.stage(engine) as stage:
            pipeline = Pipeline(source, detector, engine, [found], detect_every=1, stage=stage)
            stats = pipeline.run(max_frames=FRAMES)
        source.close()
        gpu.close()
    assert stats.frames == FRAMES
    assert stats.copies is not None
    assert (stats.copies.frames, stats.copies.on_host) == (FRAMES, 0)
    assert stage.replays > 0
    assert stage.transfer.chosen is not None, "the trial of both ways is over"
    assert len(found.scores) == len(wanted.scores) == FRAMES
    # The kernel's pixels may differ from OpenCV's by one grey level.
    np.testing.assert_allclose(np.stack(found.scores), np.stack(wanted.scores), atol=0.05)
    assert np.array_equal(np.stack(found.scores).argmax(axis=1), np.stack(wanted.scores).argmax(axis=1))
    del source, engine, stage, pipeline, gpu, stats, found, wanted
    gc.collect()
    assert (simulated.simulated_alive(), simulated.simulated_contexts()) == (0, 0)


def test_the_proofs_of_the_loop_run_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What benchmarks/gpu/prove.py does with an engine, before a GPU is at hand: once with torch's, whose network is on
    the CPU here and whose graphs are kernels of the simulated driver, and once with a backend's."""
    torch = pytest.importorskip("torch", reason="the compile extra is not installed")
    sys.path.insert(0, str(FRAME_PATH.parent))
    import frame_path
    import prove
    import torch_engine

    torch.set_num_threads(1)
    names, network = itertools.count(), torch_engine.load_network("cpu")

    def view(pointer: int, shape: tuple[int, ...]) -> Any:
        return torch.from_numpy(array_at(pointer, shape, np.float32))

    def engine_of_torch(bundle: Any, network: Any) -> Any:
        device = open_device()

        def recorded(run: Any) -> Any:
            def kernel(_parameters: Any, _geometry: tuple[int, ...]) -> None:
                with torch.inference_mode():
                    run()

            register(name := f"replay_{next(names)}", kernel)
            loaded = device.load_module(NETWORK_PTX).kernel(name)

            def replay(handle: int) -> None:
                device.launch(loaded, (1, 1, 1), (1, 1, 1), KernelArguments(), device.borrow(handle))

            return replay

        made = torch_engine.TorchEngine(device, bundle, network, max_batch=2, view=view, record=recorded)
        for slot in made.slots:
            slot.inputs[INPUT][:] = 0.5
            made.submit(slot, 2)
            made.wait(slot)
            assert np.ptp(slot.outputs[OUTPUT], axis=0).max() < 1e-4, "two rows of the same"
        return made

    clip = tmp_path / "short.avi"
    write_start(DEMO, clip, 6)
    for name, changed in (("FRAME_HW", (96, 128)), ("SIDE_PX", 60), ("REPEATS", 20), ("CLIP_FRAMES", 6)):
        monkeypatch.setattr(prove, name, changed)
    monkeypatch.setattr("edge_fer.cli.run.DEMO", clip)
    monkeypatch.setattr(prove, "_torch_network", lambda: network)
    monkeypatch.setattr(prove, "_torch_engine", engine_of_torch)
    monkeypatch.setattr(prove, "_possible", lambda *_: open_bundle(find_bundle()))
    by_torch = ("a frame's way, torch fp32", "loop on the GPU, torch fp32")
    found = {name: prove.one(name, None, tmp_path) for name in by_torch}
    with open_engine(open_bundle(find_bundle()), backend="onnxruntime", precision="int8") as inner:
        monkeypatch.setattr("edge_fer.backends.registry.open_engine", lambda *_, **__: EngineOnTheDriver(inner))
        name = "a frame's way, onnxruntime-cuda fp32"
        found[name] = prove.one(name, None, tmp_path)
    for name, answer in found.items():
        json.dumps(answer)
        # The bars about time are missed here or kept by chance.
        assert answer["outcome"] in ("passed", "missed"), (name, answer)
    assert found["loop on the GPU, torch fp32"]["same_labels"] == 1.0
    assert found["loop on the GPU, torch fp32"]["faces"] == 6
    assert found["a frame's way, torch fp32"]["replayed"] == 0, "torch's own graphs are not in ours"
    assert found[name]["replayed"] > 0
    for stem in ("torch-fp32", "onnxruntime-cuda-fp32"):
        assert (tmp_path / f"timeline-{stem}.png").read_bytes().startswith(b"\x89PNG")
    assert frame_path.compare_labels([[1], [2]], [[1], [3]])["bars"]["labels as on the CPU"]["passed"] is False
    for wrong in ([[1]], [[1], [2, 2]], [[], []]):
        with pytest.raises(EdgeFerError):
            frame_path.compare_labels([[1], [2]] if wrong != [[], []] else wrong, wrong)


def write_start(source: Path, target: Path, frames: int) -> None:
    """The first frames of a clip as another."""
    reader = cv2.VideoCapture(str(source))
    size = tuple(int(reader.get(kind)) for kind in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, size)
    for _ in range(frames):
        writer.write(reader.read()[1])
    writer.release()
    reader.release()


def test_the_proof_of_a_frame_s_way_measures_and_draws_what_it_says(tmp_path: Path) -> None:
    """benchmarks/gpu/frame_path.py, before a GPU is at hand; what it measures here means nothing."""
    sys.path.insert(0, str(FRAME_PATH.parent))
    import frame_path

    with open_engine(open_bundle(find_bundle()), backend="onnxruntime", precision="int8") as inner:
        gpu = open_cuda_loop(DEFAULT_ADAPTER, 0)
        with EngineOnTheDriver(inner) as engine:
            found = frame_path.measure_frames(gpu, engine, (96, 128), 60, 20)
            detector = HaarDetector(min_face_px=80)
            picture = tmp_path / "overlap.png"
            overlap = frame_path.measure_overlap(gpu, engine, DEMO, detector, 16, picture)
        gpu.close()
    assert found["replayed"] >= 20
    assert 0 < found["copy_ms_p50"] < found["frame_ms_p50"]
    assert found["bars"]["the host queues a frame"]["found"] == found["host_us_p50"]
    limit = 1.15 * found["engine_ms_p50"] + found["copy_ms_p50"]
    assert found["bars"]["a frame beside the engine's own time and its copy"]["limit"] == pytest.approx(limit)
    assert overlap["frames"] == 16
    assert all(0 <= overlap[share] <= 1 for share in ("copies_beside_work", "gpu_work_beside_detection"))
    assert overlap["stage_ms_p50"]["infer"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    one, two = frame_path.Span("", 0.0, 2.0), frame_path.Span("", 1.5, 5.0)
    assert frame_path.shared_ms([one], [two]) == 0.5
