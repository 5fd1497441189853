"""Calibration sets: what is fit resolves the same way everywhere, what would give wrong ranges is refused by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from edge_fer.core.errors import CalibrationError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.core.spec import PreprocessSpec
from edge_fer.data.calibration_set import MINIMUM_SAMPLES, open_calibration_set, write_list

SPEC = PreprocessSpec(size_hw=(48, 48), colour="gray", mean=(0.5,), std=(0.25,))
COMMITTED = Path(__file__).resolve().parents[2] / "calibration"


def picture(seed: int, size: int = 48) -> np.ndarray:
    """A smooth random pattern with the contrast of a face; here only the bookkeeping matters."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 255, (6, 6), np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)


def fill(folder: Path, seeds: range, make=picture) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        cv2.imwrite(str(folder / f"{seed:04d}.png"), make(seed))
    return folder


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    for index, name in enumerate(EMOTIONS):
        fill(tmp_path / "faces" / name, range(100 * index, 100 * index + 10))
    return tmp_path / "faces"


def test_class_folders_are_resolved_the_same_way_each_time(class_folders):
    first, second = open_calibration_set(class_folders), open_calibration_set(class_folders)
    assert first.ids == second.ids
    assert first.sha256 == second.sha256
    assert first.counts() == dict.fromkeys(EMOTIONS, 10)
    assert first.notes == ()
    assert set(first.labels[:16]) != {first.labels[0]}, "classes are shuffled, for averages over batches"
    cv2.imwrite(str(class_folders / "happy" / "0300.png"), picture(9999))
    assert open_calibration_set(class_folders).sha256 != first.sha256


def test_batches_are_the_networks_input(class_folders):
    found = open_calibration_set(class_folders)
    batches = list(found.batches(SPEC, 16))
    assert [len(batch) for batch in batches] == [16, 16, 16, 16, 6]
    assert batches[0].shape == (16, 1, 48, 48)
    assert batches[0].dtype == np.float32
    expected = (found.images[0].astype(np.float32) / 255 - 0.5) / 0.25
    assert np.allclose(batches[0][0, 0], expected, atol=1e-5)


def test_a_flat_folder_has_no_classes(tmp_path):
    found = open_calibration_set(fill(tmp_path / "flat", range(40)))
    assert len(found) == 40
    assert found.labels is None
    assert found.counts() == {}
    assert found.notes == ("the folder names no classes, so their balance is not known",)


def test_a_recipe_takes_the_same_number_of_every_class_and_its_seed_decides_which(class_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_FER_DATA", str(tmp_path))
    recipe = tmp_path / "recipes" / "r.yaml"
    recipe.parent.mkdir()
    content = {"dataset": "faces", "per_class": 6, "seed": 1}
    recipe.write_text(yaml.safe_dump(content))
    first = open_calibration_set(recipe)
    assert first.counts() == dict.fromkeys(EMOTIONS, 6)
    assert str(tmp_path) not in first.source
    recipe.write_text(yaml.safe_dump(content | {"seed": 2}))
    assert set(open_calibration_set(recipe).ids) != set(first.ids)


def test_a_recipe_must_resolve_to_its_committed_list(class_folders, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"dataset": "faces", "per_class": 6, "seed": 1, "list": "r.ids.txt"}))
    found = open_calibration_set(recipe)
    write_list(tmp_path / "r.ids.txt", found)
    assert open_calibration_set(recipe).sha256 == found.sha256
    changed = found.ids[3]
    cv2.imwrite(str(class_folders / changed), picture(777))
    with pytest.raises(CalibrationError, match=rf"other faces than .*r\.ids\.txt lists; .* differs is {changed}"):
        open_calibration_set(recipe)


