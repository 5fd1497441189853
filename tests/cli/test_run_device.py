"""``edge-fer run --device``: what is missing is one sentence with exit code 4, told before anything is opened."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.cli.main import app
from edge_fer.cli.run import DEMO
from edge_fer.core.errors import DeviceError, UsageError
from edge_fer.cuda.open import DEFAULT_ADAPTER
from edge_fer.runtime.cuda_loop import VISIBLE, open_cuda_loop, parse_device


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--detect-on", "gpu"], "--detect-on gpu searches frames that --device cuda decodes"),
        (["--detect-on", "mars"], "--detect-on is cpu or gpu, not 'mars'"),
    ],
)
def test_where_to_search_is_checked_before_anything_is_opened(options: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["run", "--source", "there-is-no-such-film.mp4", "--no-show", *options])
    assert isinstance(done.exception, UsageError)
    assert says in str(done.exception)


def test_a_detector_that_has_no_form_for_the_gpu_says_which_ones_have() -> None:
    gpu: Any = object()
    with pytest.raises(UsageError, match=r"haar does not run on the GPU.*edge-fer-face, yunet, mtcnn"):
        open_face_detector("haar", gpu=gpu)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_fer", "run", "--no-show", "--max-frames", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_no_driver_is_one_sentence_before_the_source_is_looked_at(device: str) -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install 'edge-fer[cuda]'")
    done = run("--source", "there-is-no-such-film.mp4", "--device", device)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 2
    assert "There is no NVIDIA driver on this machine (its library, libcuda, is not found)." in done.stderr
    assert "without --device cuda" in done.stderr


def test_a_package_that_is_not_installed_is_named_with_its_extra() -> None:
    try:
        import pycuda  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("pycuda is installed")
    done = run("--demo", "--device", "pycuda:0")
    assert done.returncode == 4
    assert "pycuda is not installed" in done.stderr
    assert "edge-fer[pycuda]" in done.stderr


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:1:2", ""])
def test_another_device_is_a_usage_error(device: str) -> None:
    done = run("--source", str(DEMO), "--device", device)
    assert done.returncode == 2
    assert "--device is cpu, cuda or cuda:N" in done.stderr


def test_devices_by_name() -> None:
    assert parse_device("cpu") is None
    assert parse_device("cuda") == (DEFAULT_ADAPTER, 0)
    assert parse_device("cuda:12") == (DEFAULT_ADAPTER, 12)
    assert parse_device("pycuda:1") == ("pycuda", 1)
    with pytest.raises(UsageError):
        parse_device("CUDA")


def test_a_number_beyond_the_visible_devices_is_told_without_asking_the_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VISIBLE, "2, 5")
    with pytest.raises(DeviceError, match="no CUDA device 2: the driver shows 2, counted from 0"):
        open_cuda_loop(DEFAULT_ADAPTER, 2)
    assert os.environ[VISIBLE] == "2, 5"
