"""The record of scores stays in its memory and is evenly spaced; the picture shows it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_fer.core.errors import BadInputError, MissingDependencyError, UsageError
from edge_fer.runtime.frames import Frame
from edge_fer.runtime.results import FaceResult, FrameResult
from edge_fer.runtime.sinks.score_record import ScoreRecord
from edge_fer.runtime.timeline import check_timeline, draw_timeline

LABELS = ("angry", "happy", "sad")


def result(index: int, *tracks: int) -> FrameResult:
    frame = Frame(np.zeros((2, 2, 3), np.uint8))
    frame.index, frame.time_ms = index, 40.0 * index
    happy = 0.5 + 0.4 * np.sin(index / 9)
    scores = np.array([(1 - happy) / 2, happy, (1 - happy) / 2], np.float32)
    return FrameResult(
        frame, tuple(FaceResult(t, (0.0, 0.0, 1.0, 1.0), "happy", False, scores) for t in tracks), LABELS, 1.0, 25.0
    )


def test_a_long_run_is_kept_evenly_in_fixed_memory() -> None:
    record = ScoreRecord(3, capacity=100)
    for index in range(10_000):
        record.write(result(index, 1))
    times_ms, scores = record.of(1)
    assert 40 <= len(times_ms) <= 100
    assert not np.isnan(times_ms).any()
    assert len(set(np.diff(times_ms))) == 1
    assert times_ms[-1] > 0.95 * 40 * 10_000
    assert scores.shape == (len(times_ms), 3)
    assert scores[3] == pytest.approx(result(3 * record.stride, 1).faces[0].scores)


def test_a_face_that_was_away_leaves_a_gap_and_faces_are_ordered_by_presence() -> None:
    record = ScoreRecord(3)
    for index in range(30):
        record.write(result(index, *([7] if not 10 <= index < 20 else []), *([9] if index < 5 else [])))
    assert record.tracks() == [7, 9]
    times_ms, scores = record.of(7)
    assert np.flatnonzero(np.isnan(times_ms)).tolist() == [10]
    assert np.isnan(scores[10]).all()
    assert not np.isnan(record.of(9)[0]).any()


def test_the_band_is_of_the_label_that_was_shown_not_of_the_leading_score(tmp_path: Path) -> None:
    record = ScoreRecord(3)
    for index in range(400):
        record.write(result(index, *([7] if index != 200 else [])))
    times_ms, scores = record.of(7)
    assert np.flatnonzero(record.shown(7) != LABELS.index("happy")).tolist() == [200]
    assert np.isnan(times_ms[200])
    assert (np.nan_to_num(scores).argmax(axis=1) != LABELS.index("happy")).sum() > 50
    draw_timeline(tmp_path / "scores.png", record, LABELS, title="a clip: a model")
    image = cv2.imread(str(tmp_path / "scores.png")).astype(int)
    happy = np.abs(image - np.array([49, 164, 205])).max(axis=2) < 12
    assert happy.sum(axis=1).max() > 1000, "one colour across the picture"


def test_more_faces_in_a_frame_than_there_is_memory_do_not_break_it() -> None:
    record = ScoreRecord(3, capacity=4)
    for index in range(8):
        record.write(result(index, *range(1, 10)))
    assert record.tracks()


@pytest.mark.parametrize("frames", [0, 1, 400])
def test_the_picture_is_drawn_for_no_face_one_frame_and_many_faces(tmp_path: Path, frames: int) -> None:
    record = ScoreRecord(3)
    for index in range(frames):
        record.write(result(index, *(t for t in range(1, 9) if index >= 20 * t or frames == 1)))
    path = tmp_path / "scores.png"
    draw_timeline(path, record, LABELS, title="a clip: a model")
    image = cv2.imread(str(path))
    assert image is not None
    assert image.shape[1] == 1320
    happy_bgr = np.array([49, 164, 205])  # the class's colour, darkened for paper
    seen = (np.abs(image.astype(int) - happy_bgr).max(axis=2) < 12).sum()
    assert (seen > 100) == (frames > 0)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.png"]


def test_mistakes_are_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="PNG"):
        check_timeline(tmp_path / "scores.pdf")
    with pytest.raises(BadInputError, match="does not exist"):
        check_timeline(tmp_path / "no" / "scores.png")
    monkeypatch.setattr("edge_fer.core.packages.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edge-fer\[report\]'"):
        check_timeline(tmp_path / "scores.png")
