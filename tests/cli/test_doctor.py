"""``edge-fer doctor`` as a user runs it: with everything, with nothing, and with an MX250."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_fer.bench.doctor import NO_CUDA, DoctorReport

NOTHING_INSTALLED = """
import importlib.metadata as metadata, sys
HIDDEN = {"onnxruntime", "openvino", "torch", "onnx", "matplotlib", "safetensors", "nncf", "tensorrt", "cv2"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
real = metadata.version
def version(name):
    if name.partition("-")[0] in HIDDEN or name.startswith("opencv"):
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
"""


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_fer", "doctor", *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=240,
    )


def test_the_report_is_shown_in_80_columns_and_printed_as_one_object() -> None:
    done = doctor(COLUMNS="80")
    assert done.returncode == 0, done.stderr
    for words in ("Machine", "Libraries", "What each precision is worth", "--backend onnxruntime uses only"):
        assert words in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    done = doctor("--json")
    assert done.returncode == 0, done.stderr
    report = DoctorReport.model_validate_json(done.stdout)
    assert [row.precision for row in report.worth if row.device == "CPU"] == ["fp32", "bf16", "fp16", "int8"]


def test_a_machine_with_nothing_installed_is_told_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOTHING_INSTALLED)
    bare = {"PYTHONPATH": str(tmp_path), "PATH": str(tmp_path)}
    done = doctor(**bare)
    assert done.returncode == 0, done.stderr
    assert "no inference backend works here" in done.stdout
    assert "pip install 'edge-fer[openvino]'" in done.stdout
    assert "pip install 'edge-fer[report]'" in done.stdout
    assert "pip install 'opencv-python-headless<5'" in done.stdout
    done = doctor("--json", **bare)
    assert done.returncode == 0, done.stderr
    report = DoctorReport.model_validate_json(done.stdout)
    assert all(library.distributions == () for library in report.libraries)


def driver(folder: Path, answer: str) -> str:
    """The PATH of a machine whose ``nvidia-smi`` gives this answer."""
    if os.name == "nt":
        pytest.skip("needs a script that the system starts by its first line")
    program = folder / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nprint({answer!r})\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_an_mx250_is_told_its_limits(tmp_path: Path) -> None:
    path = driver(tmp_path, "NVIDIA GeForce MX250, 470.223.02, 2004, 6.1")
    done = doctor(PATH=path)
    assert done.returncode == 0, done.stderr
    told = ("GeForce MX250", "6.1, Pascal", "R580", "2.7.1+cu126", "1/64 of the fp32 rate", "not measured", NO_CUDA)
    for words in (*told, "tensorrt==8.5.3.1", "for --backend tensorrt"):
        assert words in done.stdout, words
    report = DoctorReport.model_validate_json(doctor("--json", PATH=path).stdout)
    worth = {row.precision: row for row in report.worth if row.device != "CPU"}
    assert {name: row.grade for name, row in worth.items()} == {
        "fp32": "works",
        "bf16": "impossible",
        "fp16": "pointless",
        "int8": "best",
    }
    assert all(row.backends == () for row in worth.values()), "nothing that is installed here runs on it"


def test_an_rtx_3050_gets_the_line_for_its_driver(tmp_path: Path) -> None:
    path = driver(tmp_path, "NVIDIA GeForce RTX 3050 Laptop GPU, 580.65.06, 4096, 8.6")
    done = doctor(PATH=path)
    assert done.returncode == 0, done.stderr
    for words in ("8.6, Ampere", "4096 MiB", NO_CUDA, "tensorrt-cu13==11.4.*"):
        assert words in done.stdout, words
    assert "tensorrt-cu12" not in done.stdout
    older = driver(tmp_path, "NVIDIA GeForce RTX 3050 Laptop GPU, 535.183.01, 4096, 8.6")
    done = doctor(PATH=older)
    assert "tensorrt-cu12==10.16.*" in done.stdout
    assert "tensorrt-cu13" not in done.stdout


GPU_IS_HERE = """
import edge_fer.cuda.open as cuda
from edge_fer.cuda.device import DeviceInfo
from edge_fer.backends.tensorrt import library
info = DeviceInfo("NVIDIA GeForce MX250", (6, 1), 2002 << 20, 12060, integrated=False, async_engines=1, can_map=True)
cuda.describe_device = lambda index=0: info
library.installed = lambda: ("tensorrt", "8.5.3.1")
class ILogger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING = range(3)
class Tensorrt:
    ILogger = ILogger
    Builder = staticmethod(lambda logger: object())
library.import_tensorrt = lambda: Tensorrt
"""


def test_a_gpu_that_something_runs_on_is_told_so_and_needs_no_line_of_pip(tmp_path: Path) -> None:
    """The driver, the device and TensorRT are played: what is under test is that the report joins them."""
    if metadata_of_tensorrt() is None:
        pytest.skip("needs TensorRT or TensorRT for RTX, whose place the played one takes")
    (tmp_path / "sitecustomize.py").write_text(GPU_IS_HERE)
    path = driver(tmp_path, "NVIDIA GeForce MX250, 470.223.02, 2002, 6.1")
    done = doctor("--json", PATH=path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = DoctorReport.model_validate_json(done.stdout)
    assert report.gpu_use == "edge-fer runs on it with --backend tensorrt (fp32, int8)"
    worth = {row.precision: row.backends for row in report.worth if row.device != "CPU"}
    assert worth == {"fp32": ("tensorrt",), "bf16": (), "fp16": (), "int8": ("tensorrt",)}
    assert not any("MX250" in step.why for step in report.advice)


def metadata_of_tensorrt() -> object:
    from edge_fer.backends.tensorrt.library import installed

    return installed()


def test_a_broken_driver_is_a_sentence(tmp_path: Path) -> None:
    done = doctor(PATH=driver(tmp_path, "NVIDIA-SMI has failed because it could not communicate with the driver"))
    assert done.returncode == 0, done.stderr
    assert "nvidia-smi fails: unexpected answer" in done.stdout


def test_timings_are_taken_only_on_request() -> None:
    done = doctor("--measure", "--json")
    assert done.returncode == 0, done.stderr
    timed = [one for one in DoctorReport.model_validate_json(done.stdout).measured if one.median_us]
    assert {"onnxruntime"} <= {one.backend for one in timed}
