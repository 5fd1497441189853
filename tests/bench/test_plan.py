"""Plans expand as written, and say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_fer.bench.plan import Plan, default_plan, load_plan
from edge_fer.core.errors import BadInputError

SHIPPED = Path(__file__).resolve().parents[2] / "benchmarks" / "plans"


def test_the_default_plan_and_its_file_are_the_same() -> None:
    assert load_plan(SHIPPED / "default.yaml") == default_plan()


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_committed_plan_is_valid(path: Path) -> None:
    plan = load_plan(path)
    keys = [case.key for case in plan.cases()]
    assert len(keys) == len(set(keys))


def test_a_plan_is_the_product_of_its_axes() -> None:
    plan = Plan.model_validate(
        {
            "name": "x",
            "models": [{"name": "a", "bundle": "a"}, {"name": "b", "arch": "resnet18"}],
            "run": ["torch:fp32", "openvino:int8"],
            "threads": [1, 2],
            "batches": [1, 4, 8],
        }
    )
    assert len(plan.cases()) == 2 * 2 * 2 * 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "not valid YAML"),
        ("name: x\nmodels: []\nrun: ['torch:fp32']", "models"),
        ("name: x\nmodels: [{name: a, bundle: a}]\nrun: ['torch-fp32']", "runtime:precision"),
        ("name: x\nmodels: [{name: a, bundle: a}]\nrun: ['coreml:fp32']", "runtime"),
        ("name: x\nmodels: [{name: a, bundle: a, arch: b}]\nrun: ['torch:fp32']", "either bundle or arch"),
        ("name: x\nmodels: [{name: a, bundle: a}]\nrun: ['torch:fp32']\nround: 3", "round"),
    ],
)
def test_a_wrong_plan_names_its_mistake(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError, match=says):
        load_plan(path)


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"missing\.yaml"):
        load_plan(tmp_path / "missing.yaml")
