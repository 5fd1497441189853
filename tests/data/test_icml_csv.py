"""The challenge's CSV: label order, splits, and rows that are not what they must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.data.datasets import open_dataset
from edge_fer.data.icml_csv import open_icml_csv

OFFICIAL = {0: "angry", 1: "disgust", 2: "fear", 3: "happy", 4: "sad", 5: "surprise", 6: "neutral"}


def row(emotion: int, usage: str, first: int = 0) -> str:
    return f"{emotion},{' '.join(str((first + i) % 256) for i in range(48 * 48))},{usage}"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    rows = ["emotion,pixels,Usage"]
    rows += [row(k, "Training", k) for k in range(7)]
    rows += [row(3, "PublicTest", 100), row(6, "PublicTest", 101), row(4, "PrivateTest", 102)]
    path = tmp_path / "fer2013.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_numbers_become_the_official_names(csv: Path) -> None:
    samples = open_dataset(csv, "train")
    assert [samples.class_names[k] for k in samples.labels] == [OFFICIAL[k] for k in range(7)]
    assert samples.class_names == EMOTIONS


def test_pixels_are_read_row_by_row(csv: Path) -> None:
    face = open_dataset(csv, "PrivateTest").read(0)
    assert face.shape == (48, 48)
    assert face.dtype == np.uint8
    assert face[0, :3].tolist() == [102, 103, 104]
    assert face[1, 0] == (102 + 48) % 256


@pytest.mark.parametrize(
    ("split", "n"),
    [
        ("train", 7),
        ("Training", 7),
        ("PublicTest", 2),
        ("test", 2),
        ("validation", 2),
        ("Private_Test", 1),
        ("private", 1),
    ],
)
def test_splits_have_their_usual_names(csv: Path, split: str, n: int) -> None:
    assert len(open_dataset(csv, split)) == n


def test_ids_name_the_row_of_the_file(csv: Path) -> None:
    assert open_dataset(csv, "PublicTest").ids == ("PublicTest_7", "PublicTest_8")


def test_a_folder_that_holds_the_csv_is_enough(csv: Path) -> None:
    assert len(open_dataset(csv.parent, "train")) == 7


def test_several_splits_need_a_name(csv: Path) -> None:
    with pytest.raises(UsageError, match="--split: Training, PublicTest, PrivateTest"):
        open_dataset(csv)


def test_an_unknown_split_is_refused(csv: Path) -> None:
    with pytest.raises(UsageError, match="PrivateTest"):
        open_dataset(csv, "holdout")


def test_one_split_needs_no_name(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("emotion,pixels,Usage\r\n" + row(2, "Training") + "\r\n\r\n")
    samples = open_dataset(path)
    assert len(samples) == 1
    with pytest.raises(UsageError, match="holds: Training"):
        open_dataset(path, "PublicTest")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (row(7, "Training"), "line 2"),
        (row(0, "Holdout"), "line 2"),
        ("0,1 2 3,Training", "3 pixels instead of 2304"),
        (row(0, "Training").replace(" 7 ", " 256 ", 1), "0..255"),
        (row(0, "Training").replace(" 7 ", " x ", 1), "0..255"),
        ("0,1 2 3", "line 2"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("emotion,pixels,Usage\n" + line + "\n")
    with pytest.raises(BadInputError, match=complaint):
        open_dataset(path, "train")


def test_a_header_alone_is_no_dataset(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("emotion,pixels,Usage\n")
    with pytest.raises(BadInputError, match="No labelled image"):
        open_dataset(path)


@pytest.mark.parametrize("content", [b"", b"a,b,c\n1,2,3\n", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="not a dataset"):
        open_dataset(path)
    with pytest.raises(BadInputError, match="header"):
        open_icml_csv(path)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nowhere"):
        open_dataset(tmp_path / "nowhere")
