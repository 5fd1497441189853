"""The meter speaks to a library with NVML's own names and structures, compiled for the test: no card is needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_fer.bench.nvml import open_meter

LIBRARY = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
static const char *names[] = {"NVIDIA GeForce MX250", "NVIDIA H100", "NVIDIA H100"};
static int card(void *device) { return (int)(size_t)device - 1; }
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device) { *device = (void *)(size_t)(i + 1); return 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned length) {
  strncpy(name, names[card(device)], length); return 0; }
int nvmlDeviceGetMemoryInfo(void *device, nvmlMemory_t *memory) {
  memory->total = 2147483648ull; memory->used = 123456789ull; memory->free = 1; return 0; }
int nvmlDeviceGetClockInfo(void *device, unsigned which, unsigned *mhz) { *mhz = which == 1 ? 1582 : 0; return 0; }
int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *celsius) { *celsius = 63 + sensor; return 0; }
#ifdef VOLTA
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) { *mj = 5000000123ull; return 0; }
#else
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) { return 3; }
#endif
"""


Build = Callable[..., str]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the library is compiled for the test, which needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(LIBRARY)

    def compile_it(*flags: str) -> str:
        out = folder / f"nvml{len(flags)}.so"
        subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", str(out), str(folder / "nvml.c")], check=True)
        return str(out)

    return compile_it


def test_a_card_is_found_by_name_and_read(build: Build) -> None:
    meter = open_meter("NVIDIA GeForce MX250 [sm_61 2048 MiB]", build("-DVOLTA"))
    assert meter is not None
    assert meter.energy_joules() == pytest.approx(5000000.123)
    assert meter.used_bytes() == 123456789
    assert meter.clock_mhz() == 1582
    assert meter.temperature_c() == 63


def test_a_card_that_counts_no_energy_says_none(build: Build) -> None:
    meter = open_meter("NVIDIA GeForce MX250", build())
    assert meter is not None
    assert meter.energy_joules() is None
    assert meter.clock_mhz() == 1582


def test_two_cards_of_one_name_are_not_told_apart_by_guessing(build: Build) -> None:
    library = build()
    assert open_meter("NVIDIA H100", library) is None
    assert open_meter("GeForce GTX 1650", library) is None


def test_without_the_library_there_is_no_meter(tmp_path: Path) -> None:
    assert open_meter("NVIDIA GeForce MX250", str(tmp_path / "absent.so")) is None
