"""ONNX Runtime's GPU providers: what was asked for is what computes, or it is an error.

The CPU package is what is installed here. Where the GPU package is needed, its session is played by one that grants
what the real one grants: the CPU, without a word, when a library of CUDA does not load.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edge_fer.backends.choose import candidates, choose
from edge_fer.backends.onnxruntime import gpu
from edge_fer.backends.registry import open_engine
from edge_fer.core.bundle import Bundle
from edge_fer.core.engine import Engine
from edge_fer.core.errors import DeviceError, ProviderError, UsageError
from edge_fer.cuda.device import DeviceInfo

NAMES = ("onnxruntime-cuda", "onnxruntime-cuda-graph", "onnxruntime-tensorrt")
CARD = DeviceInfo("Simulated RTX 3050", (8, 6), 4 << 30, 12_080, integrated=False, async_engines=1, can_map=True)
MX250 = DeviceInfo("Simulated MX250", (6, 1), 2 << 30, 12_060, integrated=False, async_engines=1, can_map=True)
REAL_SESSION = ort.InferenceSession


@pytest.mark.parametrize("name", NAMES)
def test_the_cpu_package_refuses_a_gpu_provider(name: str, shipped: Bundle) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("the GPU package is installed here")
    provider = "TensorrtExecutionProvider" if name.endswith("tensorrt") else "CUDAExecutionProvider"
    with pytest.raises(
        ProviderError, match=rf"installed onnxruntime .* has no {provider}.*pip install onnxruntime-gpu"
    ):
        choose(shipped, backend=name)
    with pytest.raises(ProviderError, match=provider):
        open_engine(shipped, backend=name, precision="fp32")
    assert candidates(shipped, name, "auto") == []


class PlayedSession:
    """A session that computes on the CPU and says that it was granted what it is told to say."""

    granted: tuple[str, ...] = ()
    last: PlayedSession

    def __init__(
        self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]], enable_fallback: int
    ) -> None:
        assert enable_fallback == 0
        PlayedSession.last = self
        self.asked = dict(providers)
        self.entries = {key: options.get_session_config_entry(key) for key in ("session.disable_cpu_ep_fallback",)}
        self.optimisation = options.graph_optimization_level
        self.graph_ids: list[str] = []
        self._real = REAL_SESSION(path, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return list(self.granted)

    def io_binding(self) -> SimpleNamespace:
        bound: dict[str, PlayedValue] = {}
        return SimpleNamespace(
            bound=bound, bind_ortvalue_input=bound.__setitem__, bind_ortvalue_output=bound.__setitem__
        )

    def run_with_iobinding(self, binding: SimpleNamespace, options: Any) -> None:
        self.graph_ids.append(options.entries.get("gpu_graph_id", ""))
        (found,) = self._real.run(["logits"], {"input": binding.bound["input"].memory})
        binding.bound["logits"].memory[:] = found


class PlayedValue:
    """A tensor on the device, whose memory nobody but it sees."""

    def __init__(self, shape: list[int]) -> None:
        self.memory = np.full(shape, np.nan, np.float32)

    def update_inplace(self, array: np.ndarray) -> None:
        assert array.shape == self.memory.shape
        self.memory[:] = array

    def numpy(self) -> np.ndarray:
        return self.memory.copy()


class PlayedOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


Play = Callable[..., None]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Play:
    """Let the GPU package be installed, on a machine with a card; ``granted`` is what its sessions run on."""

    def install(*granted: str, card: DeviceInfo = CARD) -> None:
        monkeypatch.setenv("EDGE_FER_CACHE", str(tmp_path))
        monkeypatch.setattr("edge_fer.cuda.open.describe_device", lambda index=0: card)
        monkeypatch.setattr(gpu.GpuProvider, "version", lambda self: "1.23.2")
        offered = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(ort, "get_available_providers", lambda: offered)
        monkeypatch.setattr(ort, "InferenceSession", PlayedSession)
        monkeypatch.setattr(ort, "RunOptions", PlayedOptions)
        monkeypatch.setattr(ort, "set_default_logger_severity", lambda level: None)
        make = SimpleNamespace(ortvalue_from_shape_and_type=lambda shape, kind, where, index: PlayedValue(shape))
        monkeypatch.setattr(ort, "OrtValue", make)
        monkeypatch.setattr(PlayedSession, "granted", granted)

    return install


def run(engine: Engine, batch: np.ndarray, slot: int = 0) -> np.ndarray:
    chosen = engine.slots[slot]
    chosen.inputs["input"][: len(batch)] = batch
    engine.submit(chosen, len(batch))
    engine.wait(chosen)
    return np.array(chosen.outputs["logits"][: len(batch)])


@pytest.mark.parametrize(
    ("name", "granted"),
    [
        ("onnxruntime-cuda", ["CPUExecutionProvider"]),
        ("onnxruntime-cuda-graph", ["CPUExecutionProvider"]),
        ("onnxruntime-tensorrt", ["CPUExecutionProvider"]),
        ("onnxruntime-tensorrt", ["CUDAExecutionProvider", "CPUExecutionProvider"]),
    ],
)
def test_a_provider_that_did_not_load_is_an_error_and_nothing_reaches_the_cache(
    name: str, granted: list[str], shipped: Bundle, play: Play, tmp_path: Path
) -> None:
    play(*granted)
    provider = "TensorrtExecutionProvider" if name.endswith("tensorrt") else "CUDAExecutionProvider"
    with pytest.raises(ProviderError, match=rf"Asked ONNX Runtime for {provider}, and it loaded {granted[0]}"):
        open_engine(shipped, backend=name, precision="fp32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("graph", [False, True])
def test_faces_go_through_tensors_on_the_device_and_each_number_of_them_has_a_graph_of_its_own(
    graph: bool, shipped: Bundle, play: Play
) -> None:
    batch = np.random.default_rng(0).normal(size=(8, *shipped.manifest.model.input_shape)).astype(np.float32)
    with open_engine(shipped, backend="onnxruntime", precision="fp32") as reference:
        expected = run(reference, batch)
    play("CUDAExecutionProvider", "CPUExecutionProvider")
    with open_engine(shipped, backend=f"onnxruntime-cuda{'-graph' * graph}", precision="fp32") as engine:
        session = PlayedSession.last
        session.graph_ids.clear()
        np.testing.assert_allclose(run(engine, batch), expected, atol=1e-4)
        np.testing.assert_allclose(run(engine, batch[:3], slot=1), expected[:3], atol=1e-4)
        np.testing.assert_allclose(run(engine, batch[5:6]), expected[5:6], atol=1e-4)
    assert session.graph_ids == (["8", "11", "1"] if graph else ["", "", ""])
    assert session.asked["CUDAExecutionProvider"]["use_tf32"] == "0", "fp32 is fp32"
    assert session.asked["CUDAExecutionProvider"]["enable_cuda_graph"] == str(int(graph))
    assert session.entries["session.disable_cpu_ep_fallback"] == "1"


def test_the_tensorrt_provider_gets_the_profile_of_our_own_backend_and_keeps_its_engine_beside_the_network(
    shipped: Bundle, play: Play
) -> None:
    play("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    open_engine(shipped, backend="onnxruntime-tensorrt", precision="fp16").close()
    asked = PlayedSession.last.asked["TensorrtExecutionProvider"]
    assert (asked["trt_fp16_enable"], asked["trt_int8_enable"]) == ("1", "0")
    assert (asked["trt_profile_min_shapes"], asked["trt_profile_max_shapes"]) == ("input:1x1x48x48", "input:8x1x48x48")
    assert Path(asked["trt_engine_cache_path"], "manifest.json").is_file()
    assert PlayedSession.last.optimisation == ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def test_precisions_without_kernels_are_refused(shipped: Bundle, play: Play) -> None:
    play("CUDAExecutionProvider", "CPUExecutionProvider")
    with pytest.raises(UsageError, match=r"CUDAExecutionProvider has no int8 kernels.*--backend tensorrt"):
        open_engine(shipped, backend="onnxruntime-cuda", precision="int8")
    play("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider", card=MX250)
    with pytest.raises(DeviceError, match="1/64 of its fp32 rate"):
        open_engine(shipped, backend="onnxruntime-tensorrt", precision="fp16")
    assert candidates(shipped, "onnxruntime-cuda", "auto") == [("onnxruntime-cuda", "fp32")]
