"""Nothing is written to, or kept about, the user behind their back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_fer.backends.registry import installed_backends
from edge_fer.core.bundle import Bundle


@pytest.mark.parametrize("backend", [status.name for status in installed_backends() if status.installed])
def test_running_an_engine_leaves_nothing_in_the_home_folder(shipped: Bundle, tmp_path: Path, backend: str) -> None:
    """Left alone, ONNX Runtime and OpenVINO both leave an id there and report to their vendors."""
    code = (
        "from pathlib import Path\n"
        "from edge_fer.core.bundle import open_bundle\n"
        "from edge_fer.backends.registry import open_engine\n"
        f"bundle = open_bundle(Path({str(shipped.path)!r}))\n"
        f"with open_engine(bundle, backend={backend!r}, precision='fp32') as engine:\n"
        "    engine.submit(engine.slots[0], 1)\n"
        "    engine.wait(engine.slots[0])\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    unset = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED", "CI")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    environment |= {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "LOCALAPPDATA": str(home),
        "EDGE_FER_CACHE": str(tmp_path / "engines"),
    }
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert [path for path in home.rglob("*") if path.is_file()] == []
