"""``edge-fer data audit``: planted leaks are found, told, and taken out of the evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_makers import make_fer2013_csv, make_rafdb, pattern, put
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.core.errors import BadInputError, EdgeFerError, UsageError
from edge_fer.data.audit_report import leaked_mask, read_audit
from edge_fer.data.datasets import open_dataset


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["data", "audit", *arguments])
    if isinstance(done.exception, EdgeFerError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """20 + 10 different faces, and: a copy and a changed copy in both splits, a copy with another label in one."""
    root = tmp_path / "faces"
    for n in range(20):
        put(root / "train" / ("happy" if n % 2 else "sad") / f"{n:02d}.png", pattern(n))
    for n in range(10):
        put(root / "test" / ("happy" if n % 2 else "sad") / f"{n:02d}.png", pattern(100 + n))
    put(root / "test" / "happy" / "copy.png", pattern(3))
    put(root / "test" / "sad" / "darker.jpg", (pattern(4) * 0.7).astype(np.uint8))
    put(root / "test" / "sad" / "turned.png", np.ascontiguousarray(pattern(6)[:, ::-1]))
    put(root / "train" / "fear" / "doubt.png", pattern(8))
    return root


def test_every_planted_leak_is_found_and_nothing_else(leaky: Path, tmp_path: Path) -> None:
    shown = run(str(leaky), "--json", str(tmp_path / "audit.json"), "--png", str(tmp_path / "pairs.png"))
    report = read_audit(tmp_path / "audit.json")
    assert report.leaked == {
        "test": ("happy/copy.png", "sad/darker.jpg", "sad/turned.png"),
        "train": ("happy/03.png", "sad/04.png", "sad/06.png"),
    }
    assert {(twin.a.id, twin.b.id, twin.kind) for twin in report.twins if twin.a.split == twin.b.split} == {
        ("fear/doubt.png", "sad/08.png", "copy")
    }
    assert report.conflicting == {"train": ("fear/doubt.png", "sad/08.png"), "test": ()}
    assert report.splits["train"].redundant == 1
    assert "different labels: 1 pairs, 1 within a split (2 pictures), 0 between splits" in " ".join(shown.split())
    assert {twin.kind for twin in report.twins} == {"copy", "near", "mirrored"}
    assert "3 (23.1%)" in shown, "13 test pictures, 3 of them leaked"
    assert str(tmp_path) not in (tmp_path / "audit.json").read_text()
    sheet = cv2.imread(str(tmp_path / "pairs.png"))
    assert sheet is not None
    assert sheet.shape[0] > 100


def test_the_evaluation_learns_which_samples_are_leaked(leaky: Path, tmp_path: Path) -> None:
    run(str(leaky), "--json", str(tmp_path / "audit.json"))
    for split in ("train", "test"):
        samples = open_dataset(leaky, split)
        mask = leaked_mask(tmp_path / "audit.json", samples)
        assert mask.sum() == 3
        assert {name for name, leaked in zip(samples.ids, mask, strict=True) if leaked} == set(
            read_audit(tmp_path / "audit.json").leaked[split]
        )


def test_an_audit_of_other_pictures_is_refused(leaky: Path, tmp_path: Path) -> None:
    run(str(leaky), "--json", str(tmp_path / "audit.json"))
    put(leaky / "test" / "happy" / "new.png", pattern(999))
    with pytest.raises(BadInputError, match="other pictures than the 14"):
        leaked_mask(tmp_path / "audit.json", open_dataset(leaky, "test"))
    (tmp_path / "audit.json").write_text(json.dumps({"format": "something else"}))
    with pytest.raises(BadInputError, match="not a leakage audit"):
        leaked_mask(tmp_path / "audit.json", open_dataset(leaky, "train"))


def test_a_class_that_is_none_of_the_seven_does_not_hide_the_split_from_the_evaluation(tmp_path: Path) -> None:
    for split, seed in (("train", 0), ("test", 50)):
        put(tmp_path / "d" / split / "happy" / "a.png", pattern(seed))
        put(tmp_path / "d" / split / "contempt" / "b.png", pattern(7))
    run(str(tmp_path / "d"), "--json", str(tmp_path / "audit.json"))
    assert leaked_mask(tmp_path / "audit.json", open_dataset(tmp_path / "d", "test")).tolist() == [False]
    assert read_audit(tmp_path / "audit.json").leaked["test"] == ("contempt/b.png",)


def test_two_datasets_are_compared_with_each_other(tmp_path: Path) -> None:
    make_fer2013_csv(tmp_path / "fer" / "fer2013.csv", [(3, "Training"), (3, "Training"), (4, "PublicTest")])
    raf = make_rafdb(tmp_path / "raf", [("train_00001.jpg", 4), ("test_0001.jpg", 1)])
    put(raf / "Image" / "aligned" / "test_0001_aligned.jpg", cv2.resize(pattern(1), (100, 100)))
    run(str(tmp_path / "fer"), f"rafdb={raf}", "--json", str(tmp_path / "audit.json"))
    report = read_audit(tmp_path / "audit.json")
    assert set(report.splits) == {"fer/Training", "fer/PublicTest", "raf/train", "raf/test"}
    assert report.leaked["raf/test"] == ("test_0001.jpg",)
    assert report.leaked["fer/Training"] == ("Training_1",)
    assert report.pairs_between == {"fer/Training | raf/test": 1}


def test_unreadable_pictures_are_told_and_do_not_stop_the_audit(leaky: Path, tmp_path: Path) -> None:
    (leaky / "train" / "happy" / "broken.jpg").write_bytes(b"no picture")
    run(str(leaky), "--json", str(tmp_path / "audit.json"))
    assert read_audit(tmp_path / "audit.json").splits["train"].unreadable == ("happy/broken.jpg",)


def test_splits_can_be_chosen_and_must_exist(leaky: Path, tmp_path: Path) -> None:
    run(str(leaky), "--split", "test", "--json", str(tmp_path / "audit.json"))
    assert set(read_audit(tmp_path / "audit.json").splits) == {"test"}
    with pytest.raises(UsageError, match=r"no split 'val'.*train"):
        run(str(leaky), "--split", "val")


def test_nothing_to_compare_and_nothing_to_draw_are_sentences(tmp_path: Path) -> None:
    put(tmp_path / "one" / "happy" / "a.png", pattern(1))
    with pytest.raises(BadInputError, match="nothing to compare"):
        run(str(tmp_path / "one"))
    put(tmp_path / "one" / "happy" / "b.png", pattern(2))
    assert "no twins to draw" in run(str(tmp_path / "one"), "--png", str(tmp_path / "p.png"))


def test_two_datasets_whose_folders_are_called_alike_stay_two(tmp_path: Path) -> None:
    for place, seed in (("fer/test", 0), ("raf/test", 50)):
        put(tmp_path / place / "happy" / "a.png", pattern(seed))
        put(tmp_path / place / "happy" / "shared.png", pattern(7))
    run(str(tmp_path / "fer" / "test"), str(tmp_path / "raf" / "test"), "--json", str(tmp_path / "audit.json"))
    report = read_audit(tmp_path / "audit.json")
    assert report.leaked == {"fer/test/all": ("happy/shared.png",), "raf/test/all": ("happy/shared.png",)}


def test_a_dataset_is_not_compared_with_itself(leaky: Path) -> None:
    with pytest.raises(UsageError, match="named twice"):
        run(str(leaky), str(leaky))


def test_splits_of_the_same_file_names_are_told_apart_or_refused(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 50)):
        for part, more in (("train", 100), ("test", 200)):
            put(tmp_path / name / part / "happy" / "a.png", pattern(seed + more))
            put(tmp_path / name / part / "sad" / "b.png", pattern(seed + more + 1))
    put(tmp_path / "one" / "test" / "happy" / "a.png", pattern(100))  # leaked in the first dataset only
    audit = tmp_path / "audit.json"
    run(str(tmp_path / "one"), str(tmp_path / "two"), "--json", str(audit))
    with pytest.raises(BadInputError, match="4 splits with just these file names"):
        leaked_mask(audit, open_dataset(tmp_path / "one", "test"))
    run(str(tmp_path / "two"), "--json", str(audit))
    assert leaked_mask(audit, open_dataset(tmp_path / "two", "test")).tolist() == [False, False]
