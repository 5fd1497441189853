"""A GPU that is lost stays lost: every call fails from then on, also those that clean up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from simulated import SimulatedDevice
from simulated_parts import SimulatedEngine, face_kernels
from typer.testing import CliRunner

from edge_fer.backends.base import HostEngine
from edge_fer.cli import run as command
from edge_fer.cli.main import app
from edge_fer.core.bundle import Bundle
from edge_fer.core.errors import DeviceError
from edge_fer.cuda.failures import call_failed
from edge_fer.runtime.cuda_face_stage import CudaFaceStage
from edge_fer.runtime.cuda_loop import CudaLoop

FRAMES_BEFORE = 5


class Engine(SimulatedEngine):
    """As those of TensorRT and ONNX Runtime, it waits for the device before it goes."""

    def close(self) -> None:
        super().close()
        self._device.synchronize()


def test_a_run_that_loses_the_gpu_still_writes_its_summary_and_tells_the_first_error(
    shipped: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = SimulatedDevice(face_kernels(shipped.manifest.classifier))
    loop, engine = CudaLoop(device), Engine(shipped, device)
    prepare, calls = CudaFaceStage.prepare, 0

    def lose(stage: CudaFaceStage, *arguments: object, **options: object) -> None:
        nonlocal calls
        calls += 1
        if calls == FRAMES_BEFORE + 1:
            device.lose("CUDA_ERROR_LAUNCH_FAILED")
        prepare(stage, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(CudaFaceStage, "prepare", lose)
    monkeypatch.setattr(command, "_open_gpu", lambda name: loop)
    monkeypatch.setattr(command, "_open", lambda *arguments, **options: (engine, "a test"))
    summary, lines = tmp_path / "summary.json", tmp_path / "faces.jsonl"
    options = ["--no-show", "--device", "cuda", "--backend", "tensorrt", "--precision", "int8", "--detector", "haar"]
    done = CliRunner().invoke(app, ["run", "--demo", *options, "--summary", str(summary), "--jsonl", str(lines)])
    assert isinstance(done.exception, DeviceError)
    found = re.search(r"(\w+) failed: the GPU was lost", str(done.exception))
    assert found is not None
    assert found[1] in ("cuEventRecord", "cuEventSynchronize"), "a call of the loop, not one that cleaned up"
    assert json.loads(summary.read_text())["frames"] >= 1
    assert lines.read_text().splitlines()
    with pytest.raises(DeviceError, match="closed"):
        device.stream()


def test_an_engine_that_cannot_be_closed_hides_no_error_before_it() -> None:
    class Broken(HostEngine):  # type: ignore[type-arg]
        def __init__(self) -> None:
            pass

        def _start(self, slot: object, n: int) -> None: ...

        def _finish(self, slot: object) -> None: ...

        def close(self) -> None:
            raise DeviceError("cuStreamSynchronize failed: the GPU was lost.")

    with pytest.raises(DeviceError, match="cuGraphLaunch"), Broken():
        raise DeviceError("cuGraphLaunch failed: the GPU was lost.")
    with pytest.raises(DeviceError, match="cuStreamSynchronize"), Broken():
        pass


@pytest.mark.parametrize(
    ("call", "name", "says"),
    [
        ("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY", r"the GPU's memory is full .*--allow-smaller-batch"),
        ("cuMemHostAlloc", "CUDA_ERROR_OUT_OF_MEMORY", r"the machine has no memory left that can be pinned"),
        ("cuDevicePrimaryCtxRetain", "CUDA_ERROR_DEVICE_UNAVAILABLE", r"busy, or closed to this process .*nvidia-smi"),
        ("cuEventSynchronize", "CUDA_ERROR_ILLEGAL_INSTRUCTION", r"the GPU was lost .*dmesg"),
        ("cuEventSynchronize", "CUDA_ERROR_MISALIGNED_ADDRESS", r"the GPU was lost .*dmesg"),
    ],
)
def test_a_status_is_told_for_what_it_is(call: str, name: str, says: str) -> None:
    error = call_failed(call, name, "words of the driver")
    with pytest.raises(DeviceError, match=says):
        raise error
    kind = "DeviceMemoryError" if call == "cuMemAlloc" else "DeviceLostError" if "lost" in says else "DeviceError"
    assert type(error).__name__ == kind
