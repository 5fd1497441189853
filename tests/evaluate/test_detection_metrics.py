"""Matching, recall, average precision and false alarms of a detector, against hand-made cases and brute force."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_fer.core.faces import Faces
from edge_fer.data.detection.test_sets import TestPicture as Shown
from edge_fer.evaluate.detection import (
    Matched,
    Truth,
    average_precision,
    false_alarms,
    landmark_error,
    match,
    mean_landmark_error,
    recall,
    score_for_alarms,
)
from edge_fer.evaluate.detection_suite import EMPTY, Contender, compare_detectors, draw_mistakes, rows_as_json


def faces(*rows: tuple[float, float, float, float, float]) -> Faces:
    array = np.array(rows, np.float32).reshape(-1, 5)
    return Faces(array[:, :4], array[:, 4])


def truth(*boxes: tuple[float, float, float, float], ignore: tuple[int, ...] = ()) -> Truth:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Truth(array, None, np.isin(np.arange(len(array)), ignore))


def test_each_face_is_found_once_and_a_second_find_is_a_false_alarm() -> None:
    result = match(faces((0, 0, 10, 10, 0.9), (0, 0, 10, 11, 0.8), (50, 50, 60, 60, 0.7)), truth((0, 0, 10, 10)))
    np.testing.assert_array_equal(result.hit, [0, -1, -1])
    assert recall([result], 0.5) == 1.0
    assert false_alarms([result], 0.75) == 1


def test_the_surest_find_chooses_first() -> None:
    result = match(faces((0, 0, 10, 12, 0.4), (0, 0, 10, 10, 0.9)), truth((0, 0, 10, 10)))
    np.testing.assert_allclose(result.scores, [0.9, 0.4])
    np.testing.assert_array_equal(result.hit, [0, -1])


def test_ignored_places_are_neither_missed_nor_alarms() -> None:
    result = match(
        faces((0, 0, 10, 10, 0.9), (2, 2, 6, 6, 0.8), (40, 40, 50, 50, 0.7)), truth((0, 0, 10, 10), ignore=(0,))
    )
    assert result.faces == 0
    np.testing.assert_array_equal(result.hit, [-1])
    assert np.isnan(recall([result], 0.0))


def test_landmark_errors_are_in_eye_distances() -> None:
    wanted = np.array([[0, 0], [10, 0], [5, 5], [2, 9], [8, 9]], np.float32)
    assert landmark_error(wanted + np.float32([1, 0]), wanted) == pytest.approx(0.1)


def test_the_operating_point_leaves_as_many_alarms_as_allowed() -> None:
    pictures = [
        Matched(np.float32([s]), np.array([-1]), np.array([0]), 0, np.zeros(0, np.float32))
        for s in (0.2, 0.5, 0.8, 0.9)
    ]
    for allowed in range(5):
        assert false_alarms(pictures, score_for_alarms(pictures, allowed / 4)) == allowed


@given(
    st.lists(
        st.tuples(st.floats(0.0078125, 1, width=32), st.booleans()), min_size=1, max_size=30, unique_by=lambda t: t[0]
    ),
    st.integers(0, 5),
)
@settings(max_examples=100)
def test_average_precision_is_the_area_under_the_highest_precision_from_each_recall_on(
    finds: list[tuple[float, bool]], missed: int
) -> None:
    count = sum(hit for _, hit in finds) + missed
    result = Matched(
        np.float32([score for score, _ in finds]),
        np.array([i if hit else -1 for i, (_, hit) in enumerate(finds)]),
        np.arange(len(finds)),
        count,
        np.zeros(0, np.float32),
    )
    if not count:
        assert np.isnan(average_precision([result]))
        return
    ordered = [hit for _, hit in sorted(finds, reverse=True)]
    points = [(sum(ordered[:k]) / count, sum(ordered[:k]) / k) for k in range(1, len(ordered) + 1)]
    levels = [k / count for k in range(1, count + 1)]
    expected = sum(max((p for r, p in points if r >= level - 1e-9), default=0.0) for level in levels) / count
    assert average_precision([result]) == pytest.approx(expected, abs=1e-6)


class Fixed:
    """A detector that says the same of every picture."""

    name, whole_frame = "fixed", False

    def __init__(self, found: Faces) -> None:
        self.found = found

    def detect(self, image_bgr: np.ndarray) -> Faces:
        return self.found


def shown(*boxes: tuple[float, float, float, float]) -> Shown:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    points = np.tile(array[:, None, :2], (1, 5, 1))
    return Shown("x", np.zeros((64, 64, 3), np.uint8), array, points, np.zeros(len(array), np.bool_))


def test_a_hit_with_the_score_of_a_false_alarm_is_not_drawn_as_one(tmp_path: Path) -> None:
    """Haar gives every face the same score."""
    found = faces((10, 10, 30, 30, 1.0), (40, 40, 60, 60, 1.0))
    assert draw_mistakes(tmp_path / "m.png", [shown((10, 10, 30, 30))], [found], 0.5) == (0, 1)


def test_the_suite_gives_a_row_per_kind_and_detector_and_draws_the_mistakes(tmp_path: Path) -> None:
    sets = {EMPTY: [shown()], "one face": [shown((10, 10, 30, 30))]}
    contenders = {
        "good": Contender(Fixed(faces((10, 10, 30, 30, 0.9))), 0.5),
        "blind": Contender(Fixed(Faces.empty()), 0.5),
    }
    rows, found = compare_detectors(contenders, sets)
    by = {(row.kind, row.detector): row for row in rows}
    assert by["one face", "good"].recall == 1.0
    assert by[EMPTY, "good"].alarms_per_100 == 100.0
    assert by["one face", "good"].recall_few_alarms == 0.0
    assert by["one face", "blind"].recall == 0.0
    assert rows_as_json(rows)[0]["recall"] is None
    counts = draw_mistakes(tmp_path / "m.png", sets["one face"], found["one face", "blind"], 0.5)
    assert counts == (1, 0)
    assert draw_mistakes(tmp_path / "a.png", sets[EMPTY], found[EMPTY, "good"], 0.5) == (0, 1)
    assert cv2.imread(str(tmp_path / "m.png")).max() == 255
    assert np.isnan(mean_landmark_error([]))
