"""What the machine was doing while it was measured: clocks, load, temperature, energy, and time that others took.

Everything is read from files of Linux; what a system does not tell is ``None`` and never guessed.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from dataclasses import dataclass
from pathlib import Path

from edge_fer.core.spec import Frozen

_SYSTEM = Path("/")
_SENSORS = ("coretemp", "k10temp", "cpu_thermal", "zenpower", "x86_pkg_temp", "cpu-thermal")
"""Names of hwmon chips and thermal zones that are the processor's."""


DISTURBED = 0.10
"""Part of the processor that others may take."""


class Conditions(Frozen):
    """One look at the machine.

    Attributes:
        clock_mhz: mean of the cores' present clocks.
        load_1m: load average of the last minute; the benchmark itself is part of it.
        temperature_c: hottest sensor of the processor.
        noise: reasons to distrust timings taken now, as sentences.
    """

    clock_mhz: float | None
    load_1m: float | None
    temperature_c: float | None
    noise: tuple[str, ...]


def look(noise: tuple[str, ...] = (), root: Path = _SYSTEM) -> Conditions:
    """Read the present conditions; ``root`` is where ``proc`` and ``sys`` lie."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Conditions(clock_mhz=clock_mhz(root), load_1m=load, temperature_c=temperature_c(root), noise=noise)


def clock_mhz(root: Path = _SYSTEM) -> float | None:
    """Mean present clock of all cores: cpufreq's where the kernel has it, otherwise /proc/cpuinfo's."""
    clocks = [value / 1e3 for value in _numbers(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")]
    if not clocks:
        with contextlib.suppress(OSError, ValueError):
            lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
            clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return statistics.fmean(clocks) if clocks else None


def temperature_c(root: Path = _SYSTEM) -> float | None:
    """The hottest of the processor's sensors, in degrees Celsius."""
    found: list[float] = []
    for pattern, label, value in (
        ("sys/class/hwmon/hwmon*", "name", "temp*_input"),
        ("sys/class/thermal/thermal_zone*", "type", "temp"),
    ):
        for folder in root.glob(pattern):
            with contextlib.suppress(OSError):
                if (folder / label).read_text(encoding="ascii", errors="replace").strip() in _SENSORS:
                    found += [reading / 1e3 for reading in _numbers(folder, value)]
    return max(found) if found else None


def energy_joules(root: Path = _SYSTEM) -> float | None:
    """Energy that the processor packages have used since some moment, by RAPL; ``None`` where it may not be read.

    The counter is the whole package's: other programs' work is in it. It wraps after hours, so a difference may be
    negative once and must then be thrown away.
    """
    found: list[float] = []
    for zone in root.glob("sys/class/powercap/intel-rapl:*"):
        with contextlib.suppress(OSError):
            # Beside the packages there may be the whole platform ("psys"), which holds them, and their parts.
            if (zone / "name").read_text(encoding="ascii", errors="replace").startswith("package"):
                found += _numbers(zone, "energy_uj")
    return sum(found) / 1e6 if found else None


def _numbers(root: Path, pattern: str) -> list[float]:
    found: list[float] = []
    for path in sorted(root.glob(pattern)):
        with contextlib.suppress(OSError, ValueError):
            found.append(float(path.read_text(encoding="ascii")))
    return found


@dataclass(frozen=True)
class Ticks:
    """Processor time since boot, in seconds over all cores: everything, what was used, what the hypervisor took; and
    what this process and its finished children used."""

    total: float
    used: float
    stolen: float
    ours: float


def ticks(root: Path = _SYSTEM) -> Ticks | None:
    """Read /proc/stat; ``None`` where there is none."""
    times = os.times()
    with contextlib.suppress(OSError, ValueError, IndexError):
        first = (root / "proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
        user, nice, system, idle, waiting, irq, softirq, stolen = (float(v) for v in first[:8])
        rate = float(os.sysconf("SC_CLK_TCK"))
        used = user + nice + system + irq + softirq
        return Ticks(
            total=(used + idle + waiting + stolen) / rate,
            used=used / rate,
            stolen=stolen / rate,
            ours=times.user + times.system + times.children_user + times.children_system,
        )
    return None


class Disturbance(Frozen):
    """What others took while we measured, as fractions of all processor time in 0..1.

    Attributes:
        others: other programs of this machine.
        stolen: other guests of the same host.
    """

    others: float
    stolen: float

    @property
    def doubtful(self) -> bool:
        """Whether so much was taken that timings of these minutes are not to be quoted."""
        return self.others + self.stolen > DISTURBED


def disturbance(before: Ticks | None, after: Ticks | None) -> Disturbance | None:
    """Compare two readings; ``None`` when there is nothing to compare."""
    if before is None or after is None or after.total <= before.total:
        return None
    span = after.total - before.total
    others = (after.used - before.used) - (after.ours - before.ours)
    return Disturbance(
        others=min(1.0, max(0.0, others / span)), stolen=min(1.0, max(0.0, (after.stolen - before.stolen) / span))
    )
