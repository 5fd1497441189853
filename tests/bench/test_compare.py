"""Comparing two results: sides, thresholds, doubts, and what is in one file only."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from made_results import outcome, result
from rich.console import Console
from typer.testing import CliRunner

from edge_fer.bench.compare import compare
from edge_fer.bench.results import BenchResult, write_json
from edge_fer.cli.bench_tables import show_comparison
from edge_fer.cli.main import app
from edge_fer.core.errors import BadInputError

STEADY = ([100.0] * 5, [101.0] * 5, [99.0] * 5)


def times(factor: float, *, top1: float | None = None) -> BenchResult:
    return result(
        outcome("onnxruntime", "fp32", *([factor * v for v in r] for r in STEADY)),
        outcome("openvino", "int8", *([factor * v / 4 for v in r] for r in STEADY), top1=top1),
    )


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "same"), (1.04, "same"), (1.2, "slower"), (0.97, "same"), (0.8, "faster")]
)
def test_the_verdict_names_the_side(factor: float, verdict: str) -> None:
    report = compare(times(1.0), times(factor), threshold=0.05)
    assert {case.verdict for case in report.cases} == {verdict}
    assert bool(report.worse) == (verdict == "slower")
    assert all(case.ratio == pytest.approx(factor, rel=1e-3) for case in report.cases)


def test_a_machine_that_is_slower_today_does_not_change_ratios() -> None:
    assert not compare(times(1.0), times(1.5), threshold=0.05, of="ratio").worse
    assert compare(times(1.0), times(1.5), threshold=0.05, of="time").worse


def test_a_doubtful_change_is_not_called_slower() -> None:
    before = result(outcome("openvino", "int8", [80.0] * 3, [100.0] * 3, [140.0] * 3))
    after = result(outcome("openvino", "int8", [85.0] * 3, [112.0] * 3, [130.0] * 3))
    (case,) = compare(before, after, threshold=0.05).cases
    assert case.ratio == pytest.approx(1.12)
    assert case.interval is not None
    assert case.interval[0] < 1
    assert case.verdict == "same"


def test_a_case_that_broke_is_worse_and_one_that_was_mended_is_not() -> None:
    fine, broken = outcome("openvino", "int8", *STEADY), outcome("openvino", "int8", error="crashed (status 1)")
    report = compare(result(fine), result(broken), threshold=0.05)
    assert [case.verdict for case in report.worse] == ["failed"]
    assert report.worse[0].reason == "crashed (status 1)"
    assert [case.verdict for case in compare(result(broken), result(fine), threshold=0.05).cases] == ["repaired"]


def test_cases_of_one_file_only_are_named() -> None:
    other = result(outcome("openvino", "int8", *STEADY), outcome("openvino", "bf16", *STEADY))
    report = compare(times(1.0), other, threshold=0.05)
    assert report.only_before == ("m/onnxruntime/fp32/t1/b1",)
    assert report.only_after == ("m/openvino/bf16/t1/b1",)
    with pytest.raises(BadInputError, match="no case in common"):
        compare(result(outcome("torch", "fp32", *STEADY)), other, threshold=0.05)


def test_other_devices_are_refused_unless_forced() -> None:
    other = times(1.0).model_copy(update={"device_identity": "CPU elsewhere"})
    with pytest.raises(BadInputError, match="different devices"):
        compare(times(1.0), other, threshold=0.05)
    assert "CPU elsewhere" in compare(times(1.0), other, threshold=0.05, force=True).warnings[0]


def test_too_few_rounds_for_95_percent_are_told() -> None:
    few = times(1.0)
    assert compare(few, few, threshold=0.05).warnings == (
        "the interval is a bootstrap interval over the rounds of both, which with 3 of them holds the true ratio in "
        "about 90 % of cases, not 95 (that takes 5)",
    )
    enough = few.model_copy(update={"plan": few.plan.model_copy(update={"rounds": 6})})
    assert compare(enough, enough, threshold=0.05).warnings == ()


def test_a_change_of_accuracy_is_shown() -> None:
    report = compare(times(1.0, top1=0.70), times(1.0, top1=0.65), threshold=0.05)
    assert report.cases[1].accuracy_change == pytest.approx(-0.05)


def test_the_command_ends_with_one_when_something_became_slower(tmp_path: Path) -> None:
    for name, factor in (("a.json", 1.0), ("b.json", 1.3)):
        write_json(tmp_path / name, times(factor))
    a, b = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    slower = CliRunner().invoke(app, ["bench", "compare", a, b])
    assert slower.exit_code == 1, slower.output
    assert "2 of 2 cases worse" in slower.output
    assert CliRunner().invoke(app, ["bench", "compare", b, a]).exit_code == 0
    assert CliRunner().invoke(app, ["bench", "compare", a, b, "--threshold", "40"]).exit_code == 0
    page = tmp_path / "page.md"
    assert CliRunner().invoke(app, ["bench", "compare", a, b, "--ratios", "--markdown", str(page)]).exit_code == 0
    assert "| m/openvino/int8/t1/b1 | 0.025 | 0.033 | 1.000 |" in page.read_text(encoding="utf-8")
    assert "Largest change: 0.0%." in page.read_text(encoding="utf-8")


def test_keys_are_told_apart_in_a_terminal_of_80_columns() -> None:
    names = ("edge-fer-compact-int8-first", "edge-fer-compact-int8-second")
    some = result(*(outcome("openvino", "int8", *STEADY, model=name) for name in names))
    shown = StringIO()
    report = compare(some, some, threshold=0.05)
    show_comparison(Console(width=80, file=shown), report, "before.json", "after.json")
    text = shown.getvalue()
    assert "…" not in text
    columns = [line.partition("   ")[0].strip() for line in text.splitlines()]
    assert all(name in "".join(columns) for name in names)
