"""Dataset layouts: names, labels, splits, subjects and boxes come out as the datasets' authors mean them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_makers import (
    make_fer2013_csv,
    make_ferplus_csv,
    make_kdef,
    make_rafdb,
    make_yolo,
    pattern,
    put,
)

from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.data.datasets import open_dataset
from edge_fer.data.readers.ferplus import CLASSES, distribution
from edge_fer.data.readers.registry import READERS, open_reading, reader_of, recognise

AFFECTNET = "nc: 8\nnames: [Anger, Contempt, Disgust, Fear, Happy, Neutral, Sad, Surprise]"
WHOLE_BOX = "0.5 0.5 1.0 1.0"


def votes(**given: int) -> tuple[int, ...]:
    assert sum(given.values()) == 10
    return tuple(given.get(name, 0) for name in CLASSES)


def labels_of(path: Path, **options: object) -> dict[str, str]:
    reading = reader_of(recognise(path), options).read(path)
    return {record.id: record.label for record in reading.records}


# RAF-DB ------------------------------------------------------------------------------------------------------------


def test_raf_labels_count_from_one_in_the_papers_order(tmp_path: Path) -> None:
    rows = [(f"train_{n:05d}.jpg", n) for n in range(1, 8)] + [("test_0001.jpg", 4)]
    root = make_rafdb(tmp_path / "basic", rows)
    assert recognise(root) == recognise(root.parent) == "rafdb"
    reading = open_reading(root)
    assert [record.label for record in reading.records] == [
        *("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
        "happiness",
    ]
    assert [record.split for record in reading.records] == ["train"] * 7 + ["test"]
    assert reading.records[0].read().shape == (100, 100, 3)
    assert reader_of("rafdb", {"pictures": "original"}).read(root).records[0].read().shape == (180, 240, 3)


def test_raf_pictures_that_are_listed_but_missing_are_counted(tmp_path: Path) -> None:
    root = make_rafdb(tmp_path, [("train_00001.jpg", 1), ("train_00002.jpg", 2)])
    (root / "Image" / "aligned" / "train_00002_aligned.jpg").unlink()
    reading = open_reading(root)
    assert len(reading.records) == 1
    assert reading.passed_over == {"listed, but not in aligned/": 1}


@pytest.mark.parametrize("line", ["train_00001.jpg 0", "train_00001.jpg 8", "train_00001.jpg", "valid_1.jpg 3"])
def test_a_malformed_raf_line_is_named(tmp_path: Path, line: str) -> None:
    root = make_rafdb(tmp_path, [("train_00001.jpg", 1)])
    (root / "EmoLabel" / "list_patition_label.txt").write_text(f"train_00001.jpg 1\n{line}\n")
    with pytest.raises(BadInputError, match="line 2"):
        open_reading(root)


def test_raf_without_its_pictures_says_which_folder_it_wants(tmp_path: Path) -> None:
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / "EmoLabel" / "list_patition_label.txt").write_text("train_00001.jpg 1\n")
    with pytest.raises(BadInputError, match="Image/aligned"):
        open_reading(tmp_path)


# AffectNet in YOLO format ------------------------------------------------------------------------------------------


def test_yolo_names_and_boxes_are_those_of_the_label_files(tmp_path: Path) -> None:
    rows = [
        ("train", "ffhq_1.png", "5 0.5 0.5 0.5 0.25\n"),
        ("train", "image0000002.jpg", f"1 {WHOLE_BOX}"),
        ("valid", "ffhq_3.png", f"0 {WHOLE_BOX}\n3 0.25 0.25 0.5 0.5\n"),
        ("test", "ffhq_4.png", ""),
    ]
    root = make_yolo(tmp_path / "YOLO_format", rows, AFFECTNET)
    assert recognise(root) == recognise(tmp_path) == "affectnet-yolo"
    reading = open_reading(root)
    found = {(record.split, record.id): (record.label, record.box) for record in reading.records}
    assert found == {
        ("train", "ffhq_1.png"): ("Neutral", (0.25, 0.375, 0.75, 0.625)),
        ("train", "image0000002.jpg"): ("Contempt", (0, 0, 1, 1)),
        ("valid", "ffhq_3.png#1"): ("Anger", (0, 0, 1, 1)),
        ("valid", "ffhq_3.png#2"): ("Fear", (0, 0, 0.5, 0.5)),
    }
    assert reading.passed_over == {"picture without a label line": 1}
    record = reading.records[0]
    assert np.array_equal(record.read_box(), record.read()[36:60, 24:72])


def test_yolo_takes_ultralytics_other_forms(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names:\n  0: happy\n  1: sad\n")
    put(tmp_path / "images" / "val" / "a.png", pattern(1, 96, 96, True))
    label = tmp_path / "labels" / "val" / "a.txt"
    label.parent.mkdir(parents=True)
    label.write_text(f"1 {WHOLE_BOX}")
    assert [(r.split, r.id, r.label) for r in open_reading(tmp_path).records] == [("val", "a.png", "sad")]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (f"8 {WHOLE_BOX}", "class 8 has no name"),
        ("3 0.5 0.5 1.0", "not a class and a box"),
        ("x 0.5 0.5 1 1", "not a class and a box"),
        ("3 48 48 96 96", "not in fractions"),
        ("3 0.5 0.5 0 1", "not in fractions"),
    ],
)
def test_a_malformed_yolo_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    root = make_yolo(tmp_path, [("train", "a.png", f"3 {WHOLE_BOX}\n{line}")], AFFECTNET)
    with pytest.raises(BadInputError, match=rf"a\.txt, line 2: .*{complaint}"):
        open_reading(root)


@pytest.mark.parametrize("names", ["nc: 8", "names: 3", "names: [", "names: {a: b}"])
def test_a_data_yaml_without_names_is_refused(tmp_path: Path, names: str) -> None:
    root = make_yolo(tmp_path, [("train", "a.png", f"3 {WHOLE_BOX}")], names)
    with pytest.raises(BadInputError, match=r"data\.yaml"):
        open_reading(root)


# KDEF --------------------------------------------------------------------------------------------------------------


def test_kdef_names_tell_expression_and_person(tmp_path: Path) -> None:
    codes = {"AF": "afraid", "AN": "angry", "DI": "disgusted", "HA": "happy", "NE": "neutral", "SA": "sad"}
    codes["SU"] = "surprised"
    root = make_kdef(tmp_path / "KDEF", [f"AF01{code}S" for code in codes] + ["BM35HAHL"])
    assert recognise(root) == recognise(tmp_path) == "kdef"
    records = open_reading(root).records
    assert [record.label for record in records] == [*codes.values(), "happy"]
    assert records[0].id == "AF01/AF01AFS.JPG"
    assert records[-1].subject == "M35"


def test_both_sessions_of_a_kdef_person_are_one_subject(tmp_path: Path) -> None:
    root = make_kdef(tmp_path, ["AF07HAS", "BF07HAS", "AM07HAS"])
    assert [record.subject for record in open_reading(root).records] == ["F07", "M07", "F07"]


def test_kdef_poses_are_chosen_and_the_rest_is_counted(tmp_path: Path) -> None:
    root = make_kdef(tmp_path, [f"AF01HA{pose}" for pose in ("S", "HL", "HR", "FL", "FR")])
    put(root / "AF31" / "AF31V.JPG", pattern(1))
    put(root / "AKDEF" / "FHAS.JPG", pattern(2))
    reading = open_reading(root)
    assert [record.id for record in reading.records] == [f"AF01/AF01HA{pose}.JPG" for pose in ("HL", "HR", "S")]
    assert reading.passed_over == {
        "pose full left": 1,
        "pose full right": 1,
        "name that tells no expression and angle": 2,
    }
    assert set(labels_of(root, poses=["FL"])) == {"AF01/AF01HAFL.JPG"}


@pytest.mark.parametrize("options", [{"poses": ["X"]}, {"poses": []}, {"angle": "S"}])
def test_an_option_that_a_layout_does_not_have_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="Wrong options of the dataset format kdef"):
        reader_of("kdef", options)


# FER+ --------------------------------------------------------------------------------------------------------------


def test_ferplus_votes_belong_to_rows_not_to_the_numbers_in_names(tmp_path: Path) -> None:
    """In the original the names fall behind the rows from the 59th on, where a row without a face has no number."""
    make_fer2013_csv(tmp_path / "fer2013.csv", [(0, "Training"), (0, "Training"), (3, "Training"), (4, "PublicTest")])
    make_ferplus_csv(
        tmp_path / "fer2013new.csv",
        [
            ("Training", "fer0000000.png", votes(anger=8, neutral=2)),
            ("Training", "", votes(NF=10)),
            ("Training", "fer0000001.png", votes(happiness=10)),
            ("PublicTest", "fer0000002.png", votes(sadness=7, neutral=3)),
        ],
    )
    assert recognise(tmp_path) == "ferplus"
    reading = open_reading(tmp_path)
    assert [(r.id, r.split, r.label) for r in reading.records] == [
        ("Training_0", "Training", "anger"),
        ("Training_2", "Training", "happiness"),
        ("PublicTest_3", "PublicTest", "sadness"),
    ]
    assert np.array_equal(reading.records[1].read(), pattern(2))
    assert reading.passed_over == {"no image name: not a face": 1}


def test_ferplus_pictures_written_by_the_authors_script_are_joined_by_name(tmp_path: Path) -> None:
    rows = [
        ("Training", "fer0000000.png", votes(fear=9, surprise=1)),
        ("PublicTest", "fer0028638.png", votes(contempt=6, neutral=4)),
        ("PrivateTest", "fer0032220.png", votes(disgust=10)),
    ]
    make_ferplus_csv(tmp_path / "fer2013new.csv", rows)
    put(tmp_path / "FER2013Train" / "fer0000000.png", pattern(5))
    put(tmp_path / "FER2013Valid" / "fer0028638.png", pattern(6))
    (tmp_path / "FER2013Test").mkdir()
    reading = open_reading(tmp_path)
    assert [(r.split, r.label) for r in reading.records] == [("Training", "fear"), ("PublicTest", "contempt")]
    assert np.array_equal(reading.records[0].read(), pattern(5))
    assert reading.passed_over == {"voted on, but the picture is not there": 1}


def test_ferplus_without_faces_or_with_another_csv_is_no_pair(tmp_path: Path) -> None:
    make_ferplus_csv(tmp_path / "fer2013new.csv", [("Training", "fer0000000.png", votes(fear=10))])
    with pytest.raises(BadInputError, match=r"no faces to join them with.*Kaggle"):
        open_reading(tmp_path)
    make_fer2013_csv(tmp_path / "fer2013.csv", [(0, "PublicTest")])
    with pytest.raises(BadInputError, match="line 2: Training, but PublicTest"):
        open_reading(tmp_path)
    make_fer2013_csv(tmp_path / "fer2013.csv", [(0, "Training"), (0, "Training")])
    with pytest.raises(BadInputError, match="different numbers of rows"):
        open_reading(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["Training,fer0.png,1,2,3", "Train,fer0.png,10,0,0,0,0,0,0,0,0,0", "Training,fer0.png,x,0,0,0,0,0,0,0,0,0"],
)
def test_a_malformed_ferplus_row_is_named(tmp_path: Path, line: str) -> None:
    table = make_ferplus_csv(tmp_path / "fer2013new.csv", [("Training", "fer0000000.png", votes(fear=10))])
    table.write_text(table.read_text() + line + "\n")
    with pytest.raises(BadInputError, match="line 3"):
        open_reading(tmp_path)


@pytest.mark.parametrize(
    ("given", "majority", "probability"),
    [
        # Clear: both rules agree.
        (votes(happiness=9, neutral=1), {"happiness": 1}, {"happiness": 1}),
        # More than half: majority takes it; probability goes on until three quarters are held.
        (votes(neutral=6, anger=3, sadness=1), {"neutral": 1}, {"neutral": 6 / 9, "anger": 3 / 9}),
        # Exactly half is no majority.
        (votes(neutral=5, sadness=5), None, {"neutral": 0.5, "sadness": 0.5}),
        # Single votes are taken away before the half is counted: 4 of 6 is more than half.
        (
            votes(fear=4, sadness=2, anger=1, disgust=1, contempt=1, neutral=1),
            {"fear": 1},
            {"fear": 4 / 6, "sadness": 2 / 6},
        ),
        # Everything is a single vote: nothing is left.
        (votes(**dict.fromkeys(CLASSES, 1)), None, None),
        # Too many classes of one size.
        (votes(neutral=2, happiness=2, surprise=2, sadness=2, anger=2), None, None),
        (votes(unknown=8, neutral=2), {"unknown": 1}, {"unknown": 1}),
        # Unknown after something else ends the count, and half is not enough then.
        (votes(anger=4, unknown=4, fear=2), None, None),
        (votes(anger=6, unknown=4), {"anger": 1}, {"anger": 1}),
        (votes(NF=10), {"NF": 1}, {"NF": 1}),
    ],
)  # fmt: skip
def test_the_published_rules_decide_what_votes_mean(
    given: tuple[int, ...], majority: dict[str, float] | None, probability: dict[str, float] | None
) -> None:
    for rule, expected in (("majority", majority), ("probability", probability)):
        kept = distribution(given, rule)  # type: ignore[arg-type]
        if expected is None:
            assert kept is None
        else:
            assert kept is not None
            found = {name: value for name, value in zip(CLASSES, kept.tolist(), strict=True) if value}
            assert found == pytest.approx(expected)


def test_what_people_call_unknown_or_disagree_on_is_passed_over_by_rule(tmp_path: Path) -> None:
    given = [
        votes(happiness=10),
        votes(unknown=9, neutral=1),
        votes(NF=9, neutral=1),
        votes(neutral=5, sadness=5),
        votes(neutral=6, sadness=4),
    ]
    make_fer2013_csv(tmp_path / "fer2013.csv", [(0, "Training")] * len(given))
    make_ferplus_csv(tmp_path / "fer2013new.csv", [("Training", f"fer{n}.png", v) for n, v in enumerate(given)])
    by_majority = reader_of("ferplus").read(tmp_path)
    assert [record.label for record in by_majority.records] == ["happiness", "neutral"]
    assert by_majority.passed_over == {"unknown": 1, "not a face (NF)": 1, "people disagree": 1}
    by_probability = reader_of("ferplus", {"rule": "probability"}).read(tmp_path)
    assert by_probability.passed_over == {"unknown": 1, "not a face (NF)": 1, "two classes with as many votes": 1}


# Class folders, CSV, and the registry ------------------------------------------------------------------------------


def test_class_folders_keep_every_class_and_the_ids_of_open_dataset(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("happy", "anger", "contempt"):
            put(tmp_path / split / name / f"{split}.png", pattern(1))
    reading = open_reading(tmp_path)
    assert {record.label for record in reading.records} == {"happy", "anger", "contempt"}
    known = {record.id for record in reading.records if record.split == "test" and record.label != "contempt"}
    assert known == set(open_dataset(tmp_path, "test").ids)


def test_the_csv_has_the_ids_labels_and_pixels_of_open_dataset(tmp_path: Path) -> None:
    table = make_fer2013_csv(tmp_path / "fer2013.csv", [(6, "Training"), (3, "PublicTest"), (4, "PrivateTest")])
    reading = open_reading(tmp_path)
    assert recognise(table) == "fer2013-csv"
    for record in reading.records:
        samples = open_dataset(table, record.split)
        assert samples.ids == (record.id,)
        assert samples.class_names[samples.labels[0]] == record.label
        assert np.array_equal(samples.read(0), record.read())


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_layout_refuses_a_folder_of_something_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BadInputError):
        reader_of(name).read(tmp_path)
    with pytest.raises(BadInputError, match="no dataset that is known"):
        recognise(tmp_path)


def test_what_is_not_there_and_what_nobody_knows_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="does not exist"):
        open_reading(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"Unknown dataset format 'raf'.*rafdb"):
        reader_of("raf")


def test_train_and_eval_open_datasets_whose_pictures_are_faces(tmp_path: Path) -> None:
    root = make_rafdb(tmp_path / "raf", [("train_00001.jpg", 1), ("train_00002.jpg", 7), ("test_0001.jpg", 6)])
    samples = open_dataset(root, "train")
    assert samples.class_names == EMOTIONS
    assert [samples.class_names[k] for k in samples.labels] == ["surprise", "neutral"]
    with pytest.raises(UsageError, match="--split: train, test"):
        open_dataset(root)
    with pytest.raises(UsageError, match="Available: train, test"):
        open_dataset(root, "PrivateTest")
    yolo = make_yolo(tmp_path / "yolo", [("valid", "a.png", "1 0.5 0.5 0.5 0.5")], AFFECTNET)
    samples = open_dataset(yolo)
    assert samples.class_names == (*EMOTIONS, "contempt"), "a class beyond the seven is shown, not dropped"
    assert samples.read(0).shape == (48, 48, 3)


def test_kdef_must_be_prepared_before_it_is_trained_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="edge-fer data prepare"):
        open_dataset(make_kdef(tmp_path, ["AF01HAS"]))


def test_ferplus_labels_are_used_only_when_asked_for(tmp_path: Path) -> None:
    make_fer2013_csv(tmp_path / "fer2013.csv", [(0, "Training")])
    make_ferplus_csv(tmp_path / "fer2013new.csv", [("Training", "fer0000000.png", votes(happiness=10))])
    plain = open_dataset(tmp_path, "train")
    assert plain.class_names[plain.labels[0]] == "angry"
    asked = open_dataset(Path(f"ferplus={tmp_path}"), "Training")
    assert asked.class_names[asked.labels[0]] == "happy"
