"""The interval between detections adapts, within bounds that are promised."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.runtime.detection_schedule import IDLE_EVERY_MS, LONGEST, NEW_FACE_MS, PATIENT, DetectionSchedule


def play(
    schedule: DetectionSchedule,
    frames: int,
    *,
    detect_ms: float = 10.0,
    follow_ms: float = 0.5,
    faces: int = 1,
    motion: float = 0.0,
    step_ms: float = 1000 / 30,
    drops: int = 0,
    first: int = 0,
) -> list[int]:
    """Frames on which it detected; each costs what it is told."""
    detected, dropped = [], 0
    for index in range(first, first + frames):
        dropped += drops
        schedule.dropped(dropped)
        follows = bool(faces) and schedule.interval > 1
        if schedule.due(index * step_ms, faces=faces, missed=0, unconfirmed=False):
            schedule.detected(index * step_ms, detect_ms)
            detected.append(index)
        if follows:
            schedule.followed(follow_ms * faces, faces, motion)
    return detected


def gaps(detected: list[int]) -> list[int]:
    return [b - a for a, b in itertools.pairwise(detected)]


def test_a_number_fixes_the_interval_whatever_happens() -> None:
    assert set(gaps(play(DetectionSchedule(7, live=True), 100, detect_ms=500, motion=3, drops=4))) == {7}
    with pytest.raises(ValueError, match="at least 1"):
        DetectionSchedule(0, live=True)


def test_detection_costs_about_as_much_as_following() -> None:
    assert gaps(play(DetectionSchedule(None, live=False), 100, detect_ms=3, follow_ms=0.5))[-1] == 6
    assert gaps(play(DetectionSchedule(None, live=False), 100, detect_ms=3, follow_ms=0.5, faces=3))[-1] == 2


def test_where_following_costs_as_much_as_detecting_it_is_left() -> None:
    assert gaps(play(DetectionSchedule(None, live=False), 100, detect_ms=1, follow_ms=0.8))[-20:] == [1] * 20


def test_a_hiccup_at_the_start_does_not_fix_the_interval_for_ever() -> None:
    schedule = DetectionSchedule(None, live=False)
    play(schedule, 20, detect_ms=5, follow_ms=40)
    assert schedule.interval == 1
    assert gaps(play(schedule, 400, detect_ms=5, follow_ms=0.5, first=20))[-1] == 10


def test_the_faster_faces_move_the_more_often_they_are_detected() -> None:
    last = [gaps(play(DetectionSchedule(None, live=False), 200, motion=m))[-1] for m in (0.0, 0.1, 0.25, 2.0)]
    assert last == [LONGEST, 10, 4, 2]


def test_drops_make_detection_rarer_and_calm_brings_it_back() -> None:
    schedule = DetectionSchedule(None, live=True)
    play(schedule, 40, detect_ms=2, follow_ms=0.5)
    assert schedule.interval == 4
    play(schedule, 3, detect_ms=2, follow_ms=0.5, drops=1, first=40)
    assert schedule.interval == LONGEST
    play(schedule, 300, detect_ms=2, follow_ms=0.5, first=43)
    assert schedule.interval == 4


@given(
    detect_ms=st.floats(0.01, 50), follow_ms=st.floats(0.01, 10), faces=st.integers(1, 20),
    motion=st.floats(0, 5), step_ms=st.floats(5, 300), drops=st.integers(0, 3), live=st.booleans(),
)  # fmt: skip
def test_a_new_face_is_searched_for_within_half_a_second(
    detect_ms: float, follow_ms: float, faces: int, motion: float, step_ms: float, drops: int, live: bool
) -> None:
    """Also under load; and in at most fifteen frames."""
    schedule = DetectionSchedule(None, live=live)
    detected = play(
        schedule, 120, detect_ms=detect_ms, follow_ms=follow_ms, faces=faces, motion=motion, step_ms=step_ms,
        drops=drops,
    )  # fmt: skip
    bound_ms = max(NEW_FACE_MS, PATIENT * detect_ms) + step_ms
    assert max(gaps(detected)) <= LONGEST
    assert max(gaps(detected)) * step_ms <= bound_ms


def test_a_machine_on_which_detection_takes_a_second_does_not_only_detect() -> None:
    """At three frames a second half a second is every second frame; five detections' time is all of them but one."""
    assert gaps(play(DetectionSchedule(None, live=True), 100, detect_ms=1000, follow_ms=2, step_ms=300))[-1] == LONGEST


def test_an_empty_room_is_searched_ten_times_a_second_and_a_film_on_every_frame() -> None:
    live = play(DetectionSchedule(None, live=True), 300, faces=0)
    assert gaps(live)[:50] == [1] * 50
    assert set(gaps(live)[100:]) == {3}
    assert IDLE_EVERY_MS == 3 * 1000 / 30
    assert len(play(DetectionSchedule(None, live=False), 300, faces=0)) == 300
    assert len(play(DetectionSchedule(5, live=True), 300, faces=0)) == 300


def test_a_lost_face_is_searched_at_growing_distances() -> None:
    schedule = DetectionSchedule(16, live=True)
    schedule.detected(0, 1)
    missed, searched = 1, []
    for index in range(1, 40):
        if schedule.due(index * 33, faces=1, missed=missed, unconfirmed=False):
            schedule.detected(index * 33, 1)
            missed += 1
            searched.append(index)
    assert searched == [2, 6, 14, 30]


def test_a_face_seen_once_is_looked_at_again_on_the_next_frame() -> None:
    schedule = DetectionSchedule(None, live=True)
    schedule.detected(0, 10)
    assert schedule.due(33, faces=1, missed=0, unconfirmed=True)
    schedule.detected(33, 10)
    assert not schedule.due(66, faces=1, missed=0, unconfirmed=False)
