"""Cases run apart: a crash, a hang or a missing part ends one line of the table, never the others."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from made_results import outcome, result
from typer.testing import CliRunner

from edge_fer.backends.child import ChildFailed
from edge_fer.bench.markdown import to_markdown
from edge_fer.bench.measure import Worker, run_plan
from edge_fer.bench.plan import Plan
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
            "timeout_s": 600,
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
    for one in outcomes:
        assert one.error == ""
        assert len(one.rounds_ns) == len(one.cold_starts_ms) == 2
        assert min(map(len, one.rounds_ns)) >= 5
        assert one.n == 21
        assert one.top1 is not None
        assert one.top1_interval is not None
        assert one.top1_interval[0] <= one.top1 <= one.top1_interval[1]
        assert min(one.cold_starts_ms) > 0
        assert one.executed.startswith(one.case.runtime)
        assert one.case.precision in one.executed
        assert one.layers.get(one.case.precision, 0) > 5, "the loaded network computes in what was asked for"
        assert one.peak_rss_bytes is None or one.peak_rss_bytes < 1 << 30
    made = summarise(plan(), outcomes, "faces")
    fp32 = made.cases[0]
    assert fp32.speedup_ort_fp32 == 1.0
    assert fp32.agreement_fp32 == 1.0
    for case in made.cases:
        assert case.p50_ms is not None
        assert case.p50_ms <= (case.p90_ms or 0) <= (case.p99_ms or 0)


@pytest.mark.slow
def test_failures_stay_in_their_own_line() -> None:
    models = [
        {"name": "missing", "bundle": "no-such-bundle"},
        {"name": "edge-fer-compact", "bundle": "edge-fer-compact"},
    ]
    outcomes = run_plan(plan(models=models, run=["onnxruntime:bf16", "onnxruntime:int8"], rounds=1), progress=silent)
    found = {one.case.key: one for one in outcomes}
    assert "no-such-bundle" in found["missing/onnxruntime/int8/t1/b1"].error
    assert "bf16" in found["edge-fer-compact/onnxruntime/bf16/t1/b1"].error
    assert found["edge-fer-compact/onnxruntime/int8/t1/b1"].error == ""
    text = to_markdown(summarise(plan(models=models), outcomes, None))
    assert "Failed: missing, ORT int8:" in text


def test_a_worker_that_crashes_is_told_with_its_last_words() -> None:
    worker = Worker(timeout_s=60)
    with pytest.raises(ChildFailed, match=r"crashed \(status 1\): .*KeyError"):
        worker.ask({"job": {}})
    worker.close()


def test_a_worker_that_is_killed_is_told() -> None:
    worker = Worker(timeout_s=60)
    worker._process.kill()
    with pytest.raises(ChildFailed, match="crashed"):
        worker.ask({"end": True})
    worker.close()


@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs signals")
def test_a_worker_that_hangs_is_given_up() -> None:
    import signal

    worker = Worker(timeout_s=0.5)
    worker._process.send_signal(signal.SIGSTOP)
    with pytest.raises(ChildFailed, match="no answer within"):
        worker.ask({"end": True})
    worker.close()


def test_measuring_obeys_both_minima(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 2_000_000)  # whoever looks at it finds it 2 ms later
    monkeypatch.setattr("edge_fer.bench.jobs.time", SimpleNamespace(perf_counter_ns=lambda: next(clock)))
    assert measure(lambda: None, 0.0, 7) == [2_000_000] * 7
    assert measure(lambda: None, 0.05, 1) == [2_000_000] * 25


def test_a_steady_case_is_not_called_noisy_and_percentiles_are_numpy_s() -> None:
    values = [1000.0 + step for step in range(100)]
    (case,) = result(outcome("torch", "fp32", values, values)).cases
    assert not case.noisy
    assert case.p90_ms == pytest.approx(np.percentile(values, 90) / 1e3)


def test_results_survive_their_file_and_foreign_files_are_refused(tmp_path: Path) -> None:
    made = result(outcome("torch", "fp32", [5.0] * 9, [6.0] * 9))
    write_json(tmp_path / "r.json", made)
    assert read_json(tmp_path / "r.json") == made
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
    assert "round 1 of 1 …" in done.stderr, "a log of a long run is not silent"
    written = read_json(json)
    assert [case.error for case in written.cases] == [""] * 4
    assert written.untrained == ("small",)
    assert "edge-fer bench --plan" in markdown.read_text(encoding="utf-8")
    assert "| edge-fer-compact | ORT int8 |" in markdown.read_text(encoding="utf-8")


def test_when_nothing_could_be_measured_the_command_fails_after_writing_why(tmp_path: Path) -> None:
    path, written = tmp_path / "r.json", tmp_path / "plan.yaml"
    written.write_text("name: x\nmodels: [{name: m, bundle: no-such-net}]\nrun: ['onnxruntime:fp32']\n")
    done = CliRunner().invoke(app, ["bench", "--plan", str(written), "--json", str(path)])
    assert done.exit_code != 0
    assert "None of the 1 cases could be measured" in f"{done.output} {done.exception}"
    assert "no-such-net" in read_json(path).cases[0].error


@pytest.mark.slow
def test_openvino_s_own_tool_is_a_case_with_samples_of_its_own() -> None:
    made = run_plan(plan(run=["openvino:int8", "benchmark-app:int8"], rounds=1), progress=silent)
    own, tool = made
    assert (own.error, tool.error) == ("", "")
    assert "benchmark_app" in tool.executed
    assert len(tool.rounds_ns[0]) >= 5
    assert min(tool.rounds_ns[0]) > 1000
    assert summarise(plan(), made, None).cases[0].speedup_benchmark_app is not None


@pytest.mark.slow
def test_a_case_s_memory_does_not_grow_with_the_cases_beside_it() -> None:
    """One process is alive at a time, so that each has the machine's memory and its own peak only."""
    alone = run_plan(plan(run=["onnxruntime:int8"], rounds=1), progress=silent)[0].peak_rss_bytes
    beside = run_plan(plan(rounds=1), progress=silent)[1].peak_rss_bytes
    if alone is None or beside is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert beside == pytest.approx(alone, rel=0.1)


@pytest.mark.slow
def test_bounds_of_another_device_and_every_form_of_the_result_are_written(tmp_path: Path) -> None:
    command = ["bench", "--model", "edge-fer-compact", "--run", "onnxruntime:int8", "--rounds", "2"]
    command += ["--min-seconds", "0.02", "--device-profile", "mx250", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "modelled bound" in done.output
    written = read_json(tmp_path / "out" / "result.json")
    assert [(bound.precision, bound.kind) for bound in written.bounds] == [
        ("fp32", "modelled bound"),
        ("int8", "modelled bound"),
    ]
    assert 0 < written.clock_overhead_us < 1000
    assert written.cases[0].speedup_torch is None
    assert "--device-profile mx250" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
