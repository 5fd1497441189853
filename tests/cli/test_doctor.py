"""``edge-fer doctor`` as a user runs it: with everything, with nothing, and with an MX250."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_fer.bench.doctor import DoctorReport

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

MX250 = """
print("NVIDIA GeForce MX250, 470.223.02, 2004, 6.1")
"""


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_fer", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=240,
    )


def test_the_report_is_shown_and_written(tmp_path: Path) -> None:
    path = tmp_path / "doctor.json"
    done = doctor("--json", str(path))
    assert done.returncode == 0, done.stderr
    for words in ("Machine", "Libraries", "What each precision is worth", "runs on CPUExecutionProvider"):
        assert words in done.stdout
    report = DoctorReport.model_validate_json(path.read_bytes())
    assert [row.precision for row in report.worth if row.device == "CPU"] == ["fp32", "bf16", "fp16", "int8"]


def test_a_machine_with_nothing_installed_is_told_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOTHING_INSTALLED)
    path = tmp_path / "doctor.json"
    done = doctor("--json", str(path), PYTHONPATH=str(tmp_path), PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "no inference backend works here" in done.stdout
    assert "pip install 'edge-fer[openvino]'" in done.stdout
    assert "pip install 'edge-fer[report]'" in done.stdout
    assert "pip install 'opencv-python-headless<5'" in done.stdout
    report = json.loads(path.read_text())
    assert all(library["distributions"] == [] for library in report["libraries"])


@pytest.mark.skipif(os.name == "nt", reason="needs a script that the system starts by its first line")
def test_an_mx250_is_told_its_limits(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\n{MX250}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    done = doctor(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    for words in ("GeForce MX250", "6.1, Pascal", "R580", "2.7.1+cu126", "1/64 of the fp32 rate", "not measured"):
        assert words in done.stdout, words
    lines = done.stdout.splitlines()
    assert any("MX250" in line and "fp16" in line and "pointless" in line for line in lines)
    assert any("MX250" in line and "int8" in line and "best" in line for line in lines)


def test_timings_are_taken_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "doctor.json"
    done = doctor("--measure", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "Measured here" in done.stdout
    timed = [one for one in json.loads(path.read_text())["measured"] if one["median_us"]]
    assert {"onnxruntime"} <= {one["backend"] for one in timed}
