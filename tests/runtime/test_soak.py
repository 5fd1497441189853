"""Nothing grows: the soak benchmark, shortened, with its own criterion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parents[2] / "benchmarks" / "soak.py"
GROWTH_MB = 5.0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_resident_memory_stays_flat_over_thousands_of_real_frames() -> None:
    """In a process of its own: this one's memory has been large before. The benchmark runs 100,000 frames."""
    done = subprocess.run([sys.executable, str(SOAK), "--frames", "4000"], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["frames"] == 4000
    assert record["frames_with_faces"] > 2500
    assert record["growth_mb"] < GROWTH_MB, record["memory_mb"]
