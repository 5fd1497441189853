"""Plans expand as written, and say what is wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_fer.bench.plan import ModelEntry, Plan, changed, default_plan, load_plan, model_entries, model_entry, only
from edge_fer.core.errors import BadInputError, UsageError

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


def test_a_model_can_be_run_in_ways_of_its_own_beside_the_plan_s() -> None:
    models = [{"name": "a", "bundle": "a", "also": ["torch-compile:fp32", "torch:fp32"]}, {"name": "b", "bundle": "b"}]
    plan = Plan.model_validate({"name": "x", "models": models, "run": ["torch:fp32"]})
    assert [(case.model, case.runtime) for case in plan.cases()] == [
        ("a", "torch"),
        ("a", "torch-compile"),
        ("b", "torch"),
    ]
    # What is typed holds for all.
    assert {case.runtime for case in changed(plan, {"run": ["openvino:int8"]}).cases()} == {"openvino"}


def test_the_results_plan_holds_what_the_tables_promise() -> None:
    plan = load_plan(SHIPPED / "results.yaml")
    keys = {case.key for case in plan.cases()}
    archs = {entry.arch for entry in plan.models}
    assert {"resnet18", "resnet34", "resnet50", "resnet50_fpn", "resnet50_fpn_transformer", "cnn_baseline"} < archs
    assert {"resemotenet", "convnext_tiny"} < archs
    for model in plan.models:
        for way in ("torch/fp32", "onnxruntime/fp32", "onnxruntime/int8", "openvino/fp32", "openvino/int8"):
            assert f"{model.name}/{way}/t1/b1" in keys


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


def test_models_are_typed_as_bundles_or_as_architectures(tmp_path: Path) -> None:
    assert model_entry("edge-fer-compact").bundle == "edge-fer-compact"
    assert model_entry(str(tmp_path)) == ModelEntry(name=tmp_path.name, bundle=str(tmp_path))
    assert model_entry("resnet18@112") == ModelEntry(name="resnet18@112", arch="resnet18", size_hw=(112, 112))
    assert model_entry("resnet18").arch == "resnet18"
    with pytest.raises(UsageError, match="no size"):
        model_entry("resnet18@big")
    for typed in ("resnet19", "resnet19@112"):
        with pytest.raises(UsageError, match="'resnet19'") as told:
            model_entry(typed)
        assert "resnet18" in str(told.value)


def test_bundles_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "edge-fer-compact"
    mine.mkdir(parents=True)
    entries = model_entries([str(mine), "edge-fer-compact", "resnet18"])
    assert [entry.name for entry in entries] == ["mine/edge-fer-compact", "engines/edge-fer-compact", "resnet18"]
    assert [entry.bundle for entry in entries] == [str(mine), "edge-fer-compact", None]
    assert [entry.name for entry in model_entries([str(mine), "resnet18@64"])] == ["edge-fer-compact", "resnet18@64"]
    with pytest.raises(UsageError, match="two models have the same name"):
        changed(default_plan(), {"models": [entry.model_dump() for entry in model_entries([str(mine), str(mine)])]})


def test_without_torch_an_architecture_needs_it_and_a_typing_error_is_one() -> None:
    absent = (
        "import sys; sys.modules['torch'] = None\n"
        "from edge_fer.__main__ import main\n"
        "sys.argv = ['edge-fer', 'bench', '--model', sys.argv[1]]; main()"
    )
    for typed, code, says in (
        ("resnet18@64", 4, "pip install 'edge-fer[compile]'"),
        ("resnet18", 4, "torch is not installed"),
        ("resnet19", 2, "'resnet19'"),
    ):
        told = subprocess.run([sys.executable, "-c", absent, typed], capture_output=True, text=True, timeout=240)
        assert told.returncode == code, told.stderr
        assert says in told.stderr


def test_options_change_a_plan_and_wrong_ones_are_named() -> None:
    plan = changed(default_plan(), {"threads": [2, 4], "run": ["openvino:int8"], "rounds": None, "batches": []})
    assert plan.threads == (2, 4)
    assert plan.rounds == default_plan().rounds
    assert len(plan.cases()) == 2 * 2
    with pytest.raises(UsageError, match="runtime"):
        changed(plan, {"run": ["coreml:int8"]})
    with pytest.raises(UsageError, match="same name"):
        changed(plan, {"models": [{"name": "a", "bundle": "a"}] * 2})


def test_only_some_of_a_plan_s_models_keep_all_their_ways() -> None:
    plan = load_plan(SHIPPED / "results.yaml")
    part = only(plan, ["resnet50@224", "edge-fer-compact"])
    assert [model.name for model in part.models] == ["edge-fer-compact", "resnet50@224"]
    assert {case.key for case in part.cases()} < {case.key for case in plan.cases()}
    assert any(case.runtime == "benchmark-app" for case in part.cases())
    with pytest.raises(UsageError, match=r"no model resnet50\.") as told:
        only(plan, ["resnet50"])
    assert "resnet50@224" in str(told.value)


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"missing\.yaml"):
        load_plan(tmp_path / "missing.yaml")
