"""Cases run apart: a crash, a hang or a missing part ends one line of the table, never the others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_fer.bench.measure import CaseFailed, Outcome, Worker, run_plan
from edge_fer.bench.plan import Case, Plan
from edge_fer.bench.report import to_markdown
from edge_fer.bench.results import read_json, summarise, write_json
from edge_fer.bench.worker import measure
from edge_fer.cli.main import app
from edge_fer.core.errors import BadInputError
from edge_fer.core.labels import EMOTIONS


def plan(**changes: object) -> Plan:
    return Plan.model_validate(
        {
            "name": "test",
            "models": [{"name": "edge-fer-compact", "bundle": "edge-fer-compact"}],
            "run": ["onnxruntime:fp32", "onnxruntime:int8", "openvino:int8"],
            "rounds": 2,
            "min_seconds": 0.02,
            "min_iterations": 5,
            "warm_up_seconds": 0.01,
            "timeout_s": 120,
            **changes,
        }
    )


def silent(text: str, done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for name in EMOTIONS:
        (root / name).mkdir()
        for index in range(3):
            cv2.imwrite(str(root / name / f"{index}.png"), rng.integers(0, 255, (48, 48), dtype=np.uint8))
    return root


@pytest.mark.slow
def test_every_case_is_measured_in_every_round_with_accuracy(faces: Path) -> None:
    outcomes = run_plan(plan(), data=faces, progress=silent)
    for outcome in outcomes:
        assert outcome.error == ""
        assert len(outcome.rounds_ns) == 2
        assert min(map(len, outcome.rounds_ns)) >= 5
        assert outcome.n == 21
        assert outcome.cold_start_ms is not None
        assert outcome.cold_start_ms > 0
        assert outcome.executed.startswith(outcome.case.runtime)
        assert outcome.case.precision in outcome.executed
        assert outcome.peak_rss_bytes is None or outcome.peak_rss_bytes < 1 << 30
    result = summarise(plan(), outcomes, "faces")
    fp32 = result.cases[0]
    assert fp32.speedup_ort_fp32 == 1.0
    assert fp32.agreement_fp32 == 1.0
    for case in result.cases:
        assert case.p50_ms is not None
        assert case.p50_ms <= (case.p90_ms or 0) <= (case.p99_ms or 0)


@pytest.mark.slow
def test_failures_stay_in_their_own_line() -> None:
    models = [
        {"name": "missing", "bundle": "no-such-bundle"},
        {"name": "edge-fer-compact", "bundle": "edge-fer-compact"},
    ]
    outcomes = run_plan(plan(models=models, run=["onnxruntime:bf16", "onnxruntime:int8"], rounds=1), progress=silent)
    found = {outcome.case.key: outcome for outcome in outcomes}
    assert "no-such-bundle" in found["missing/onnxruntime/int8/t1/b1"].error
    assert "bf16" in found["edge-fer-compact/onnxruntime/bf16/t1/b1"].error
    assert found["edge-fer-compact/onnxruntime/int8/t1/b1"].error == ""
    text = to_markdown(summarise(plan(models=models), outcomes, None))
    assert "Failed: missing, ORT int8:" in text


def test_a_worker_that_crashes_is_told_with_its_last_words() -> None:
    worker = Worker(timeout_s=60)
    with pytest.raises(CaseFailed, match=r"crashed \(status 1\): .*KeyError"):
        worker.ask({"job": {}})
    worker.close()


def test_a_worker_that_is_killed_is_told() -> None:
    worker = Worker(timeout_s=60)
    worker._process.kill()
    with pytest.raises(CaseFailed, match="crashed"):
        worker.ask({"end": True})
    worker.close()


@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs signals")
def test_a_worker_that_hangs_is_given_up() -> None:
    import signal

    worker = Worker(timeout_s=0.5)
    worker._process.send_signal(signal.SIGSTOP)
    with pytest.raises(CaseFailed, match="no answer within"):
        worker.ask({"end": True})
    worker.close()


def test_measuring_obeys_both_minima() -> None:
    assert len(measure(lambda: None, 0.0, 7)) == 7
    began = time.perf_counter()
    samples = measure(lambda: time.sleep(0.002), 0.05, 1)
    assert time.perf_counter() - began >= 0.05
    assert all(sample >= 2e6 for sample in samples)


def outcome(runtime: str, precision: str, *rounds: list[int]) -> Outcome:
    case = Case.model_validate({"model": "m", "runtime": runtime, "precision": precision, "threads": 1, "batch": 1})
    return Outcome(case, rounds_ns=[list(r) for r in rounds])


def test_ratios_are_taken_within_rounds() -> None:
    """A machine that is twice as slow in the second round changes times, not ratios."""
    slow = outcome("torch", "fp32", [4_000_000] * 5, [8_000_000] * 5)
    fast = outcome("openvino", "int8", [1_000_000] * 5, [2_000_000] * 5)
    result = summarise(plan(), [slow, fast], None)
    assert result.cases[1].speedup_torch == 4.0
    assert result.cases[1].noisy
    assert result.cases[1].p50_ms == pytest.approx(1.5)


def test_a_steady_case_is_not_called_noisy_and_percentiles_are_numpy_s() -> None:
    values = list(range(1_000_000, 1_100_000, 1000))
    (case,) = summarise(plan(), [outcome("torch", "fp32", values, values)], None).cases
    assert not case.noisy
    assert case.p90_ms == pytest.approx(np.percentile(values, 90) / 1e6)


def test_results_survive_their_file_and_foreign_files_are_refused(tmp_path: Path) -> None:
    result = summarise(plan(), [outcome("torch", "fp32", [5] * 9, [6] * 9)], "faces")
    write_json(tmp_path / "r.json", result)
    assert read_json(tmp_path / "r.json") == result
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(BadInputError, match="not a benchmark result"):
        read_json(tmp_path / "other.json")


@pytest.mark.slow
def test_the_command_prints_and_writes_the_table(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "name: tiny\nmodels: [{name: edge-fer-compact, bundle: edge-fer-compact}, {name: small, arch: compact, "
        "colour: gray}]\nrun: ['torch:fp32', 'onnxruntime:int8']\nrounds: 1\nmin_seconds: 0.02\nwarm_up_seconds: 0.01\n"
    )
    json, markdown = tmp_path / "r.json", tmp_path / "r.md"
    command = ["bench", "--plan", str(path), "--json", str(json), "--markdown", str(markdown)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "untrained" in done.output.lower()
    result = read_json(json)
    assert [case.error for case in result.cases] == [""] * 4
    assert result.untrained == ("small",)
    assert "edge-fer bench --plan" in markdown.read_text()
    assert "| edge-fer-compact | ORT int8 |" in markdown.read_text()
