"""The real cuda-python adapter over a driver that the tests compile: see simulated_driver.c."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def driver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds libcuda.so.1."""
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install 'edge-fer[cuda]'")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the simulated driver needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("driver")
    command = [compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(
        [*command, "-o", str(folder / "libcuda.so.1"), str(HERE / "simulated_driver.c"), "-ldl", "-lpthread"],
        check=True,
    )
    return folder


def test_a_driver_before_cuda_12_is_told_as_old_and_not_as_missing(driver_folder: Path, tmp_path: Path) -> None:
    """R520 and older have no cuGetProcAddress_v2, without which the bindings do not even call cuInit."""
    source = tmp_path / "old.c"
    source.write_text("int cuInit(unsigned flags) { return (int)flags; }\n")
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(tmp_path / "libcuda.so.1"), str(source)]
    subprocess.run(command, check=True)
    done = subprocess.run(
        [sys.executable, "-c", "from edge_fer.cuda.open import open_device; open_device()"],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "DeviceError: The NVIDIA driver of this machine is older than CUDA 12. Update it to R525" in done.stderr


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", sorted(path.name for path in HERE.glob("check_*.py")))
def test_checks_pass_over_the_simulated_driver(name: str, driver_folder: Path) -> None:
    """In a process of its own: this one has no driver, which other tests rely on."""
    command = [sys.executable, "-m", "pytest", "-o", "python_files=check_*.py", "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(
        [*command, "-o", "timeout=1100", str(HERE / name)],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver_folder)},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=1140,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed.group(1)) > 0
