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
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=240,
    )


def test_the_report_is_shown_in_80_columns_and_printed_as_one_object() -> None:
    done = doctor(COLUMNS="80")
    assert done.returncode == 0, done.stderr
    for words in ("Machine", "Libraries", "What each precision is worth", "edge-fer uses only CPUExecutionProvider"):
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
    for words in (*told, "tensorrt==8.5.3.1"):
        assert words in done.stdout, words
    report = DoctorReport.model_validate_json(doctor("--json", PATH=path).stdout)
    worth = {row.precision: row for row in report.worth if row.device != "CPU"}
    assert {name: row.grade for name, row in worth.items()} == {
        "fp32": "works",
        "bf16": "impossible",
        "fp16": "pointless",
        "int8": "best",
    }
    assert all(row.backends == () for row in worth.values()), "nothing of ours runs on a GPU yet"


def test_an_rtx_3050_is_promised_nothing_either(tmp_path: Path) -> None:
    path = driver(tmp_path, "NVIDIA GeForce RTX 3050 Laptop GPU, 580.65.06, 4096, 8.6")
    done = doctor(PATH=path)
    assert done.returncode == 0, done.stderr
    for words in ("8.6, Ampere", "4096 MiB", NO_CUDA):
        assert words in done.stdout, words
    assert "edge-fer[tensorrt]" not in done.stdout
    assert "edge-fer[cuda]" not in done.stdout


def test_a_broken_driver_is_a_sentence(tmp_path: Path) -> None:
    done = doctor(PATH=driver(tmp_path, "NVIDIA-SMI has failed because it could not communicate with the driver"))
    assert done.returncode == 0, done.stderr
    assert "nvidia-smi fails: unexpected answer" in done.stdout


def test_timings_are_taken_only_on_request() -> None:
    done = doctor("--measure", "--json")
    assert done.returncode == 0, done.stderr
    timed = [one for one in DoctorReport.model_validate_json(done.stdout).measured if one.median_us]
    assert {"onnxruntime"} <= {one.backend for one in timed}
