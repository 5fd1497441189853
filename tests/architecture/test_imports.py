"""What must not be imported, is not; and what can be imported, imports."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import edge_fer

TORCH_PACKAGES = ("edge_fer.models", "edge_fer.train", "edge_fer.compile")
MODULES = sorted(m.name for m in pkgutil.walk_packages(edge_fer.__path__, "edge_fer."))


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in ``sys.modules`` of a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nsys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module: str) -> None:
    importlib.import_module(module)


@pytest.mark.parametrize("package", ["edge_fer.core", "edge_fer.runtime", "edge_fer.backends", "edge_fer.data"])
def test_the_deployed_packages_leave_torch_alone(package: str) -> None:
    names = [m for m in MODULES if m.startswith(package)]
    assert names
    assert "torch" not in loaded_after("import " + ", ".join(names))


def test_the_command_line_starts_without_anything_heavy() -> None:
    heavy = {"torch", "cv2", "openvino", "onnxruntime", "onnx", "matplotlib", "pygame", "numpy", "skimage"}
    assert not heavy & loaded_after("import edge_fer.cli.main")


def test_importing_the_package_costs_nothing() -> None:
    plain = loaded_after("pass")
    assert loaded_after("import edge_fer") - plain <= {"edge_fer", "__future__"}


def test_every_command_explains_itself() -> None:
    done = subprocess.run([sys.executable, "-m", "edge_fer", "--help"], capture_output=True, text=True, check=True)
    for command in (
        "run",
        "compile",
        "calibrate",
        "data",
        "eval",
        "explain",
        "explore",
        "bench",
        "plan",
        "fetch",
        "train",
        "verify",
        "doctor",
    ):
        assert command in done.stdout
        told = subprocess.run(
            [sys.executable, "-m", "edge_fer", command, "--help"], capture_output=True, text=True, check=True
        )
        assert "Usage:" in told.stdout
