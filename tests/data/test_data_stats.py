"""``edge-fer data stats``: counts by split, source and class, of any layout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import pytest
import yaml
from dataset_makers import make_rafdb, pattern, put
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.core.errors import BadInputError, EdgeFerError, MissingDependencyError
from edge_fer.core.labels import EMOTIONS
from edge_fer.data.class_distribution import distribution_of


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["data", *arguments])
    if isinstance(done.exception, EdgeFerError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_every_split_and_source_is_counted_and_drawn(tmp_path: Path) -> None:
    raf = make_rafdb(tmp_path / "raf", [("train_00001.jpg", 4), ("train_00002.jpg", 4), ("test_0001.jpg", 7)])
    for name, count in (("happy", 3), ("contempt", 1)):
        for n in range(count):
            put(tmp_path / "mine" / name / f"{n}.png", pattern(n))
    json_file, png = tmp_path / "s.json", tmp_path / "s.png"
    shown = run("stats", str(raf), str(tmp_path / "mine"), "--json", str(json_file), "--png", str(png))
    found = {(row["split"], row["source"]): row["counts"] for row in json.loads(json_file.read_text())}
    zero = dict.fromkeys((*EMOTIONS, "contempt"), 0)
    assert found == {
        ("train", "raf"): zero | {"happy": 2},
        ("test", "raf"): zero | {"neutral": 1},
        ("all", "mine"): zero | {"happy": 3, "contempt": 1},
    }
    for word in ("weight", "75.0%", "mine", f"picture: {png}", f"counts: {json_file}"):
        assert word in shown
    picture = cv2.imread(str(png))
    assert picture is not None
    assert picture.std() > 5


def test_a_prepared_dataset_is_counted_by_its_sources(tmp_path: Path) -> None:
    for index, name in enumerate(EMOTIONS):
        for n in range(10):
            put(tmp_path / "a" / name / f"{n}.png", pattern(100 * index + n))
            put(tmp_path / "b" / name / f"{n}.png", pattern(100 * index + 50 + n))
    recipe = tmp_path / "r.yaml"
    sources = [{"name": name, "path": name} for name in "ab"]
    recipe.write_text(yaml.safe_dump({"sources": sources, "crop": {"size": 48, "align": "none", "margin": 0}}))
    run("prepare", "--config", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1")
    found = distribution_of([tmp_path / "out"])
    assert [(share.split, share.source, share.total) for share in found.shares] == [
        *(("train", source, 56) for source in "ab"),
        *(("val", source, 7) for source in "ab"),
        *(("test", source, 7) for source in "ab"),
    ]
    assert found.of_split("train") == dict.fromkeys(EMOTIONS, 16)


def test_a_picture_that_cannot_be_drawn_is_told_before_anything_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for command in (("data", "stats", str(tmp_path), "--png"), ("calibrate", str(tmp_path), "--sheet")):
        done = CliRunner().invoke(app, [*command, str(tmp_path / "p.png")])
        assert isinstance(done.exception, MissingDependencyError)
        assert "pip install 'edge-fer[report]'" in done.exception.fix
        assert done.output == ""


def test_a_path_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nowhere"):
        run("stats", str(tmp_path / "nowhere"))
