"""ONNX Runtime's GPU providers: what was asked for is what computes, on memory and streams of ours, or it is an error.

The CPU package is what is installed here. Where the GPU package is needed it is played, over a device that does
everything late (tests/cuda/simulated_onnxruntime.py and simulated.py).
"""

from __future__ import annotations

import gc
import importlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from mtcnn_reference import random_networks, write_wheel
from simulated import MX250, SimulatedDevice, SimulatedStream
from simulated_onnxruntime import CARD, CPU, CUDA, REAL_OPTIONS, REAL_SESSION, TENSORRT, Machine, install

from edge_fer.backends.choose import candidates, choose
from edge_fer.backends.face_detector import open_face_detector
from edge_fer.backends.onnxruntime import gpu
from edge_fer.backends.onnxruntime.gpu_engine import GpuDeviceEngine, bind_rows
from edge_fer.backends.registry import open_engine
from edge_fer.core.bundle import Bundle
from edge_fer.core.engine import DeviceEngine, DeviceSlot, Engine
from edge_fer.core.errors import DeviceError, DeviceMemoryError, ProviderError, UsageError

NAMES = ("onnxruntime-cuda", "onnxruntime-cuda-graph", "onnxruntime-tensorrt")


@pytest.mark.parametrize("name", NAMES)
def test_the_cpu_package_refuses_a_gpu_provider(name: str, shipped: Bundle) -> None:
    if CUDA in ort.get_available_providers():
        pytest.skip("the GPU package is installed here")
    provider = TENSORRT if name.endswith("tensorrt") else CUDA
    with pytest.raises(
        ProviderError, match=rf"installed onnxruntime .* has no {provider}.*pip install onnxruntime-gpu"
    ):
        choose(shipped, backend=name)
    with pytest.raises(ProviderError, match=provider):
        open_engine(shipped, backend=name, precision="fp32")
    assert candidates(shipped, name, "auto") == []


Play = Callable[..., Machine]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Play:
    """Let the GPU package be installed on a machine with a card."""

    def installed(*granted: str, **changes: Any) -> Machine:
        return install(monkeypatch, tmp_path, *granted, **changes)

    return installed


def run(engine: Engine, batch: np.ndarray, slot: int = 0) -> np.ndarray:
    chosen = engine.slots[slot]
    chosen.inputs["input"][: len(batch)] = batch
    engine.submit(chosen, len(batch))
    engine.wait(chosen)
    return np.array(chosen.outputs["logits"][: len(batch)])


@pytest.fixture(scope="module")
def batch(shipped: Bundle) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, *shipped.manifest.model.input_shape)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(shipped: Bundle, batch: np.ndarray) -> np.ndarray:
    with open_engine(shipped, backend="onnxruntime", precision="fp32") as reference:
        return run(reference, batch)


@pytest.mark.parametrize(
    ("name", "granted"),
    [
        ("onnxruntime-cuda", [CPU]),
        ("onnxruntime-cuda-graph", [CPU]),
        ("onnxruntime-tensorrt", [CPU]),
        ("onnxruntime-tensorrt", [CUDA, CPU]),
    ],
)
def test_a_provider_that_did_not_load_is_an_error_and_nothing_reaches_the_cache(
    name: str, granted: list[str], shipped: Bundle, play: Play, tmp_path: Path
) -> None:
    play(*granted)
    provider = TENSORRT if name.endswith("tensorrt") else CUDA
    with pytest.raises(ProviderError, match=rf"Asked ONNX Runtime for {provider}, and it loaded {granted[0]}"):
        open_engine(shipped, backend=name, precision="fp32")
    assert list(tmp_path.iterdir()) == []


# The contract of the real library, with memory of the host in the place of the GPU's.


def test_a_real_session_computes_from_and_to_the_addresses_that_it_is_given(
    shipped: Bundle, batch: np.ndarray, expected: np.ndarray
) -> None:
    spec = shipped.manifest.model
    session = REAL_SESSION(str(shipped.file(shipped.variant("fp32").file)), providers=[CPU])
    rows, logits = batch.copy(), np.full((8, *spec.output_shape), np.nan, np.float32)
    pointers = {"input": rows.ctypes.data, "logits": logits.ctypes.data}
    bindings = {n: bind_rows(session, "cpu", n, spec, pointers) for n in (1, 5)}
    options = REAL_OPTIONS()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", "3")
    for first, n in ((0, 5), (2, 1), (3, 5)):
        rows[:n] = batch[first : first + n]
        session.run_with_iobinding(bindings[n], options)
        np.testing.assert_allclose(logits[:n], expected[first : first + n], atol=1e-4)
    assert np.isnan(logits[5:]).all()


