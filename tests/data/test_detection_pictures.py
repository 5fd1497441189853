"""Composites and labels for the detector: what is pasted lies where the label says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_fer.core.errors import BadInputError
from edge_fer.data.detection.compose import ComposeSpec, Compositor, Picture
from edge_fer.data.detection.folder import list_pictures
from edge_fer.data.detection.labels import (
    MIRRORED,
    SURE,
    UNSURE,
    FaceLabels,
    Teacher,
    label_all,
    padded,
    shows_a_face,
    typical_box,
)
from edge_fer.data.detection.reviewed import reviewed

POINTS = np.array([[60, 70], [130, 74], [94, 105], [66, 140], [124, 138]], np.float32)
BOX = np.array([[40, 30, 152, 170]], np.float32)
PLAIN = ComposeSpec(
    size=256,
    face_px=(80, 120),
    small_crops_share=0,
    faces_probability=(0.0, 1.0),
    wild_rotation=1.0,
    occlude=0,
    distract=0,
    plain_background=1.0,
    dark=0,
    blur=0,
    noise=0,
    compress=0,
)


def nothing() -> FaceLabels:
    return FaceLabels(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))


def dotted_face(point: int) -> Picture:
    """A grey square with one white spot, at one of the five landmarks."""
    crop = np.full((192, 192), 90, np.uint8)
    cv2.circle(crop, tuple(int(v) for v in POINTS[point]), 9, 255, -1)
    return Picture(crop, FaceLabels(BOX, POINTS[None], np.ones(1, np.float32)))


def compositor(picture: Picture, spec: ComposeSpec = PLAIN) -> Compositor:
    return Compositor([Picture(np.full((300, 400), 90, np.uint8), nothing())], [picture], [], spec)


@given(point=st.integers(0, 4), seed=st.integers(0, 10_000))
@settings(max_examples=60)
def test_turned_mirrored_and_scaled_faces_keep_their_landmarks(point: int, seed: int) -> None:
    composite = compositor(dotted_face(point)).draw(np.random.default_rng(seed))
    if len(composite.ignore) == 0 or composite.ignore[0]:
        return
    # The spot is brighter than what surrounds it, whatever light was chosen; a mirrored face names its points anew.
    names = (point, (1, 0, 2, 4, 3)[point])
    spots = [composite.landmarks[0, name] for name in names]
    if not all(18 <= value < 238 for spot in spots for value in spot):
        return
    contrasts, brightest = [], 0.0
    for x, y in spots:
        window = composite.gray[int(y) - 17 : int(y) + 18, int(x) - 17 : int(x) + 18].astype(float)
        ring = np.concatenate([window[0], window[-1], window[:, 0], window[:, -1]])
        brightest = max(brightest, float(np.median(ring)))
        contrasts.append(window[15:20, 15:20].mean() - np.median(ring))
    # A face that was pasted in glaring light leaves no room above it.
    assert max(contrasts) > min(25, 0.8 * (255 - brightest))


@pytest.mark.parametrize("degrees", [-30.0, 0.0, 30.0])
@pytest.mark.parametrize("cover", [False, True])
def test_test_faces_have_the_angle_that_was_asked_for(degrees: float, cover: bool) -> None:
    for seed in range(10):
        composite = compositor(dotted_face(2)).draw_one(np.random.default_rng(seed), degrees=degrees, cover_mouth=cover)
        assert composite is not None
        eyes = composite.landmarks[0, 1] - composite.landmarks[0, 0]
        upright = POINTS[1] - POINTS[0]
        turned = np.rad2deg(np.arctan2(eyes[1], eyes[0]) - np.arctan2(upright[1], upright[0]))
        assert turned == pytest.approx(degrees, abs=0.1)


def test_the_conditions_share_scene_face_and_place() -> None:
    maker = compositor(dotted_face(0))
    plain = maker.draw_one(np.random.default_rng(3), degrees=0.0, cover_mouth=False)
    covered = maker.draw_one(np.random.default_rng(3), degrees=0.0, cover_mouth=True)
    assert plain is not None
    assert covered is not None
    np.testing.assert_array_equal(plain.boxes_xyxy, covered.boxes_xyxy)
    box = plain.boxes_xyxy[0].astype(int)
    assert (plain.gray != covered.gray)[box[1] : box[3], box[0] : box[2]].any()


def test_the_same_number_draws_the_same_picture() -> None:
    spec = ComposeSpec(size=128, marks=0.5)
    rng = np.random.default_rng(0)
    scene = Picture(rng.integers(0, 255, (200, 300), dtype=np.uint8), nothing())
    maker = Compositor([scene], [dotted_face(1)], [dotted_face(2)], spec)
    for number in range(20):
        first, second = (maker.draw(np.random.default_rng((7, number))) for _ in range(2))
        np.testing.assert_array_equal(first.gray, second.gray)
        np.testing.assert_array_equal(first.boxes_xyxy, second.boxes_xyxy)
        assert first.gray.shape == (128, 128)


def test_headgear_hides_the_eyes_of_most_and_nobodys_mouth() -> None:
    bare = PLAIN.model_copy(update={"wild_rotation": 0.0, "rotate_deg": 5.0, "face_px": (100, 101)})
    dressed = bare.model_copy(update={"headgear": 1.0})
    assert _spots_seen(0, bare) == 1.0
    assert 0.2 < _spots_seen(0, dressed) < 0.6, "a helmet alone leaves the eyes"
    assert _spots_seen(3, dressed) == 1.0


def _spots_seen(point: int, spec: ComposeSpec) -> float:
    """Share of faces on which the white spot at a landmark, or at its twin in a mirrored face, is brighter than what
    lies beside it."""
    maker, seen = compositor(dotted_face(point), spec), []
    for seed in range(80):
        drawn = maker.draw(np.random.default_rng(seed))
        places = np.round(drawn.landmarks[:, (point, MIRRORED[point])]).astype(int).reshape(-1, 2)
        if len(places) and places.min() >= 20 and places.max() < 236:
            beside = [np.median([drawn.gray[y, [x - 11, x + 11]], drawn.gray[[y - 11, y + 11], x]]) for x, y in places]
            seen.append(bool((drawn.gray[places[:, 1], places[:, 0]] > np.array(beside) + 25).any()))
    return float(np.mean(seen))


def test_finds_that_were_seen_to_be_no_people_are_background_or_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = np.array([[20, 20, 80, 90], [120, 30, 180, 100]], np.float32)
    labels = FaceLabels(boxes, np.zeros((2, 5, 2), np.float32), np.array([SURE + 0.1, UNSURE + 0.1], np.float32))
    digest = {name: hashlib.sha256(name.encode()).hexdigest()[:12] for name in ("dog.jpg", "doll.jpg")}
    monkeypatch.setattr("edge_fer.data.detection.reviewed.ANIMALS", frozenset({digest["dog.jpg"]}))
    monkeypatch.setattr("edge_fer.data.detection.reviewed.LIKENESSES", frozenset({digest["doll.jpg"]}))
    np.testing.assert_array_equal(reviewed("dog.jpg", labels).boxes_xyxy, boxes[1:])
    doubted = reviewed("doll.jpg", labels).scores
    assert ((doubted >= UNSURE) & (doubted < SURE)).all()
    assert reviewed("man.jpg", labels) is labels


def test_what_the_teacher_doubts_is_ignored_and_what_it_denies_is_background() -> None:
    boxes = np.array([[20, 20, 80, 90], [120, 30, 180, 100], [220, 40, 280, 110]], np.float32)
    scores = np.array([SURE + 0.1, (SURE + UNSURE) / 2, UNSURE - 0.1], np.float32)
    labels = FaceLabels(boxes, np.zeros((3, 5, 2), np.float32), scores)
    scene = Picture(np.random.default_rng(1).integers(0, 255, (150, 300), dtype=np.uint8), labels)
    spec = PLAIN.model_copy(update={"plain_background": 0.0, "faces_probability": (1.0,)})
    seen = set()
    for seed in range(60):
        composite = Compositor([scene], [dotted_face(0)], [], spec).draw(np.random.default_rng(seed))
        assert len(composite.ignore) <= 2
        seen |= {bool(flag) for flag in composite.ignore}
    assert seen == {False, True}


def test_labels_are_kept_for_the_same_pictures_and_the_same_teacher(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((20, 20, 3), i, np.uint8))
    asked = []

    def label(teacher: object, image: np.ndarray) -> FaceLabels:
        asked.append(int(image[0, 0, 0]))
        n = len(asked) % 2
        return FaceLabels(np.ones((n, 4), np.float32), np.ones((n, 5, 2), np.float32), np.ones(n, np.float32))

    pictures = list_pictures(folder)
    teacher = SimpleNamespace(sha256="a")
    first = label_all(teacher, pictures, label, tmp_path / "l.npz")  # type: ignore[arg-type]
    again = label_all(teacher, pictures, label, tmp_path / "l.npz")  # type: ignore[arg-type]
    assert asked == [0, 1, 2]
    assert [len(item) for item in again] == [len(item) for item in first] == [1, 0, 1]
    label_all(SimpleNamespace(sha256="b"), pictures, label, tmp_path / "l.npz")  # type: ignore[arg-type]
    assert len(asked) == 6


def test_the_split_depends_on_names_alone(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}.jpg").touch()
    rest, held = list_pictures(tmp_path).split(0.1, "salt")
    assert 8 <= len(held) <= 35
    (tmp_path / "another.jpg").touch()
    rest_now, held_now = list_pictures(tmp_path).split(0.1, "salt")
    assert set(held.ids) <= set(held_now.ids)
    assert set(rest.ids) <= set(rest_now.ids)


def test_an_empty_folder_and_a_wrong_teacher_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no picture"):
        list_pictures(tmp_path)
    with pytest.raises(BadInputError, match="no teacher model"):
        Teacher(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(BadInputError, match="not a YuNet model"):
        Teacher(tmp_path / "bad.onnx")


def test_a_padded_crop_maps_back() -> None:
    crop = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    wide, factor, border = padded(crop, 160)
    assert wide.shape == (320, 320, 3)
    assert (factor, border) == (160 / 48, 80)


def find(box: list[float], score: float) -> FaceLabels:
    return FaceLabels(np.array([box], np.float32), POINTS[None], np.array([score], np.float32))


TYPICAL = np.array([4, 0, 44, 48], np.float32)


def test_a_crop_of_a_data_set_shows_a_face_whatever_the_teacher_thinks() -> None:
    sure = find([10, 10, 30, 30], SURE)
    assert shows_a_face(sure, TYPICAL) is sure
    hesitant = shows_a_face(find([6, 2, 42, 46], 0.3), TYPICAL)
    np.testing.assert_array_equal(hesitant.boxes_xyxy, [[6, 2, 42, 46]])
    np.testing.assert_array_equal(hesitant.landmarks, POINTS[None])
    for elsewhere in (find([0, 0, 12, 12], 0.5), nothing()):
        taken = shows_a_face(elsewhere, TYPICAL)
        np.testing.assert_array_equal(taken.boxes_xyxy, TYPICAL[None])
        assert np.isnan(taken.landmarks).all()
        assert taken.scores.tolist() == [SURE]


def test_a_face_usually_lies_where_the_teacher_is_sure() -> None:
    found = [find([2, 0, 40, 44], 0.9), find([4, 2, 42, 46], 0.8), find([6, 4, 44, 48], 0.9), find([0, 0, 9, 9], 0.5)]
    np.testing.assert_array_equal(typical_box([*found, nothing()]), [4, 2, 42, 46])
    with pytest.raises(BadInputError, match="no face in the crops"):
        typical_box([nothing()])


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40)
def test_a_face_without_landmarks_is_pasted_where_its_box_says(seed: int) -> None:
    unknown = Picture(
        dotted_face(2).gray, FaceLabels(BOX, np.full((1, 5, 2), np.nan, np.float32), np.ones(1, np.float32))
    )
    hard = PLAIN.model_copy(update={"occlude": 1.0, "headgear": 1.0})
    composite = compositor(unknown, hard).draw(np.random.default_rng(seed))
    assert np.isnan(composite.landmarks).all()
    assert np.isfinite(composite.boxes_xyxy).all()
