"""Peers: each file says what it needs without being imported, and its function is timed in another process."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from edge_fer.bench.results import pack_round
from edge_fer.core.labels import EMOTIONS

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runner() -> Iterator[ModuleType]:
    yield load("run")
    del sys.modules["run"]


@pytest.fixture(scope="module")
def comparison(runner: ModuleType) -> Iterator[ModuleType]:
    yield load("compare")
    del sys.modules["compare"]


def ask(**changes: object) -> dict[str, Any]:
    """What the harness answers, run as for a peer but in this environment."""
    order = {"threads": 1, "timed": 100, "label_all": True, "clip": None, "packages": [], **changes}
    done = subprocess.run(
        [sys.executable, "-I", str(FOLDER / "harness.py")],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_every_peer_declares_what_it_needs_and_does(runner: ModuleType) -> None:
    assert {"fer_package", "hsemotion_onnx", "deepface_emotion", "mediapipe_faces"} <= set(runner.peers())
    for name in runner.peers():
        about = runner.constants(name)
        assert about["TASK"] in ("detection", "classification")
        assert all(isinstance(line, str) for line in about["REQUIREMENTS"])
        assert about["PACKAGES"]
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
    answer = ask(
        peer=str(tmp_path / "peer.py"),
        pictures=str(tmp_path / "p.npz"),
        threads=3,
        clip=str(tmp_path / "clip.avi"),
        timed=10,
        packages=["numpy", "no-such-package"],
    )
    assert len(answer["samples_ns"]) == 10
    assert [boxes[0][2] for boxes in answer["results"]] == list(range(6, 18)), "the others are labelled, not timed"
    assert answer["results"][0][0][3] == 3
    assert answer["clip_fps"] > 0
    assert answer["versions"] == {"numpy": np.__version__}


@pytest.mark.parametrize(
    ("code", "stage", "error", "refusal"),
    [
        ("import no_such_part", "opening", "ModuleNotFoundError: No module named 'no_such_part'", None),
        (
            "def open_peer(threads):\n    try:\n        open('/no/such/weights')\n    except OSError as error:\n"
            "        raise ValueError('no weights') from error\n",
            "opening",
            "ValueError: no weights",
            "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/weights'",
        ),
        (
            "def open_peer(threads):\n    def label(image):\n        if image[0, 0, 0]:\n"
            "            raise ValueError('dark')\n    return label\n",
            "running",
            "ValueError: dark",
            None,
        ),
    ],
)
def test_a_peer_that_fails_says_where_and_why(
    tmp_path: Path, code: str, stage: str, error: str, refusal: str | None
) -> None:
    (tmp_path / "peer.py").write_text(code)
    np.savez(tmp_path / "p.npz", np.zeros((4, 4, 3), np.uint8), np.ones((4, 4, 3), np.uint8))
    answer = ask(peer=str(tmp_path / "peer.py"), pictures=str(tmp_path / "p.npz"))
    assert (answer["failed"], answer["error"], answer["refusal"]) == (stage, error, refusal)


def test_ours_is_measured_in_the_same_harness(runner: ModuleType, tmp_path: Path) -> None:
    faces = [np.random.default_rng(seed).integers(0, 255, (48, 48, 3), dtype=np.uint8) for seed in range(3)]
    np.savez(tmp_path / "p.npz", *faces)
    answer = runner.measure("edge_fer_classifier", tmp_path / "p.npz", clip=None, threads=1, label_all=True)
    assert len(answer["results"]) == 3
    assert set(answer["results"]) <= set(EMOTIONS)
    assert "edge-fer-compact on " in answer["runs_on"]
    assert answer["versions"]["edge-fer"]


def test_other_spellings_of_a_class_count_and_other_classes_do_not(runner: ModuleType) -> None:
    assert runner.hits(["Anger", "happy", "Contempt", None], ["angry", "happiness", "sad", "sad"]) == [
        True, True, False, False,
    ]  # fmt: skip


def test_the_page_holds_every_peer_and_the_reasons_of_those_that_are_missing(comparison: ModuleType) -> None:
    def peer(task: str, ms: float, **more: object) -> dict[str, object]:
        samples = pack_round([round(1e6 * ms)] * 5).model_dump()
        figures = {"cold_start_s": 2.0, "cpu_ms": ms, "memory_bytes": 64_000_000, "samples": samples}
        about = {"task": task, "runs_on": "X", "versions": {"x": "1.0"}, "pictures": 5, "installed_bytes": None}
        return {**about, "rounds": [figures] * 3, **more}

    result = {
        "edge_fer_version": "1", "measured_utc": "now", "device": "CPU", "disturbance": {"others": 0.4, "stolen": 0.0},
        "data": "faces/test",
        "peers": {
            "fer_package": peer("classification", 2.0, top1=0.5, top1_interval=[0.4, 0.6], installed_bytes=8_000_000),
            "edge_fer_classifier": peer("classification", 0.5, top1=0.7, top1_interval=[0.6, 0.8]),
            "deepface_emotion": {"task": "classification", "rounds": [], "error": "it fetches its weights"},
            "edge_fer_detector": peer("detection", 1.0, found=1.0),
        },
    }  # fmt: skip
    text = comparison.to_markdown(result, "peers.json")
    rows = [line for line in text.splitlines() if line.startswith("| x 1.0")]
    assert [row.split(" | ")[2] for row in rows] == ["0.500", "2.000", "1.000"], "ours first"
    assert "4.0x (4.0-4.0)" in rows[1]
    assert "50.0% (40.0%-60.0%)" in rows[1]
    assert "- Not measured: deepface_emotion: it fetches its weights." in text
    assert "> Disturbed" in text