# One engine, one stream.


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_submit_returns_before_anything_ran_and_wait_makes_it_so(
    name: str, shipped: Bundle, play: Play, batch: np.ndarray, expected: np.ndarray
) -> None:
    machine = play(TENSORRT, CUDA, CPU) if name.endswith("tensorrt") else play()
    with open_engine(shipped, backend=name, precision="fp32") as engine:
        first, second = engine.slots
        for slot, rows in ((first, batch[:3]), (second, batch[3:])):
            slot.outputs["logits"][:] = np.nan
            slot.inputs["input"][: len(rows)] = rows
            engine.submit(slot, len(rows))
        assert np.isnan(first.outputs["logits"]).all()
        engine.wait(second)
        engine.wait(first)
        together = np.concatenate([first.outputs["logits"][:3], second.outputs["logits"][:5]])
        np.testing.assert_allclose(together, expected, atol=1e-4)
        assert np.isnan(first.outputs["logits"][3:]).all(), "rows that were not asked for stay as they were"
        session = machine.sessions[-1]
        assert session.asked[CUDA]["use_tf32"] == "0", "fp32 is fp32"
        assert session.asked[CUDA]["enable_cuda_graph"] == "0"
    assert machine.waits == 0, "a session waited for the device in the loop's thread"
    assert machine.replays == 0


def test_each_number_of_faces_in_each_slot_has_a_graph_of_its_own_which_is_replayed(
    shipped: Bundle, play: Play, batch: np.ndarray, expected: np.ndarray
) -> None:
    machine = play()
    with open_engine(shipped, backend="onnxruntime-cuda-graph", precision="fp32") as engine:
        session = machine.sessions[-1]
        assert session.asked[CUDA]["enable_cuda_graph"] == "1"
        session.graph_ids.clear()
        before = machine.replays
        for _ in range(3):
            np.testing.assert_allclose(run(engine, batch), expected, atol=1e-4)
            np.testing.assert_allclose(run(engine, batch[:3], slot=1), expected[:3], atol=1e-4)
            np.testing.assert_allclose(run(engine, batch[5:6]), expected[5:6], atol=1e-4)
        assert session.graph_ids == ["8", "11", "1"] * 3
        assert machine.replays == before + 6
        assert not isinstance(engine, DeviceEngine), "its captures and another thread's calls disturb each other"


def test_a_graph_s_run_is_over_before_submit_returns(shipped: Bundle, play: Play, batch: np.ndarray) -> None:
    play()
    with open_engine(shipped, backend="onnxruntime-cuda-graph", precision="fp32") as engine:
        (slot, _) = engine.slots
        slot.outputs["logits"][:] = np.nan
        slot.inputs["input"][:2] = batch[:2]
        engine.submit(slot, 2)
        assert not np.isnan(slot.outputs["logits"][:2]).any()


def test_another_thread_than_the_one_that_opened_it_may_run_it(
    shipped: Bundle, play: Play, batch: np.ndarray, expected: np.ndarray
) -> None:
    play()
    found: list[np.ndarray] = []
    with open_engine(shipped, backend="onnxruntime-cuda", precision="fp32") as engine:
        thread = threading.Thread(target=lambda: found.append(run(engine, batch)))
        thread.start()
        thread.join()
        np.testing.assert_allclose(found[0], expected, atol=1e-4)


# Other streams.


