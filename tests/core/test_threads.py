"""How many processors are ours: affinity, and what a container allows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_fer.core import threads


@pytest.mark.parametrize(
    ("cores", "quota", "usable"),
    [
        pytest.param(8, None, 8, id="no container"),
        pytest.param(8, "max 100000", 8, id="container without a limit"),
        pytest.param(64, "200000 100000", 2, id="two of 64"),
        pytest.param(64, "250000 100000", 2, id="two and a half"),
        pytest.param(64, "50000 100000", 1, id="half a processor"),
        pytest.param(2, "800000 100000", 2, id="a limit above what there is"),
        pytest.param(4, "", 4, id="an empty file"),
        pytest.param(4, "lots 100000", 4, id="no number"),
    ],
)
def test_processors_are_counted_as_far_as_they_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, quota: str | None, usable: int
) -> None:
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota)
    monkeypatch.setattr(threads, "QUOTA", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)), raising=False)
    assert threads.usable_threads() == usable
