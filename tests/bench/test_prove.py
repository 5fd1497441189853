"""The proof script on a machine without a GPU: everything is skipped, in words, and nothing is claimed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_fer.core.errors import EdgeFerError
from edge_fer.cuda.open import describe_device

PROVE = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "prove.py"


def ask(proof: str) -> dict[str, str]:
    done = subprocess.run([sys.executable, str(PROVE), "--only", proof], capture_output=True, text=True, check=True)
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("proof", ["kernel and copy times", "engine tensorrt int8", "loop on the GPU, torch fp32"])
def test_without_a_gpu_a_proof_is_skipped_with_the_reason(proof: str) -> None:
    try:
        describe_device()
    except EdgeFerError:
        answer = ask(proof)
        assert answer["outcome"] == "skipped"
        assert "edge-fer" in answer["why"] or "NVIDIA" in answer["why"]
    else:
        pytest.skip("this machine has a GPU")


def test_without_a_gpu_there_is_nothing_to_submit() -> None:
    try:
        describe_device()
    except EdgeFerError:
        done = subprocess.run([sys.executable, str(PROVE), "--submit"], capture_output=True, text=True)
        assert done.returncode == 4
        assert done.stderr.startswith("prove.py: nothing can be submitted. ")
        assert done.stderr.count("\n") == 1
    else:
        pytest.skip("this machine has a GPU")


def test_an_unknown_proof_is_a_usage_error() -> None:
    done = subprocess.run([sys.executable, str(PROVE), "--only", "magic"], capture_output=True, text=True)
    assert done.returncode == 2


def test_a_bundle_that_is_none_is_told_before_anything_runs(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(PROVE), "--bundle", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.startswith("prove.py: ")
    assert not done.stdout


def test_a_bar_that_is_not_kept_is_named_and_is_no_pass() -> None:
    spec = importlib.util.spec_from_file_location("prove", PROVE)
    assert spec is not None
    assert spec.loader is not None
    prove = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prove)
    from frame_path import bar

    assert prove.folder_name("NVIDIA GeForce MX250") == "geforce-mx250"
    bars = {"queued": bar(61.0, 50.0, "us"), "same labels": bar(0.999, 0.995, "of the faces", at_least=True)}
    found = prove.judged({"bars": bars})
    assert (found["outcome"], found["why"]) == ("missed", "queued: 61 us, promised 50")
    assert prove.judged({"bars": {"same labels": bars["same labels"]}})["outcome"] == "passed"
    assert not bar(0.99, 0.995, "of the faces", at_least=True)["passed"]
