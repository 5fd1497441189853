"""A closer look: where it looks, the way back into the picture, and that the shipped network gains by it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import data

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.core.bundle import Bundle, find_bundle, open_bundle
from edge_fer.core.faces import Faces, iou
from edge_fer.core.spec import DetectorSpec
from edge_fer.runtime.detectors.base import require_eyes
from edge_fer.runtime.detectors.closer_look import FACE, SIDE, CloserLook
from edge_fer.runtime.detectors.face_pyramid import FacePyramidDetector, HostLevel

SPEC = open_bundle(find_bundle("edge-fer-face")).manifest.detector


@pytest.fixture(scope="module")
def portrait() -> NDArray[np.uint8]:
    return cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)  # type: ignore[return-value]


class Lamp:
    """Reads all five landmarks at the bright spot of a dark picture."""

    def __init__(self, spec: DetectorSpec = SPEC, *, box: tuple[float, float, float, float] | None = None) -> None:
        self.spec, self._box, self.looks = spec, box, 0

    def places(self, pixels: NDArray[np.uint8], score: float) -> Faces:
        assert pixels.shape == ((SIDE, SIDE) if self.spec.colour == "gray" else (SIDE, SIDE, 3))
        self.looks += 1
        light = pixels.astype(np.float64).reshape(SIDE, SIDE, -1).mean(axis=2)
        y, x = np.mgrid[:SIDE, :SIDE] + 0.5
        spot = np.array([(light * x).sum(), (light * y).sum()]) / max(1e-9, light.sum())
        corner = (SIDE - FACE) / 2
        box = self._box or (corner, corner, SIDE - corner, SIDE - corner)
        return Faces(np.array([box], np.float32), np.ones(1, np.float32), np.tile(spot, (1, 5, 1)).astype(np.float32))


def lamp_at(x: float, y: float, radius: float, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """BGR; ``x`` and ``y`` with pixels' centres at halves."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    light = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2))
    return np.repeat(light[..., None], 3, axis=2).astype(np.uint8)


def face_at(x: float, y: float, side: float, angle_deg: float) -> Faces:
    """A face with its eyes at an angle, and the other landmarks in its middle."""
    half = side / 2
    way = 0.2 * side * np.array([math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))])
    middle = np.array([x, y])
    points = np.array([middle - way, middle + way, middle, middle, middle], np.float32)
    return Faces(np.array([[x - half, y - half, x + half, y + half]], np.float32), np.ones(1, np.float32), points[None])


@settings(max_examples=60, deadline=None)
@given(
    side=st.floats(14, 400), angle_deg=st.floats(-80, 80), dx=st.floats(-0.3, 0.3), dy=st.floats(-0.3, 0.3),
    colour=st.sampled_from(["gray", "bgr"]),
)  # fmt: skip
def test_what_lies_in_the_picture_is_found_where_it_lies(
    side: float, angle_deg: float, dx: float, dy: float, colour: str
) -> None:
    shape = (460, 500)
    x, y = 0.5 * shape[1] + dx * side, 0.5 * shape[0] + dy * side
    picture = lamp_at(x, y, max(1.2, 0.06 * side), shape)
    first = face_at(0.5 * shape[1], 0.5 * shape[0], side, angle_deg)
    reader = Lamp(SPEC.model_copy(update={"colour": colour}))
    sharper = CloserLook(reader).look(picture, first).landmarks
    assert reader.looks == 2
    assert first.landmarks is not None
    looked = (3 * sharper - first.landmarks) / 2  # the mean of the first look and the two closer ones
    np.testing.assert_allclose(looked, np.tile((x, y), (1, 5, 1)), atol=0.15 + 0.01 * side)


def test_mirrored_left_is_right() -> None:
    class Rememberer(Lamp):
        def places(self, pixels: NDArray[np.uint8], score: float) -> Faces:
            found = super().places(pixels, score)
            named = np.arange(10, dtype=np.float32).reshape(1, 5, 2)
            if self.looks == 2:
                named = named[:, [1, 0, 2, 4, 3]] * (-1, 1) + (SIDE, 0)
            return Faces(found.boxes_xyxy, found.scores, named.astype(np.float32))

    first = face_at(60.0, 60.0, FACE, 0.0)
    picture = np.zeros((120, 120, 3), np.uint8)
    sharper = CloserLook(Rememberer()).look(picture, first).landmarks
    assert first.landmarks is not None
    own = np.arange(10, dtype=np.float32).reshape(1, 5, 2) - (SIDE / 2 - 60.0)
    np.testing.assert_allclose(sharper, (first.landmarks + 2 * own) / 3, atol=1e-4)


def test_somebody_else_and_nobody_count_as_looks_that_saw_nothing() -> None:
    class Blind(Lamp):
        def places(self, pixels: NDArray[np.uint8], score: float) -> Faces:
            return Faces.empty()

    first = face_at(60.0, 60.0, 50.0, 10.0)
    picture = lamp_at(70.0, 50.0, 4.0, (120, 120))
    for reader in (Blind(), Lamp(box=(0.0, 0.0, 30.0, 30.0))):
        np.testing.assert_array_equal(CloserLook(reader).look(picture, first).landmarks, first.landmarks)
    with pytest.raises(ValueError, match="first one"):
        CloserLook(Lamp()).look(picture, Faces(first.boxes_xyxy, first.scores))


