"""The kernels, compiled for the host."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def compile_for_host(folder: Path) -> ctypes.CDLL:
    """The kernels as functions of a library: see host_kernels.cpp. Skips the test where there is no compiler."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("compiling the kernels for the host needs a C++ compiler")
    library = folder / "host_kernels.so"
    options = ["-O1", "-std=c++14", "-Wall", "-Wextra", "-Werror", "-Wno-sign-compare", "-Wno-unknown-pragmas"]
    command = [
        compiler,
        *options,
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(HERE / "host_kernels.cpp"),
    ]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_for_host(tmp_path_factory.mktemp("kernels"))
