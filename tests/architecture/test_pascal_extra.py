"""What `pip install 'edge-fer[tensorrt-pascal]'` brings is what the doctor tells owners of such cards to install."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

import edge_fer.bench

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def test_the_extra_for_pascal_is_the_line_that_the_doctor_prints() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    if not PROJECT.is_file():
        pytest.skip("needs the repository, not only the package")
    extra = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]["tensorrt-pascal"]
    known = yaml.safe_load((Path(edge_fer.bench.__file__).with_name("gpus.yaml")).read_text(encoding="utf-8"))
    (pascal,) = (entry for entry in known["architectures"] if entry["capabilities"] == ["6.1"])
    (line,) = (way for way in pascal["install"] if way.get("backend") == "tensorrt")
    command = shlex.split(line["command"])
    assert command[:2] == ["pip", "install"]
    assert sorted(extra) == sorted(command[2:])
    assert line["python"] == ["3.10"], "the only Python that both sides name"
