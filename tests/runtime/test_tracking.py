"""Numbers stay with faces, labels do not flicker, and nothing grows for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.core.faces import Faces
from edge_fer.runtime.postprocess import softmax_into
from edge_fer.runtime.tracking import FINISHED_KEPT, Tracker


def faces(*boxes: tuple[float, float, float, float]) -> Faces:
    return Faces(np.array(boxes, np.float32).reshape(-1, 4), np.ones(len(boxes), np.float32))


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_two_faces_that_move_past_each_other_keep_their_numbers() -> None:
    tracker = Tracker(3)
    for step in range(40):
        upper, lower = (10 + 5 * step, 0), (210 - 5 * step, 60)
        # The detector's order changes; only the place may decide.
        order = (upper, lower) if step % 2 else (lower, upper)
        tracks = tracker.associate(faces(*((x, y, x + 50, y + 50) for x, y in order)))
        numbers = {box: track.track for box, track in zip(order, tracks, strict=True)}
        if step == 0:
            first = (numbers[upper], numbers[lower])
        assert (numbers[upper], numbers[lower]) == first


def test_a_face_that_is_missed_a_few_times_comes_back_with_its_number() -> None:
    tracker = Tracker(3, patience=3)
    (track,) = tracker.associate(faces((0, 0, 50, 50)))
    for _ in range(3):
        assert tracker.associate(Faces.empty()) == []
    assert tracker.associate(faces((2, 1, 52, 51)))[0].track == track.track
    for _ in range(4):
        tracker.associate(Faces.empty())
    assert tracker.associate(faces((2, 1, 52, 51)))[0].track != track.track


def test_a_label_changes_only_when_the_rival_leads_clearly() -> None:
    tracker = Tracker(2, smooth=0.5)
    (track,) = tracker.associate(faces((0, 0, 9, 9)))
    tracker.update(track, scores(0.9, 0.1))
    for _ in range(20):
        tracker.update(track, scores(0.48, 0.52))
    assert (track.label, track.changes) == (0, 0)
    for _ in range(20):
        tracker.update(track, scores(0.2, 0.8))
    assert (track.label, track.changes) == (1, 1)


def test_flicker_is_counted_per_minute_of_a_face_in_the_sources_own_time() -> None:
    """Two faces for half a minute each; one changes its label three times. How fast it was computed does not matter."""
    tracker = Tracker(2, smooth=0.0)
    first, second = tracker.associate(faces((0, 0, 9, 9), (50, 0, 59, 9)))
    assert tracker.flicker_per_minute() is None
    for step in range(301):
        tracker.update(first, scores(0.9, 0.1) if step // 80 % 2 else scores(0.1, 0.9), 100.0 * step)
        tracker.update(second, scores(0.8, 0.2), 100.0 * step)
    assert tracker.flicker_per_minute() == pytest.approx(3.0)


def test_a_detection_corrects_a_followed_box_halfway_and_places_a_new_one_exactly() -> None:
    tracker = Tracker(2)
    tracker.associate(faces((0, 0, 40, 40)))
    known, new = tracker.associate(faces((4, 8, 44, 48), (100, 0, 140, 40)), settle=0.5)
    np.testing.assert_allclose(known.box_xyxy, [2, 4, 42, 44])
    np.testing.assert_allclose(new.box_xyxy, [100, 0, 140, 40])
    assert (known.detections, new.detections) == (2, 1)


def test_without_smoothing_every_frame_shows_its_own_best() -> None:
    tracker = Tracker(2, smooth=0.0)
    (track,) = tracker.associate(faces((0, 0, 9, 9)))
    shown = []
    for step in range(6):
        tracker.update(track, scores(0.51, 0.49) if step % 2 else scores(0.49, 0.51))
        shown.append(track.label)
    assert shown == [1, 0, 1, 0, 1, 0]
    np.testing.assert_allclose(track.scores, scores(0.51, 0.49))


def test_no_clear_class_is_called_uncertain() -> None:
    tracker = Tracker(7)
    (track,) = tracker.associate(faces((0, 0, 9, 9)))
    tracker.update(track, np.full(7, 1 / 7, np.float32))
    assert track.uncertain
    tracker.update(track, np.eye(7, dtype=np.float32)[3])
    tracker.update(track, np.eye(7, dtype=np.float32)[3])
    assert not track.uncertain


def test_a_score_at_the_threshold_does_not_flicker_between_certain_and_uncertain() -> None:
    tracker = Tracker(3, smooth=0.6)
    (track,) = tracker.associate(faces((0, 0, 9, 9)))
    shown = []
    for step in range(60):
        tracker.update(track, scores(0.38 + 0.05 * (step // 3 % 2), 0.31, 0.31 - 0.05 * (step // 3 % 2)))
        shown.append(track.uncertain)
    assert shown == [True] * 60
    for _ in range(10):
        tracker.update(track, scores(0.6, 0.2, 0.2))
    assert not track.uncertain
    for _ in range(10):
        tracker.update(track, scores(0.42, 0.3, 0.28))
    assert not track.uncertain, "what was certain stays so down to the lower limit"
    for _ in range(10):
        tracker.update(track, scores(0.38, 0.32, 0.3))
    assert track.uncertain


def test_without_smoothing_each_frame_is_uncertain_by_its_own_scores() -> None:
    tracker = Tracker(3, smooth=0.0)
    (track,) = tracker.associate(faces((0, 0, 9, 9)))
    shown = []
    for best in (0.39, 0.41, 0.39, 0.41):
        tracker.update(track, scores(best, 0.3, 0.7 - best))
        shown.append(track.uncertain)
    assert shown == [True, False, True, False]


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=1, max_size=30), st.floats(0, 0.95))
def test_smoothed_scores_stay_a_distribution(rows: list[list[float]], smooth: float) -> None:
    tracker = Tracker(4, smooth=smooth)
    (track,) = tracker.associate(faces((0, 0, 9, 9)))
    for row in rows:
        values = np.array(row, np.float32)
        tracker.update(track, values / values.sum())
        assert track.scores.sum() == pytest.approx(1, abs=1e-3)
    assert track.frames == len(rows)


def test_the_list_of_faces_that_left_is_bounded() -> None:
    tracker = Tracker(2, patience=0)
    for visitor in range(FINISHED_KEPT + 200):
        for track in tracker.associate(faces((100 * visitor, 0, 100 * visitor + 50, 50))):
            tracker.update(track, scores(0.5, 0.5))
    assert len(tracker.all_tracks()) <= FINISHED_KEPT + 2
    assert tracker.faces == FINISHED_KEPT + 200


@given(st.lists(st.lists(st.floats(-80, 80), min_size=3, max_size=3), min_size=1, max_size=5))
def test_softmax_is_what_the_formula_says(rows: list[list[float]]) -> None:
    logits = np.array(rows, np.float32)
    out = np.empty_like(logits)
    softmax_into(out, logits)
    wide = logits.astype(np.float64)
    expected = np.exp(wide - wide.max(1, keepdims=True))
    np.testing.assert_allclose(out, expected / expected.sum(1, keepdims=True), atol=1e-6)
