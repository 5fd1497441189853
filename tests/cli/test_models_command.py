"""`edge-fer models` counts the networks and names recipes that exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import edge_fer.train.recipes
from edge_fer.cli.main import app
from edge_fer.models.registry import ARCHITECTURES
from edge_fer.train.recipe import load_recipe, recipe_task


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, object]]:
    result = CliRunner().invoke(app, ["models", "--json"])
    assert result.exit_code == 0, result.output
    return {row["name"]: row for row in json.loads(result.stdout)}


def test_every_architecture_is_listed_with_where_it_comes_from(rows: dict[str, dict[str, object]]) -> None:
    assert set(rows) == set(ARCHITECTURES)
    assert all(row["paper"] for row in rows.values())


def test_the_numbers_are_those_counted_by_hand(rows: dict[str, dict[str, object]]) -> None:
    assert rows["resnet18"]["parameters"] == 11_180_103
    # 7x7 stem at 112x112; then per stage its 3x3 convolutions, and the projections of stages 2 to 4.
    stem = 112 * 112 * 64 * 3 * 49
    stages = sum(
        side * side * (width * before * 9 + 3 * width * width * 9 + (width * before if before != width else 0))
        for side, before, width in ((56, 64, 64), (28, 64, 128), (14, 128, 256), (7, 256, 512))
    )
    assert rows["resnet18"]["macs"] == stem + stages + 512 * 7
    # Six 3x3 convolutions in three stages, two dense layers.
    convolutions = sum(
        side * side * 9 * (before * width + width * width)
        for side, before, width in ((48, 1, 64), (24, 64, 128), (12, 128, 256))
    )
    assert rows["cnn_baseline"]["macs"] == convolutions + 256 * 128 + 128 * 7
    assert rows["cnn_baseline"]["input_shape"] == [1, 48, 48]


def test_attention_is_counted_as_well(rows: dict[str, dict[str, object]]) -> None:
    tokens, width = 50, 256
    layer = tokens * width * width * 4 + 2 * tokens * tokens * width + 2 * tokens * width * 1024
    project = 49 * 2048 * width
    without = rows["resnet50_hu"]["macs"]
    assert isinstance(without, int)
    assert rows["resnet50_transformer"]["macs"] == without - 2048 * 7 + project + 3 * layer + width * 7


def test_every_recipe_named_exists_and_trains_that_network(rows: dict[str, dict[str, object]]) -> None:
    named = [(name, recipe) for name, row in rows.items() for recipe in row["recipes"]]  # type: ignore[attr-defined]
    assert {"resnet18-sheng", "hybrid-hu", "convnext-tiny-morisseau"} <= {recipe for _, recipe in named}
    shipped = {path.stem for path in Path(edge_fer.train.recipes.__file__).parent.glob("*.yaml")}
    assert {recipe for _, recipe in named} == shipped
    for name, recipe in named:
        if recipe_task(recipe) == "classification":
            assert load_recipe(recipe).model.arch == name


def test_the_table_shows_papers_and_sizes() -> None:
    result = CliRunner().invoke(app, ["models"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for expected in ("Sheng & Lau", "Hu & Kovásznai", "11,180,103", "48x48 grey", "cnn-santhapalli"):
        assert expected in result.stdout
