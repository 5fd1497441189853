"""Models measured again: whole models change places, each case tells its date, and what differs is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_results import AROUND, PLAN, outcome
from typer.testing import CliRunner

from edge_fer.bench.conditions import Disturbance
from edge_fer.bench.markdown import to_markdown
from edge_fer.bench.merge import check_mergeable, merge
from edge_fer.bench.plan import ModelEntry, Plan, load_plan, only
from edge_fer.bench.results import BenchResult, read_json, summarise, write_json
from edge_fer.bench.roofline import ModelledBound
from edge_fer.cli.main import app
from edge_fer.core.errors import BadInputError, EdgeFerError, UsageError

TWO = PLAN.model_copy(
    update={"models": (ModelEntry(name="a", arch="compact"), ModelEntry(name="b", arch="compact")), "camera": None}
)
OLD, NEW = "2026-01-02T03:04:05+00:00", "2026-02-03T04:05:06+00:00"


def bound(model: str, ms: float, **changes: object) -> ModelledBound:
    fields = {"profile": "mx250", "device": "MX250", "precision": "int8", "batch": 1, "gmac": 1.0, "memory_share": 0.1}
    return ModelledBound.model_validate({**fields, "model": model, "bound_ms": ms, **changes})


def measured(plan: Plan, factor: float, when: str, **changes: object) -> BenchResult:
    outcomes = [
        outcome(case.runtime, case.precision, *[[factor * (100 if case.precision == "int8" else 400)] * 5] * 3,
                model=case.model)
        for case in plan.cases()
    ]  # fmt: skip
    made = summarise(plan, outcomes, None, AROUND)
    cases = tuple(case.model_copy(update={"measured_utc": when}) for case in made.cases)
    return made.model_copy(update={"cases": cases, "measured_utc": when, **changes})


@pytest.fixture
def base() -> BenchResult:
    bounds = (bound("a", 1.0), bound("b", 2.0, measured_ms=5.0, measured_by="MX250, tensorrt"))
    return measured(TWO, 1.0, OLD, bounds=bounds, command="edge-fer bench --plan all.yaml")


def test_one_model_changes_and_every_case_says_when_it_was_measured(base: BenchResult, tmp_path: Path) -> None:
    fresh = measured(only(TWO, ["b"]), 0.5, NEW, bounds=(bound("b", 1.5),))
    both = merge(base, fresh, "edge-fer bench --only b")
    assert [case.case.key for case in both.cases] == [case.case.key for case in base.cases]
    assert [(case.case.model, case.measured_utc) for case in both.cases] == [("a", OLD)] * 3 + [("b", NEW)] * 3
    assert both.cases[:3] == base.cases[:3]
    assert both.cases[3:] == fresh.cases
    assert both.cases[5].p50_ms == pytest.approx(0.05)
    # What was modelled follows the network of today; what somebody measured on a device stays.
    assert (both.bounds[0], both.bounds[1].bound_ms, both.bounds[1].measured_ms) == (base.bounds[0], 1.5, 5.0)
    text = to_markdown(both)
    assert "| 2026-01-02 03:04 |" in text
    assert "| 2026-02-03 04:05 |" in text
    assert "same versions: b (`edge-fer bench --only b`)" in text
    assert both.command == base.command
    write_json(tmp_path / "r.json", both)
    assert read_json(tmp_path / "r.json") == both


def test_a_later_run_replaces_an_earlier_one_of_the_same_model(base: BenchResult) -> None:
    first = merge(base, measured(TWO, 0.5, NEW))
    again = merge(first, measured(only(TWO, ["b"]), 0.4, "2026-03-04T00:00:00+00:00"))
    assert [run.models for run in again.remeasured] == [("a",), ("b",)]


def test_an_older_file_lends_its_own_date_to_its_cases(base: BenchResult) -> None:
    dateless = tuple(case.model_copy(update={"measured_utc": ""}) for case in base.cases)
    both = merge(base.model_copy(update={"cases": dateless}), measured(only(TWO, ["b"]), 1.0, NEW))
    assert both.cases[0].measured_utc == OLD


def test_a_disturbed_later_run_is_told_with_its_models(base: BenchResult) -> None:
    busy = measured(only(TWO, ["b"]), 1.0, NEW, disturbance=Disturbance(others=0.4, stolen=0.0))
    assert to_markdown(merge(base, busy)).startswith("> Disturbed: b: other programs took 40%")


def test_what_belongs_together_is_accepted(base: BenchResult) -> None:
    check_mergeable(base, only(TWO, ["b"]), None)


@pytest.mark.parametrize(
    ("older", "plan", "says", "kind"),
    [
        ({"device_identity": "CPU elsewhere"}, {}, "CPU elsewhere", BadInputError),
        ({"packages": {"openvino": "2019.1"}}, {}, r"openvino 2019\.1", BadInputError),
        ({"edge_fer_version": "0.0.1"}, {}, r"edge-fer 0\.0\.1", BadInputError),
        ({}, {"models": (ModelEntry(name="b", arch="resnet18"),)}, "does not have b", UsageError),
        ({}, {"rounds": 9, "run": ("torch:fp32",)}, "another run, rounds", UsageError),
        ({"data": "faces"}, {"models": (ModelEntry(name="m", bundle="m"),)}, "accuracy on faces", UsageError),
    ],
)
def test_what_does_not_belong_together_is_refused(
    base: BenchResult, older: dict[str, object], plan: dict[str, object], says: str, kind: type[EdgeFerError]
) -> None:
    if "data" in older:
        older = {**older, "plan": PLAN}
    with pytest.raises(kind, match=says):
        check_mergeable(base.model_copy(update=older), TWO.model_copy(update=plan), None)


def test_the_command_measures_one_model_again_and_refuses_to_lose_what_it_cannot_measure(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "name: two\nmodels: [{name: gone, bundle: no-such-bundle}, {name: own, bundle: edge-fer-compact}]\n"
        "run: ['onnxruntime:int8']\nrounds: 1\nmin_seconds: 0.02\nwarm_up_seconds: 0.01\n"
    )
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_json(old, measured(load_plan(plan), 1.0, OLD))
    merging = ["bench", "--plan", str(plan), "--merge", str(old), "--json", str(new)]
    done = CliRunner().invoke(app, [*merging, "--only", "own"])
    assert done.exit_code == 0, done.output
    before, after = read_json(old), read_json(new)
    assert after.cases[0] == before.cases[0]
    assert after.cases[1].rounds != before.cases[1].rounds
    assert (after.cases[1].error, after.cases[1].measured_utc > OLD) == ("", True)
    assert after.remeasured[0].models == ("own",)
    new.unlink()
    done = CliRunner().invoke(app, [*merging, "--only", "gone"])
    assert "None of the 1 cases could be measured" in f"{done.output} {done.exception}"
    assert not new.exists()
    done = CliRunner().invoke(app, [*merging, "--only", "own", "--roofline"])
    assert "exclude each other" in f"{done.output} {done.exception}"
