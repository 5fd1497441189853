"""What this machine is: processor, instruction sets that matter for inference, cores, memory. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_fer.backends.host import cpu_name
from edge_fer.core.spec import Frozen
from edge_fer.core.threads import usable_threads

FLAGS: dict[str, str] = {
    "avx2": "AVX2",
    "f16c": "F16C",
    "avx512f": "AVX512F",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "avx512_fp16": "AVX512-FP16",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
    "amx_fp16": "AMX-FP16",
    "asimd": "NEON",
    "asimdhp": "NEON-FP16",
    "asimddp": "NEON-DOTPROD",
    "i8mm": "NEON-I8MM",
    "bf16": "NEON-BF16",
    "sve": "SVE",
}
"""Linux's names of the instruction sets that decide what a precision is worth, and ours."""

_MACOS: dict[str, str] = {
    "hw.optional.avx2_0": "AVX2",
    "hw.optional.avx512f": "AVX512F",
    "hw.optional.avx512vnni": "AVX512-VNNI",
    "hw.optional.neon": "NEON",
    "hw.optional.AdvSIMD": "NEON",
    "hw.optional.arm.FEAT_FP16": "NEON-FP16",
    "hw.optional.arm.FEAT_DotProd": "NEON-DOTPROD",
    "hw.optional.arm.FEAT_I8MM": "NEON-I8MM",
    "hw.optional.arm.FEAT_BF16": "NEON-BF16",
}

_WINDOWS: dict[int, str] = {19: "NEON", 40: "AVX2", 41: "AVX512F", 43: "NEON-DOTPROD"}
"""``PF_*`` numbers of ``IsProcessorFeaturePresent``; Windows has none for VNNI, BF16 or AMX."""

_NUMPY: dict[str, str] = {
    "AVX2": "AVX2",
    "F16C": "F16C",
    "AVX512F": "AVX512F",
    "AVX512VNNI": "AVX512-VNNI",
    "AVX512_CLX": "AVX512-VNNI",
    "AVX512BF16": "AVX512-BF16",
    "AVX512FP16": "AVX512-FP16",
    "ASIMD": "NEON",
    "ASIMDHP": "NEON-FP16",
    "ASIMDDP": "NEON-DOTPROD",
}


class Machine(Frozen):
    """The computer.

    Attributes:
        isa: instruction sets of :data:`FLAGS` that are present, in that order.
        isa_complete: false where the system tells only some of them, so that one not listed may still be there.
        cores: physical cores, or ``None`` where the system does not tell.
        usable_threads: logical processors that this process may use: affinity and container limits count.
        memory_bytes: installed, or the container's limit where that is lower.
        noise: reasons to distrust timings taken now, as sentences.
    """

    system: str
    python: str
    cpu: str
    architecture: str
    isa: tuple[str, ...]
    isa_complete: bool
    cores: int | None
    usable_threads: int
    memory_bytes: int | None
    available_memory_bytes: int | None
    noise: tuple[str, ...]


def describe_machine() -> Machine:
    """Look at the machine; whatever cannot be found out is ``None`` or left out."""
    isa, complete = _isa()
    total, available = _memory()
    threads = usable_threads()
    return Machine(
        system=_system(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        cpu=cpu_name(),
        architecture=platform.machine(),
        isa=isa,
        isa_complete=complete,
        cores=_physical_cores(),
        usable_threads=threads,
        memory_bytes=total,
        available_memory_bytes=available,
        noise=_noise(threads),
    )


def _system() -> str:
    if platform.system() == "Linux":
        with contextlib.suppress(OSError):
            return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, kernel {platform.release()}"
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return f"{platform.system()} {platform.release()} {platform.version()}"


def _isa() -> tuple[tuple[str, ...], bool]:
    """(present instruction sets, whether that list is everything)."""
    found: set[str] = set()
    complete = False
    if platform.system() == "Linux":
        present = _linux_flags()
        found = set(isa_of(present))
        complete = bool(present)
    elif platform.system() == "Darwin":
        found = {ours for key, ours in _MACOS.items() if _sysctl(key) == "1"}
        complete = bool(found)
    elif platform.system() == "Windows":
        found = {ours for number, ours in _WINDOWS.items() if _kernel32("IsProcessorFeaturePresent", number)}
    if not complete:
        found |= _numpy_flags()
    return tuple(name for name in dict.fromkeys(FLAGS.values()) if name in found), complete


def cpuinfo_flags(text: str) -> set[str]:
    """Feature flags of the first processor in the text of ``/proc/cpuinfo`` (x86: ``flags``, Arm: ``Features``)."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def isa_of(flags: set[str]) -> tuple[str, ...]:
    """Our names, in the order of :data:`FLAGS`, of Linux's feature flags."""
    return tuple(ours for theirs, ours in FLAGS.items() if theirs in flags)


def _linux_flags() -> set[str]:
    with contextlib.suppress(OSError):
        return cpuinfo_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    return set()


def _numpy_flags() -> set[str]:
    """What NumPy's own dispatcher found with CPUID: the only portable source that needs no extra package."""
    try:
        features = import_module("numpy._core._multiarray_umath").__cpu_features__
    except (ImportError, AttributeError):
        return set()
    return {ours for theirs, ours in _NUMPY.items() if features.get(theirs)}


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _kernel32(function: str, argument: Any) -> int:
    """Call one function of Windows' kernel32."""
    return int(getattr(ctypes, "windll").kernel32[function](argument))  # noqa: B009 (absent on other systems)


def _physical_cores() -> int | None:
    if platform.system() == "Linux":
        cores: set[str] = set()
        for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list"):
            with contextlib.suppress(OSError):
                cores.add(path.read_text().strip())
        return len(cores) or None
    if platform.system() == "Darwin":
        text = _sysctl("hw.physicalcpu")
        return int(text) if text.isdigit() else None
    return None


def _memory() -> tuple[int | None, int | None]:
    """(installed, available) bytes."""
    if platform.system() == "Linux":
        values: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            for line in Path("/proc/meminfo").read_text().splitlines():
                key, _, value = line.partition(":")
                values[key] = int(value.split()[0]) * 1024
        total = values.get("MemTotal")
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
            total = min(total, limit) if total else limit
        return total, values.get("MemAvailable")
    if platform.system() == "Darwin":
        text = _sysctl("hw.memsize")
        return (int(text) if text.isdigit() else None), None
    if platform.system() == "Windows":
        return _windows_memory()
    return None, None


def _windows_memory() -> tuple[int | None, int | None]:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *(
                (name, ctypes.c_ulonglong)
                for name in ("total", "free", "page", "page_free", "virtual", "v_free", "ext")
            ),
        )

    status = Status(length=ctypes.sizeof(Status))
    if not _kernel32("GlobalMemoryStatusEx", ctypes.byref(status)):
        return None, None
    return int(status.total), int(status.free)


def _noise(threads: int) -> tuple[str, ...]:
    """Why timings taken now may not repeat."""
    found = []
    if hasattr(os, "getloadavg"):
        load = os.getloadavg()[0]
        if load > 0.5 * threads:
            found.append(f"other programs are busy: load {load:.1f} on {threads} threads")
    with contextlib.suppress(OSError):
        governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
        if governor == "powersave":
            found.append("the CPU frequency governor is powersave")
    with contextlib.suppress(OSError):
        states = [path.read_text().strip() for path in Path("/sys/class/power_supply").glob("*/status")]
        if "Discharging" in states:
            found.append("the machine runs on battery")
    if "hypervisor" in _linux_flags():
        found.append("this is a virtual machine: neighbours may take time from it")
    return tuple(found)
