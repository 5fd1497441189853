"""Trees of class folders: what counts as a class, a split and an image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.data.class_folders import read_image
from edge_fer.data.datasets import open_dataset


def put(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(path.suffix, image)
    assert ok
    path.write_bytes(data.tobytes())


GREY = np.full((8, 8), 77, np.uint8)
BLUE = np.zeros((8, 8, 3), np.uint8)
BLUE[..., 0] = 200


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for split, per_class in (("train", 3), ("test", 2)):
        for name in ("happy", "Sadness", "anger"):
            for i in range(per_class):
                put(tmp_path / split / name / f"{i}.png", GREY)
    return tmp_path


def test_folder_names_become_the_projects_labels(tree: Path) -> None:
    samples = open_dataset(tree, "test")
    assert samples.counts() == {"angry": 2, "disgust": 0, "fear": 0, "happy": 2, "neutral": 0, "sad": 2, "surprise": 0}
    assert {name: samples.class_names[k] for name, k in zip(samples.ids, samples.labels, strict=True)} == {
        **dict.fromkeys(("anger/0.png", "anger/1.png"), "angry"),
        **dict.fromkeys(("happy/0.png", "happy/1.png"), "happy"),
        **dict.fromkeys(("Sadness/0.png", "Sadness/1.png"), "sad"),
    }


def test_ids_are_the_same_wherever_the_tree_lies(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("elsewhere") / "fer"
    before = open_dataset(tree, "train").ids
    tree.rename(moved)
    assert open_dataset(moved, "train").ids == before


@pytest.mark.parametrize("alias", ["test", "TEST", "PublicTest", "public-test"])
def test_publictest_is_the_folder_that_kaggle_calls_test(tree: Path, alias: str) -> None:
    assert len(open_dataset(tree, alias)) == 6


@pytest.mark.parametrize("other", ["PrivateTest", "validation", "holdout"])
def test_a_split_is_never_served_by_another_ones_folder(tree: Path, other: str) -> None:
    with pytest.raises(UsageError, match="Available: test, train"):
        open_dataset(tree, other)


def test_an_alias_that_fits_two_folders_is_refused(tree: Path) -> None:
    put(tree / "validation" / "happy" / "0.png", GREY)
    assert len(open_dataset(tree, "test")) == 6
    with pytest.raises(UsageError, match="test, validation"):
        open_dataset(tree, "PublicTest")


def test_several_splits_need_a_name(tree: Path) -> None:
    with pytest.raises(UsageError, match="--split: test, train"):
        open_dataset(tree)


def test_class_folders_alone_need_no_split(tree: Path) -> None:
    assert len(open_dataset(tree / "train")) == 9


def test_an_archives_own_folder_is_looked_through(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outer = tmp_path_factory.mktemp("outer")
    tree.rename(outer / "fer2013")
    assert len(open_dataset(outer, "train")) == 9


def test_a_colour_file_is_bgr_and_a_grey_file_has_two_axes(tmp_path: Path) -> None:
    put(tmp_path / "happy" / "colour.png", BLUE)
    put(tmp_path / "happy" / "grey.png", GREY)
    samples = open_dataset(tmp_path)
    assert samples.read(0)[0, 0].tolist() == [200, 0, 0]
    assert samples.read(1).shape == (8, 8)


def test_other_files_beside_the_images_are_left_alone(tree: Path) -> None:
    (tree / "train" / "happy" / "notes.txt").write_text("x")
    (tree / "train" / "lost+found").mkdir()
    assert len(open_dataset(tree, "train")) == 9


def test_a_folder_without_classes_says_what_it_wants(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "dogs").mkdir()
    with pytest.raises(BadInputError, match="no class folders"):
        open_dataset(tmp_path)


def test_class_folders_without_images_are_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "happy").mkdir()
    with pytest.raises(BadInputError, match="No labelled image"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0" + bytes(20)])
def test_a_file_that_is_no_image_is_named_when_it_is_read(tmp_path: Path, content: bytes) -> None:
    put(tmp_path / "happy" / "ok.png", GREY)
    (tmp_path / "happy" / "broken.jpg").write_bytes(content)
    samples = open_dataset(tmp_path)
    with pytest.raises(BadInputError, match=r"broken\.jpg"):
        samples.read(0)


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")


def test_two_folders_of_one_class_are_both_read(tmp_path: Path) -> None:
    put(tmp_path / "anger" / "a.png", GREY)
    put(tmp_path / "angry" / "a.png", BLUE)
    put(tmp_path / "happy" / "a.png", GREY)
    samples = open_dataset(tmp_path)
    assert samples.ids == ("anger/a.png", "angry/a.png", "happy/a.png")
    assert samples.counts()["angry"] == 2
