"""Figures from samples, and the published schema of the file that holds them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_results import outcome, result

from edge_fer.bench.results import BenchResult, pack_round, read_json, schema, schema_text, write_json
from edge_fer.core.errors import BadInputError

SCHEMA = Path(__file__).resolve().parents[2] / "benchmarks" / "bench-result.schema.json"
RESULTS = sorted((SCHEMA.parent / "results").glob("*/result.json"))


@settings(deadline=None)
@given(st.lists(st.integers(min_value=0, max_value=10**11), min_size=1, max_size=50))
def test_every_sample_is_kept_in_order_to_a_tenth_of_a_microsecond(samples_ns: list[int]) -> None:
    kept = pack_round(samples_ns)
    assert kept.count == len(samples_ns)
    assert np.abs(kept.samples_us() - np.asarray(samples_ns) / 1e3).max() <= 0.05 + 1e-6


def test_a_call_that_the_unit_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="seven minutes"):
        pack_round([10**12])


def test_the_published_schema_is_the_models_own() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), (
        "run: edge-fer bench schema --out benchmarks/bench-result.schema.json"
    )


def test_the_schema_names_every_key_of_a_real_file_and_allows_no_other() -> None:
    written = json.loads(result(outcome("torch", "fp32", [5.0] * 3)).model_dump_json())
    described = schema()
    assert set(written) == set(described["properties"])
    assert described["additionalProperties"] is False
    case = described["$defs"]["CaseResult"]
    assert set(written["cases"][0]) == set(case["properties"])


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_committed_result_can_be_read(path: Path) -> None:
    assert read_json(path).cases


def test_a_file_is_compact_and_comes_back_equal(tmp_path: Path) -> None:
    made = result(outcome("torch", "fp32", *([100.0 + v % 7 for v in range(20_000)] for _ in range(3)), top1=0.5))
    write_json(tmp_path / "r.json", made)
    assert read_json(tmp_path / "r.json") == made
    assert (tmp_path / "r.json").stat().st_size < 3 * 20_000
    assert '"isa": ["AVX2"]' in (tmp_path / "r.json").read_text()


def test_odd_texts_survive_the_one_line_lists(tmp_path: Path) -> None:
    texts = {"numpy": 'a "quoted" [name],\n {of} a\\package', "torch": "[]"}
    made = result(outcome("torch", "fp32", [5.0], error='crashed: ["x",\n 1]')).model_copy(update={"packages": texts})
    write_json(tmp_path / "r.json", made)
    assert read_json(tmp_path / "r.json") == made


def test_ratios_have_intervals_and_are_paired_by_round() -> None:
    made = result(
        outcome("torch", "fp32", [400.0] * 3, [800.0] * 3, [410.0] * 3),
        outcome("openvino", "int8", [100.0] * 3, [200.0] * 3, [100.0] * 3),
    )
    int8 = made.cases[1]
    assert int8.speedup_torch == pytest.approx(4.0)
    assert int8.speedup_torch_interval == (pytest.approx(4.0), pytest.approx(4.1))
    assert int8.speedup_ort_fp32 is None
    assert int8.noisy


def test_the_call_is_compared_with_benchmark_app_in_the_same_precision_only() -> None:
    made = result(
        outcome("openvino", "fp32", [200.0] * 3, [200.0] * 3),
        outcome("openvino", "int8", [50.0] * 3, [50.0] * 3),
        outcome("benchmark-app", "int8", [40.0] * 3, [40.0] * 3),
    )
    assert [case.speedup_benchmark_app for case in made.cases] == [None, pytest.approx(0.8), None]


def test_agreement_is_with_fp32_of_whatever_was_measured() -> None:
    made = result(
        outcome("torch", "fp32", [4.0], predictions=[0, 1, 2, 3]),
        outcome("openvino", "int8", [1.0], predictions=[0, 1, 2, 0]),
    )
    assert [case.agreement_fp32 for case in made.cases] == [1.0, 0.75]


def test_the_front_holds_what_nothing_beats() -> None:
    made = result(
        outcome("torch", "fp32", [400.0], top1=0.70),
        outcome("onnxruntime", "fp32", [200.0], top1=0.70),
        outcome("openvino", "bf16", [90.0], top1=0.69),
        outcome("openvino", "int8", [80.0], top1=0.69),
        outcome("onnxruntime", "int8", [70.0]),
    )
    assert [case.pareto for case in made.cases] == [False, True, False, True, False]


def test_more_threads_are_another_front() -> None:
    made = result(
        outcome("openvino", "int8", [80.0], top1=0.69),
        outcome("openvino", "int8", [50.0], top1=0.69, threads=2),
        outcome("openvino", "bf16", [60.0], top1=0.69, threads=2),
    )
    assert [case.pareto for case in made.cases] == [True, True, False]


def test_an_older_format_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"kind": "edge-fer-bench", "format": 1}')
    with pytest.raises(BadInputError, match="not a benchmark result"):
        read_json(tmp_path / "old.json")
    assert BenchResult.model_fields["format"].default == 2