def through_streams(engine: GpuDeviceEngine, batch: np.ndarray) -> np.ndarray:
    """Eight faces by turns through the two slots, each on a stream of its own, all queued before any is waited for."""
    device = engine.device
    streams = [device.stream() for _ in engine.slots]
    hosts = [device.pinned((1, *batch.shape[1:]), np.float32) for _ in batch]
    results = [device.pinned((1, 7), np.float32) for _ in batch]
    for index, (host, result) in enumerate(zip(hosts, results, strict=True)):
        slot, stream = engine.slots[index % 2], streams[index % 2]
        assert isinstance(slot, DeviceSlot)
        host.array[0] = batch[index]
        device.copy_to_device(slot.input_pointer, host, host.nbytes, stream)
        engine.enqueue(slot, stream.handle, 1)
        device.copy_to_host(result, slot.output_pointer, result.nbytes, stream)
    for stream in reversed(streams):
        stream.synchronize()
    return np.concatenate([result.array for result in results])


def test_inference_waits_for_what_its_caller_queued_before_and_its_caller_for_inference(
    shipped: Bundle, play: Play, batch: np.ndarray, expected: np.ndarray
) -> None:
    play()
    with open_engine(shipped, backend="onnxruntime-cuda", precision="fp32") as engine:
        assert isinstance(engine, GpuDeviceEngine)
        assert isinstance(engine, DeviceEngine)
        assert not engine.capturable
        np.testing.assert_allclose(through_streams(engine, batch), expected, atol=1e-4)
        for n in (0, 9):
            with pytest.raises(ValueError, match=r"1\.\.8"):
                engine.enqueue(engine.slots[0], engine.device.stream().handle, n)