def test_faces_over_the_edge_and_of_no_size_are_survived() -> None:
    picture = lamp_at(20.0, 20.0, 4.0, (60, 80))
    for x, y, side in ((-20.0, -20.0, 90.0), (200.0, 30.0, 20.0), (40.0, 30.0, 0.0), (40.0, 30.0, 5000.0)):
        landmarks = CloserLook(Lamp()).look(picture, face_at(x, y, side, 0.0)).landmarks
        assert np.isfinite(landmarks).all()


@pytest.mark.parametrize(("height", "turn_deg"), [(96, 0), (160, 30), (160, -30)])
def test_the_shipped_detector_sees_small_and_turned_faces_more_as_it_sees_large_upright_ones(
    portrait: NDArray[np.uint8], height: int, turn_deg: float
) -> None:
    """The portrait again, small and turned: landmarks should turn with it."""
    truth = _points(open_shipped(min_face_px=60), portrait)[0]
    factor = height / portrait.shape[0]
    small = cv2.resize(portrait, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    size = small.shape[1::-1]
    turn = cv2.getRotationMatrix2D((size[0] / 2 - 0.5, size[1] / 2 - 0.5), turn_deg, 1.0)
    picture = cv2.warpAffine(small, turn, size, borderMode=cv2.BORDER_REPLICATE)
    wanted = (truth * factor - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5
    eyes = float(np.linalg.norm(wanted[1] - wanted[0]))
    points = _points(open_shipped(min_face_px=14), np.asarray(picture, np.uint8))
    assert min(float(np.linalg.norm(p - wanted, axis=1).mean()) / eyes for p in points) < 0.1


def test_a_known_face_is_believed_and_only_a_new_one_is_looked_at_closer(
    portrait: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, looks, new = open_shipped(min_face_px=60), [], Faces.empty()
    original = CloserLook.look

    def counted(self: CloserLook, image_bgr: NDArray[np.uint8], faces: Faces, *, enough: float) -> Faces:
        # Hesitant finds elsewhere in the picture are looked at in any case.
        looks.append(int((iou(faces.boxes_xyxy, new.boxes_xyxy) > 0.5).any(axis=1).sum()) if len(new) else 1)
        return original(self, image_bgr, faces, enough=enough)

    monkeypatch.setattr(CloserLook, "look", counted)
    new = detector.detect(portrait)
    assert sum(looks) >= 1
    assert new.scores.max() > 0.61
    looks.clear()
    known = detector.detect_again(portrait, new.boxes_xyxy)
    assert sum(looks) == 0
    np.testing.assert_array_equal(known.boxes_xyxy, new.boxes_xyxy)
    assert len(detector.detect_again(portrait, new.boxes_xyxy + 300)) == len(new)
    assert sum(looks) >= 1, "somewhere else is somebody else"
    looks.clear()
    detector.sharpen()
    sharp = detector.detect_again(portrait, new.boxes_xyxy)
    assert sum(looks) >= 1
    np.testing.assert_array_equal(sharp.landmarks, new.landmarks)


def test_what_looks_like_a_face_once_only_is_none(monkeypatch: pytest.MonkeyPatch, portrait: NDArray[np.uint8]) -> None:
    """A first look that is sure everywhere, as it is of some patterns: the closer ones are not, and they decide."""
    detector = open_shipped(min_face_px=60)
    wall = np.full_like(portrait, 128)
    cv2.rectangle(wall, (100, 100), (180, 190), (90, 90, 90), -1)
    sure = Faces(
        np.array([[100, 100, 180, 190]], np.float32),
        np.array([0.9], np.float32),
        np.array([[[120, 130], [160, 130], [140, 150], [125, 170], [155, 170]]], np.float32),
    )
    monkeypatch.setattr(HostLevel, "look", lambda *_arguments, **_options: sure)
    assert len(detector.detect(wall)) == 0
    assert len(detector.detect_again(wall, sure.boxes_xyxy)) == 1, "a face that is known is not asked for its papers"


def test_only_a_network_that_wants_level_eyes_asks_for_sharp_landmarks(shipped: Bundle) -> None:
    class Detector:
        name, whole_frame, landmarks, sharp = "told", False, True, False

        def detect(self, image_bgr: NDArray[np.uint8]) -> Faces:
            return Faces.empty()

        def sharpen(self) -> None:
            self.sharp = True

    spec, detector = shipped.manifest.classifier, Detector()
    require_eyes(detector, spec)
    assert not detector.sharp
    leveller = spec.model_copy(update={"preprocess": spec.preprocess.model_copy(update={"alignment": "eyes"})})
    require_eyes(detector, leveller)
    assert detector.sharp


def open_shipped(*, min_face_px: int) -> FacePyramidDetector:
    detector = open_face_detector("edge-fer-face", min_face_px=min_face_px, backend="onnxruntime", precision="int8")
    assert isinstance(detector, FacePyramidDetector)
    return detector


def _points(detector: FacePyramidDetector, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    found = detector.detect(picture)
    assert found.landmarks is not None
    assert len(found)
    return found.landmarks
