"""Peers: each file says what it needs without being imported, and its function is timed in another process."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_peer_declares_what_it_needs_and_does(runner: ModuleType) -> None:
    assert {"fer_package", "hsemotion_onnx", "deepface_emotion", "mediapipe_faces"} <= set(runner.peers())
    for name in runner.peers():
        about = runner.constants(name)
        assert about["TASK"] in ("detection", "classification")
        assert all(isinstance(line, str) for line in about["REQUIREMENTS"])
        assert "def open_peer(threads)" in (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def test_the_harness_times_a_peer_and_keeps_its_prints_off_the_answer(tmp_path: Path) -> None:
    (tmp_path / "peer.py").write_text(
        "print('loading')\n\ndef open_peer(threads):\n    def find(image):\n        print('noise')\n"
        "        return [(0, 0, image.shape[1], threads)]\n    return find\n"
    )
    np.savez(tmp_path / "p.npz", *[np.zeros((4, 6 + index, 3), np.uint8) for index in range(12)])
    clip = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 16))
    for _ in range(3):
        clip.write(np.zeros((16, 32, 3), np.uint8))
    clip.release()
    order = {
        "peer": str(tmp_path / "peer.py"),
        "pictures": str(tmp_path / "p.npz"),
        "threads": 3,
        "clip": str(tmp_path / "clip.avi"),
    }
    done = subprocess.run(
        [sys.executable, str(FOLDER / "harness.py")],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert len(answer["samples_ms"]) == 12
    assert [boxes[0][2] for boxes in answer["results"]] == list(range(6, 18))
    assert answer["results"][0][0][3] == 3
    assert answer["clip_fps"] > 0
