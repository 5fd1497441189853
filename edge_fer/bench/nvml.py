"""Energy, memory, clock and temperature of an NVIDIA GPU, asked of the driver's own library (NVML) through ctypes.

Names and structures are those of NVIDIA's ``nvml.h``; the driver brings the library, so nothing is installed for it.
What a card does not tell is ``None`` and never guessed: those before Volta count no energy, some laptops hide clocks.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

LIBRARIES = ("nvml.dll",) if os.name == "nt" else ("libnvidia-ml.so.1", "libnvidia-ml.so")
SUCCESS = 0
SM_CLOCK, ON_DIE_SENSOR = 1, 0
NAME_BYTES = 96


class _Memory(ctypes.Structure):
    """``nvmlMemory_t``."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class GpuMeter:
    """One GPU's instruments. A reading takes some ten microseconds, so none is taken between two calls."""

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    def energy_joules(self) -> float | None:
        """Used since the driver was loaded, by the whole card and everything that runs on it."""
        found = self._read("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())
        return None if found is None else found / 1e3

    def used_bytes(self) -> int | None:
        """Memory of the card in use, by all programs."""
        memory = _Memory()
        status = self._library.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory))
        return int(memory.used) if status == SUCCESS else None

    def clock_mhz(self) -> float | None:
        """Of the multiprocessors, now."""
        found = self._read("nvmlDeviceGetClockInfo", ctypes.c_uint(), SM_CLOCK)
        return None if found is None else float(found)

    def temperature_c(self) -> float | None:
        """Of the chip, in degrees Celsius."""
        found = self._read("nvmlDeviceGetTemperature", ctypes.c_uint(), ON_DIE_SENSOR)
        return None if found is None else float(found)

    def _read(self, name: str, value: Any, *which: int) -> int | None:
        function = getattr(self._library, name, None)  # drivers of 2018 and before lack some
        if function is None or function(self._handle, *which, ctypes.byref(value)) != SUCCESS:
            return None
        return int(value.value)


def open_meter(gpu: str, library: str | None = None) -> GpuMeter | None:
    """The meter of the GPU whose name ``gpu`` begins with; ``None`` without NVML, and where no card or more than one is
    called so: CUDA and NVML count cards in different orders, and a wrong card's energy is worse than none.

    Args:
        library: file to load instead of the driver's.
    """
    nvml = _load((library,) if library is not None else LIBRARIES)
    if nvml is None or nvml.nvmlInit_v2() != SUCCESS:
        return None
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != SUCCESS:
        return None
    found = []
    for index in range(count.value):
        handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(NAME_BYTES)
        if (
            nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == SUCCESS
            and nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(NAME_BYTES)) == SUCCESS
            and name.value
            and gpu.startswith(name.value.decode("utf-8", "replace"))
        ):
            found.append(handle)
    return GpuMeter(nvml, found[0]) if len(found) == 1 else None


def _load(names: tuple[str, ...]) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


__all__ = ["GpuMeter", "open_meter"]
