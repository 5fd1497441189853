"""Faces are followed cheaply between detections, keep their numbers, and are never followed into nothing."""

from __future__ import annotations

import numpy as np
import pytest
from obedient_parts import Box, CountingSource, FixedFaces, Recorder, Scene, picture

from edge_fer.core.engine import Engine
from edge_fer.core.faces import Faces, iou
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.region_search import FlowSearch, NearSearch


def overlap(a: Box | np.ndarray, b: Box | np.ndarray) -> float:
    return float(iou(np.array([a], np.float32), np.array([b], np.float32))[0, 0])


def moving(index: int) -> Box:
    """To the right, down and back, growing by a third."""
    left, top, side = 40 + 4 * index, 60 + 30 * np.sin(index / 6), 60 + index / 2
    return (left, top, left + side, top + side)


def run(scene: Scene, engine: Engine, **options: int) -> tuple[Recorder, Pipeline]:
    sink = Recorder()
    pipeline = Pipeline(scene, scene, engine, [sink], **options)  # type: ignore[arg-type]
    pipeline.run()
    return sink, pipeline


def test_between_detections_the_box_goes_with_the_face(engine: Engine) -> None:
    scene = Scene(40, lambda index: [(1, moving(index))])
    sink, _ = run(scene, engine, detect_every=10)
    assert scene.detected == [0, 10, 20, 30]
    for index, boxes in enumerate(sink.boxes):
        assert overlap(boxes[0], moving(index)) > 0.85, f"frame {index}"
    held = [overlap(moving(index), moving(index - index % 10)) for index in range(40)]
    assert min(held) < 0.5, "a box that stayed where it was would have lost the face"
    assert {number for tracks in sink.tracks for number in tracks} == {1}


def test_two_faces_that_pass_each_other_keep_their_numbers(engine: Engine) -> None:
    def both(index: int) -> list[tuple[int, Box]]:
        return [(1, (20 + 5 * index, 20, 80 + 5 * index, 80)), (2, (230 - 5 * index, 110, 290 - 5 * index, 170))]

    sink, _ = run(Scene(40, both), engine, detect_every=8)
    for index, (tracks, boxes) in enumerate(zip(sink.tracks, sink.boxes, strict=True)):
        assert tracks == [1, 2]
        for box, (_, truth) in zip(boxes, both(index), strict=True):
            assert overlap(box, truth) > 0.8


def test_a_cut_is_noticed_at_once(engine: Engine) -> None:
    """Another scene with the face elsewhere: nothing is followed into it."""

    def place(index: int) -> list[tuple[int, Box]]:
        return [(1, (40, 60, 100, 120))] if index < 13 else [(2, (200, 100, 270, 170))]

    scene = Scene(30, place, seed_at=lambda index: int(index >= 13))
    sink, _ = run(scene, engine, detect_every=10)
    assert 13 in scene.detected
    assert overlap(sink.boxes[13][0], place(13)[0][1]) == 1
    assert len(sink.boxes[13]) == 1


def test_a_face_that_leaves_is_not_followed_for_long(engine: Engine) -> None:
    scene = Scene(40, lambda index: [(1, (40, 60, 100, 120))] if index < 12 else [])
    sink, _ = run(scene, engine, detect_every=10)
    assert all(len(boxes) == 1 for boxes in sink.boxes[:12])
    assert all(not boxes for boxes in sink.boxes[12:])


def test_one_missed_detection_does_not_make_a_face_vanish(engine: Engine) -> None:
    """Cascades miss a face now and then; its motion carries it over one miss, and not over two."""

    class Blinking(Scene):
        def detect(self, image_bgr: np.ndarray) -> Faces:
            faces = super().detect(image_bgr)
            return Faces.empty() if len(self.detected) in self.misses else faces

    for misses, expected in (({4}, [1] * 30), ({4, 5}, [1] * 16 + [0] * 4 + [1] * 10)):
        scene = Blinking(30, lambda index: [(1, (40, 60, 100, 120))])
        scene.misses = misses  # type: ignore[attr-defined]
        sink, _ = run(scene, engine, detect_every=5)
        counts = [len(boxes) for boxes in sink.boxes]
        assert counts[:16] == expected[:16]
        assert counts[-5:] == [1] * 5
        assert (0 in counts) == (0 in expected)
        assert {number for tracks in sink.tracks for number in tracks} == {1}