@pytest.mark.parametrize("forgotten", ["its caller", "the session"])
def test_a_wait_that_is_left_out_gives_wrong_logits_here(
    forgotten: str,
    shipped: Bundle,
    play: Play,
    batch: np.ndarray,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play()
    with open_engine(shipped, backend="onnxruntime-cuda", precision="fp32") as engine:
        assert isinstance(engine, GpuDeviceEngine)
        real = SimulatedStream.wait

        def wait(stream: SimulatedStream, event: Any) -> None:
            if (stream is engine._stream) != (forgotten == "its caller"):
                return
            real(stream, event)

        monkeypatch.setattr(SimulatedStream, "wait", wait)
        with pytest.raises((AssertionError, DeviceError)):
            np.testing.assert_allclose(through_streams(engine, batch), expected, atol=1e-4)


def test_mtcnn_s_networks_run_on_the_gpu_and_find_what_they_find_on_the_cpu(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bar in ("PROPOSE", "REFINE"):  # random networks are sure of nothing
        monkeypatch.setattr(f"edge_fer.runtime.detectors.mtcnn.{bar}", 0.01)
    wheel = f"mtcnn={write_wheel(tmp_path / 'made.whl', random_networks())}"
    picture = np.random.default_rng(5).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    gpu_loop: Any = object()  # of which nothing is asked: the windows are cut by the CPU
    on_cpu = open_face_detector(wheel, min_face_px=40, backend="onnxruntime", score=1e-6, cache=tmp_path)
    wanted = on_cpu.detect(picture)
    device = SimulatedDevice(info=CARD)
    monkeypatch.setattr(device, "close", lambda: None)  # three engines share it
    machine = play(device=device)
    on_gpu = open_face_detector(wheel, min_face_px=40, backend="onnxruntime-cuda", score=1e-6, gpu=gpu_loop)
    found = on_gpu.detect(picture)
    assert len(found) == len(wanted) > 0
    np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=1e-2)
    assert machine.runs >= 3, "all three networks"
    for detector in (on_cpu, on_gpu):
        detector.close()  # type: ignore[attr-defined]


# Errors, and the end.


RAISED: dict[str, tuple[type[DeviceError], str]] = {
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'conv' Status "
    "Message: /src/cuda_call.cc:129 CUDA failure 2: out of memory ; GPU=0 ; hostname=laptop ; "
    "file=/src/cuda_allocator.cc ; line=48 ; expr=cudaMalloc((void**)&p, size);": (
        DeviceMemoryError,
        r"failed during inference of 1 faces: the GPU's memory is full \(out of memory\)\. .*--allow-smaller-batch",
    ),
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : /src/bfc_arena.cc:376 BFCArena::AllocateRawInternal Failed to "
    "allocate memory for requested buffer of size 262144": (DeviceMemoryError, r"the GPU's memory is full"),
    "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 209: no kernel image is available for execution on the device ; "
    "GPU=0 ; hostname=laptop ; file=/src/cuda_provider.cc ; line=9 ; expr=cudaGetLastError()": (
        DeviceError,
        r"this version does not serve this GPU \(no kernel image .* on the device\)\. .edge-fer doctor. prints",
    ),
    "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; "
    "hostname=laptop ; file=/src/cuda_stream_handle.cc ; line=7 ; expr=cudaStreamSynchronize(s)": (
        DeviceError,
        r"of 1 faces: the GPU was lost \(an illegal memory access was encountered\)\. Start edge-fer again",
    ),
}


def test_what_onnx_runtime_raises_becomes_one_sentence(
    shipped: Bundle, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = play()
    with open_engine(shipped, backend="onnxruntime-cuda", precision="fp32") as engine:
        for raised, (kind, says) in RAISED.items():
            machine.run_error = raised
            with pytest.raises(kind, match=says) as told:
                engine.submit(engine.slots[0], 1)
            assert "\n" not in str(told.value)
            assert "hostname" not in str(told.value)
    # Its libraries load, which the loader says of those of the real GPU package.
    monkeypatch.setattr(gpu, "_missing_library", lambda ort, provider: None)
    for raised, (kind, _) in RAISED.items():
        play(load_error=raised)
        with pytest.raises(kind, match=r"CUDAExecutionProvider cannot load model.onnx"):
            open_engine(shipped, backend="onnxruntime-cuda", precision="fp32", max_batch=3)


def test_what_was_allocated_comes_back_when_the_engine_is_closed(shipped: Bundle, play: Play) -> None:
    play()
    engine = open_engine(shipped, backend="onnxruntime-cuda", precision="fp32")
    assert isinstance(engine, GpuDeviceEngine)
    device: Any = engine.device
    assert len(device._ranges) == 2 * 2, "two slots of two buffers"
    engine.close()
    engine.close()
    del engine
    gc.collect()
    assert device._ranges == {}


def test_the_tensorrt_provider_gets_the_profile_of_our_own_backend_and_keeps_its_engine_beside_the_network(
    shipped: Bundle, play: Play
) -> None:
    machine = play(TENSORRT, CUDA, CPU)
    open_engine(shipped, backend="onnxruntime-tensorrt", precision="fp16").close()
    session = machine.sessions[-1]
    asked = session.asked[TENSORRT]
    assert (asked["trt_fp16_enable"], asked["trt_int8_enable"]) == ("True", "False")
    assert (asked["trt_profile_min_shapes"], asked["trt_profile_max_shapes"]) == ("input:1x1x48x48", "input:8x1x48x48")
    assert Path(asked["trt_engine_cache_path"], "manifest.json").is_file()
    assert session.options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def test_the_tensorrt_provider_finds_the_libraries_that_pip_has_put_beside_tensorrts_module(
    shipped: Bundle, play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The provider's library asks the loader for libnvinfer.so.10, which finds it where a module has loaded it."""
    (tmp_path / "tensorrt.py").write_text("raise RuntimeError('that it fails is found out by the session')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    looked_for: list[str] = []
    monkeypatch.setattr(gpu, "import_module", lambda name: looked_for.append(name) or importlib.import_module(name))
    play(TENSORRT, CUDA, CPU)
    open_engine(shipped, backend="onnxruntime-tensorrt", precision="fp16").close()
    assert set(looked_for) == {"tensorrt"}
    looked_for.clear()
    play(CUDA, CPU)
    open_engine(shipped, backend="onnxruntime-cuda", precision="fp32").close()
    assert looked_for == []


def test_precisions_without_kernels_are_refused(shipped: Bundle, play: Play) -> None:
    play()
    with pytest.raises(UsageError, match=r"CUDAExecutionProvider has no int8 kernels.*--backend tensorrt"):
        open_engine(shipped, backend="onnxruntime-cuda", precision="int8")
    play(TENSORRT, CUDA, CPU, card=MX250)
    with pytest.raises(DeviceError, match="1/64 of its fp32 rate"):
        open_engine(shipped, backend="onnxruntime-tensorrt", precision="fp16")
    assert candidates(shipped, "onnxruntime-cuda", "auto") == [("onnxruntime-cuda", "fp32")]