def test_a_list_is_renewed_only_when_the_faces_are_there(class_folders, tmp_path, monkeypatch):
    monkeypatch.delenv("EDGE_FER_DATA", raising=False)
    recipe, listed = tmp_path / "r.yaml", tmp_path / "r.ids.txt"
    recipe.write_text(yaml.safe_dump({"dataset": "faces", "per_class": 6, "seed": 1, "list": "r.ids.txt"}))
    listed.write_text("of another data set\n")
    class_folders.rename(tmp_path / "away")
    command = [sys.executable, str(COMMITTED.parent / "scripts" / "list_calibration_faces.py"), str(recipe)]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode != 0
    assert "was not found" in told.stderr
    assert listed.read_text() == "of another data set\n"
    (tmp_path / "away").rename(class_folders)
    subprocess.run(command, check=True, capture_output=True)
    open_calibration_set(recipe)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("dataset: [", r"not valid YAML \(line 1, column 11"),
        ("split: train", "the key dataset is missing"),
        ("dataset: faces\nper_clas: 3", "unknown key per_clas .did you mean per_class"),
        ("dataset: faces\nper_class: 0", "per_class"),
        ("dataset: nowhere", "'nowhere' of the recipe .* was not found. Set EDGE_FER_DATA"),
        ("just words", "not valid"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_reason(tmp_path, monkeypatch, content, finding):
    monkeypatch.delenv("EDGE_FER_DATA", raising=False)
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(CalibrationError, match=finding):
        open_calibration_set(tmp_path / "r.yaml")


def test_missing_empty_and_foreign_sets_are_refused(tmp_path):
    with pytest.raises(CalibrationError, match="There is no calibration set"):
        open_calibration_set(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationError, match="holds no images"):
        open_calibration_set(tmp_path / "empty")
    (tmp_path / "other" / "sub").mkdir(parents=True)
    with pytest.raises(CalibrationError, match="is not usable"):
        open_calibration_set(tmp_path / "other")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(CalibrationError, match="neither a folder of face crops nor a recipe"):
        open_calibration_set(tmp_path / "file.txt")


def test_a_set_with_several_splits_asks_which(tmp_path, class_folders):
    root = tmp_path / "both"
    root.mkdir()
    class_folders.rename(root / "train")
    fill(root / "test" / "happy", range(3))
    with pytest.raises(UsageError, match="several splits") as asked:
        open_calibration_set(root)
    assert asked.value.fix == f"Name the folder of one, such as {root / 'train'}."
    (tmp_path / "recipe.yaml").write_text("dataset: both\n")
    with pytest.raises(UsageError, match=r"Name one in .*recipe\.yaml as split: test, train\."):
        open_calibration_set(tmp_path / "recipe.yaml")


def test_a_table_with_several_splits_is_named_by_a_recipe(tmp_path):
    pixels = " ".join(["7"] * 48 * 48)
    (tmp_path / "both").mkdir()
    table = "emotion,pixels,Usage\n" + "".join(f"0,{pixels},{usage}\n" for usage in ("Training", "PublicTest"))
    (tmp_path / "both" / "fer2013.csv").write_text(table)
    (tmp_path / "both" / "pictures").mkdir()
    with pytest.raises(UsageError, match=r"recipe\.yaml with two lines, dataset: .*both and split: Training"):
        open_calibration_set(tmp_path / "both")


def test_three_images_of_one_class_are_refused_as_such(tmp_path):
    fill(tmp_path / "few" / "happy", range(3))
    with pytest.raises(CalibrationError, match="3 usable images, all of them happy; at least 32 are needed"):
        open_calibration_set(tmp_path / "few")


def test_many_images_of_one_class_are_refused_as_such(tmp_path):
    fill(tmp_path / "one" / "sad", range(60))
    with pytest.raises(CalibrationError, match="shows one class only, sad"):
        open_calibration_set(tmp_path / "one")


def test_copies_do_not_make_a_set(tmp_path):
    fill(tmp_path / "copies", range(200), lambda seed: picture(seed % 5))
    with pytest.raises(CalibrationError, match=r"5 usable images \(195 more are copies\)"):
        open_calibration_set(tmp_path / "copies")


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (lambda seed: np.full((48, 48), seed % 5, np.uint8) + np.eye(48, dtype=np.uint8) * (seed // 5), "is black"),
        (lambda seed: np.full((48, 48), 250, np.uint8) + np.eye(48, dtype=np.uint8) * (seed % 5), "is white|is blank"),
        (lambda seed: np.full((48, 48), 60 + seed, np.uint8), "is blank"),
        (lambda seed: picture(seed, 8), "is only 8x8 pixels"),
        (lambda seed: cv2.resize(picture(seed), (200, 48)), "is 200x48 pixels, not a face crop"),
    ],
)
def test_sets_that_are_not_faces_are_refused_with_an_example(tmp_path, make, finding):
    fill(tmp_path / "bad", range(40), make)
    with pytest.raises(CalibrationError, match=rf"not made of faces: \d+ of \d+ images are unfit.*({finding})"):
        open_calibration_set(tmp_path / "bad")


def test_a_few_unfit_images_are_left_out_and_noted(tmp_path):
    folder = fill(tmp_path / "mostly", range(50))
    cv2.imwrite(str(folder / "black.png"), np.zeros((48, 48), np.uint8))
    found = open_calibration_set(folder)
    assert len(found) == 50
    assert any("unfit images left out: 1 (black.png is black" in note for note in found.notes)


def test_a_file_that_is_no_image_is_named(tmp_path):
    folder = fill(tmp_path / "broken", range(40))
    (folder / "0007.png").write_bytes(b"not a picture")
    with pytest.raises(CalibrationError, match=r"cannot be read: .*0007\.png"):
        open_calibration_set(folder)


def test_unbalanced_classes_are_noted(tmp_path):
    fill(tmp_path / "skewed" / "happy", range(60))
    fill(tmp_path / "skewed" / "sad", range(100, 103))
    found = open_calibration_set(tmp_path / "skewed")
    assert any("unbalanced: happy 60, sad 3" in note for note in found.notes)


def test_the_shipped_recipe_resolves_to_the_committed_faces(fer2013, monkeypatch):
    monkeypatch.setenv("EDGE_FER_DATA", str(fer2013.parent))
    found = open_calibration_set(COMMITTED / "edge-fer-compact.yaml")
    assert len(found) == 448
    assert set(found.counts().values()) == {64}
    assert len(found) >= MINIMUM_SAMPLES
