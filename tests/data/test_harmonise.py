"""Labels of several datasets: every class goes somewhere that somebody has said, and the table adds up."""

from __future__ import annotations

from itertools import chain

import pytest

from edge_fer.core.errors import UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.data.harmonise import label_mapping
from edge_fer.data.icml_csv import ICML_ORDER
from edge_fer.data.readers.ferplus import CLASSES
from edge_fer.data.readers.kdef import EXPRESSIONS
from edge_fer.data.readers.rafdb import RAF_ORDER

AFFECTNET = ("Anger", "Contempt", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")


@pytest.mark.parametrize("names", [ICML_ORDER, RAF_ORDER, tuple(EXPRESSIONS.values()), AFFECTNET, CLASSES])
def test_every_published_dataset_reaches_all_seven_classes(names: tuple[str, ...]) -> None:
    table = label_mapping("it", names)
    assert set(table.table.values()) - {None} == set(EMOTIONS)
    left_out = {name.lower() for name, ours in table.table.items() if ours is None}
    assert left_out <= {"contempt", "unknown", "nf"}


def test_the_table_counts_every_picture_once() -> None:
    labels = ["Anger"] * 3 + ["anger"] * 2 + ["Contempt"] * 4 + ["Happy"]
    rows = label_mapping("a", labels).rows(labels)
    assert [(row.theirs, row.ours, row.pictures) for row in rows] == [
        ("Anger", "angry", 3),
        ("anger", "angry", 2),
        ("Happy", "happy", 1),
        ("Contempt", None, 4),
    ]
    assert sum(row.pictures for row in rows) == len(labels)


def test_contempt_is_left_out_unless_told() -> None:
    assert label_mapping("a", AFFECTNET)["Contempt"] is None
    assert label_mapping("a", AFFECTNET, {"Contempt": "disgusted"})["Contempt"] == "disgust"


def test_a_told_class_goes_before_what_its_name_says() -> None:
    assert label_mapping("a", ["fear", "0"], {"fear": None, "0": "sad"}).table == {"0": "sad", "fear": None}


@pytest.mark.parametrize(
    ("names", "told", "complaint"),
    [
        (("happy", "smug"), {}, "what the class 'smug' of raf is"),
        (("happy",), {"sad": "fear"}, "maps 'sad' of raf, which has no such class"),
        (("happy",), {"happy": "glad"}, "to 'glad', which is none of the classes"),
    ],
)
def test_what_nobody_has_said_is_an_error(names: tuple[str, ...], told: dict[str, str | None], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        label_mapping("raf", names, told)


def test_our_own_names_stay_as_they_are() -> None:
    assert label_mapping("x", chain(EMOTIONS)).table == {name: name for name in EMOTIONS}