def test_a_camera_that_changes_its_size_gets_new_boxes(engine: Engine) -> None:
    def place(index: int) -> list[tuple[int, Box]]:
        return [(1, (40, 60, 100, 120))] if index < 12 else [(1, (80, 120, 200, 240))]

    scene = Scene(30, place, size_at=lambda index: (240, 320) if index < 12 else (480, 640))
    sink, _ = run(scene, engine, detect_every=10)
    assert 12 in scene.detected
    for index, boxes in enumerate(sink.boxes):
        assert overlap(boxes[0], place(index)[0][1]) > 0.95


@pytest.mark.parametrize("place", [(-30.0, 50.0), (290.0, 50.0), (100.0, -30.0), (100.0, 210.0)])
def test_faces_at_the_edge_of_the_picture_are_followed(place: tuple[float, float]) -> None:
    """A camera that pans: everything moves by two pixels, and half of the face is outside."""
    world = picture(5, (300, 400))
    search = FlowSearch()
    box = np.array([[place[0], place[1], place[0] + 60, place[1] + 60]], np.float32)
    search.see(world[20:260, 20:340], box)
    moved, found = search.follow(np.ascontiguousarray(world[18:258, 22:342]))
    assert found[0]
    np.testing.assert_allclose(moved[0], box[0] + [-2, 2, -2, 2], atol=0.5)


def test_a_box_outside_the_picture_or_without_structure_is_lost() -> None:
    search = FlowSearch()
    image = picture(5, (240, 320))
    flat = np.full_like(image, 90)
    outside = np.array([[400, 50, 460, 110], [-90, -90, -20, -20]], np.float32)
    search.see(image, outside)
    moved, found = search.follow(image)
    assert not found.any()
    np.testing.assert_array_equal(moved, outside)
    search.see(flat, np.array([[50, 50, 110, 110]], np.float32))
    assert not search.follow(flat)[1].any()


def test_nothing_is_followed_from_picture_to_picture_of_another_size() -> None:
    search = FlowSearch()
    search.see(picture(5, (240, 320)), np.array([[50, 50, 110, 110]], np.float32))
    assert not search.follow(picture(5, (120, 160)))[1].any()


def test_a_detectors_own_region_search_may_follow_the_faces_instead(engine: Engine) -> None:
    class Near(FixedFaces):
        def __init__(self) -> None:
            super().__init__((20, 20, 90, 90), (95, 20, 150, 80))
            self.calls, self.near = 0, 0

        def detect(self, image_bgr: np.ndarray) -> Faces:
            self.calls += 1
            return super().detect(image_bgr)

        def detect_near(self, image_bgr: np.ndarray, boxes_xyxy: np.ndarray) -> Faces:
            """In another order, with a stranger among them, and losing a face once."""
            self.near += 1
            kept = boxes_xyxy[::-1] + 1 if self.near != 3 else boxes_xyxy[:1]
            boxes = np.concatenate([np.array([[0, 90, 20, 110]], np.float32), kept])
            return Faces(boxes, np.ones(len(boxes), np.float32))

    detector, sink = Near(), Recorder()
    Pipeline(CountingSource(12), detector, engine, [sink], detect_every=6, follower=NearSearch(detector)).run()
    assert detector.calls == 3, "frames 0 and 6, and the frame on which a face was lost"
    assert sink.tracks == [[1, 2]] * 12
    assert sink.boxes[2] == [(22, 22, 92, 92), (97, 22, 152, 82)]


def test_flow_makes_room_for_any_number_of_faces() -> None:
    image, search = picture(5, (240, 320)), FlowSearch()
    for count in (1, 12, 3, 0, 5):
        lefts = np.linspace(0, 250, count, dtype=np.float32)
        boxes = np.stack([lefts, lefts / 2, lefts + 60, lefts / 2 + 60], axis=1)
        search.see(image, boxes)
        moved, found = search.follow(image)
        assert found.all()
        np.testing.assert_allclose(moved, boxes, atol=0.01)
