"""How many processors this process may use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edge_fer.core.errors import UsageError

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_threads() -> int:
    """Logical processors that this process may really use: ``taskset`` may leave it fewer than the machine has, and a
    container's quota (``docker run --cpus``) less time than they would give."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError, IndexError):
        quota, period = QUOTA.read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    return count


def check_threads(threads: int) -> None:
    """Refuse more threads than there are processors: they wait for each other in turns, and what takes milliseconds
    takes minutes.

    Raises:
        UsageError: so many.
    """
    processors = os.cpu_count() or threads
    if threads > processors:
        noun = f"{processors} processor{'s' * (processors > 1)}"
        raise UsageError(f"{threads} threads are more than this machine's {noun}.", fix=f"--threads {usable_threads()}")
