"""Which CPU this is, as far as an engine built for it depends on that."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import cache
from pathlib import Path


def _cpuinfo() -> tuple[str, str]:
    """(model name, instruction-set flags) from Linux; empty strings where the kernel does not say."""
    model = flags = ""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "CPU part") and not model:
            model = value.strip()
        elif key.strip() in ("flags", "Features") and not flags:
            flags = " ".join(sorted(value.split()))
        if model and flags:
            break
    return model, flags


def _macos_model() -> str:
    try:
        answer = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


@cache
def cpu_name() -> str:
    """Marketing name where the system tells it, the architecture otherwise."""
    if platform.system() == "Linux":
        return _cpuinfo()[0] or platform.machine()
    if platform.system() == "Darwin":
        return _macos_model() or platform.machine()
    return platform.processor() or platform.machine()


@cache
def cpu_identity() -> str:
    """Name plus a short hash of the instruction sets: an engine holds code and weight layouts chosen by them.

    A hypervisor may show the same name with fewer instructions, so that the name alone does not do.
    """
    flags = _cpuinfo()[1] if platform.system() == "Linux" else platform.version()
    digest = hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:8]
    return f"CPU {cpu_name()} [{platform.system()} {platform.machine()} {digest}]"
