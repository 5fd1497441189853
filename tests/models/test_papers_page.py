"""benchmarks/papers.md and the model card are what their sources give: no figure in them is typed by hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from edge_fer.evaluate.report import read_json
from edge_fer.models.registry import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]


def script(path: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def papers() -> ModuleType:
    return script("benchmarks/papers.py")


def test_the_committed_page_is_what_its_sources_give(papers: ModuleType) -> None:
    papers.main(["--check"])


def test_a_figure_that_was_changed_by_hand_is_found(
    papers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (papers.HERE / "papers.md").read_text(encoding="utf-8")
    monkeypatch.setattr(papers, "page", lambda results: page.replace("11.18 M", "11.19 M"))
    with pytest.raises(SystemExit, match=r"python benchmarks/papers\.py"):
        papers.main(["--check"])


def test_every_recipe_of_a_paper_has_its_row(papers: ModuleType) -> None:
    page = (papers.HERE / "papers.md").read_text(encoding="utf-8")
    recipes = {
        name
        for found in ARCHITECTURES.values()
        if found.task == "classification"
        for name in found.recipes
        if name != "compact-distilled"  # the same network by another training
    }
    assert {name for name in recipes if f"| `{name}` |" not in page} == set()


def test_a_later_result_replaces_a_row_and_not_a_cell(papers: ModuleType) -> None:
    def result(model: str, runtime: str, ms: float) -> dict[str, object]:
        case = {"model": model, "runtime": runtime, "precision": "fp32", "threads": 1, "batch": 1}
        return {"cases": [{"case": case, "p50_ms": ms}]}

    both = [result("a", "torch", 5.0), result("a", "openvino", 2.0), result("b", "torch", 7.0)]
    assert papers.latencies(both, "a") == ["not measured", "not measured", "not measured", "2.00", "not measured"]
    assert papers.latencies(both, "b")[0] == "7.00"
    assert set(papers.latencies(both, None)) == {"not measured"}


def test_results_of_two_machines_do_not_share_a_table(papers: ModuleType) -> None:
    given = json.loads(papers.RESULTS[0].read_text(encoding="utf-8"))
    other = {**given, "machine": {**given["machine"], "cpu": "another one"}}
    with pytest.raises(SystemExit, match="another one"):
        papers.page([given, other])


def test_the_model_card_holds_the_evaluations_beside_it() -> None:
    card = (ROOT / "docs/models/edge-fer-compact.md").read_text(encoding="utf-8")
    line = script("scripts/model_card.py").line
    for precision in ("fp32", "int8"):
        found = read_json(ROOT / "docs/models/edge-fer-compact" / f"{precision}.json")
        assert found.precision == precision
        assert found.deduplicated is not None, "evaluate with --audit"
        assert line(precision, found) in card
