"""A network that was trained on faces with level eyes gets them level in the loop, with the pixels of its training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import pytest
from obedient_parts import CountingSource, FaultyEngine, Recorder, picture

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.core.engine import INPUT, Engine, Slot
from edge_fer.core.errors import UsageError
from edge_fer.core.faces import Faces, eye_angles_deg
from edge_fer.core.spec import PreprocessSpec
from edge_fer.data.cut_face import Cut, FaceCutter
from edge_fer.data.prepare_recipe import CropSpec, PrepareRecipe
from edge_fer.runtime.detection_schedule import DetectionSchedule
from edge_fer.runtime.detectors.haar import HaarDetector
from edge_fer.runtime.face_finder import FaceFinder
from edge_fer.runtime.frames import Frame
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.preprocess import FaceCropper, face_pixels, normalise_into
from edge_fer.runtime.region_search import FlowSearch, NearSearch
from edge_fer.runtime.timing import Reservoir
from edge_fer.runtime.tracking import Tracker

BOX = np.array([40, 30, 100, 90], np.float32)


def face(angle_deg: float, box: np.ndarray = BOX, apart: float = 24.0) -> Faces:
    """One face whose eyes are turned clockwise by an angle."""
    centre, half = (box[:2] + box[2:]) / 2, apart / 2
    way = np.array([np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))])
    points = np.stack([centre - half * way, centre + half * way, centre, centre, centre])
    return Faces(box[None], np.ones(1, np.float32), points[None].astype(np.float32))


class TurningFace:
    """A detector whose face turns by a step whenever it is looked for."""

    name, whole_frame, landmarks = "turning", False, True

    def __init__(self, step_deg: float) -> None:
        self._step, self.angle = step_deg, 0.0

    def detect(self, image_bgr: np.ndarray) -> Faces:
        self.angle += self._step
        return face(self.angle)


class TurningFaceNear(TurningFace):
    def detect_near(self, image_bgr: np.ndarray, boxes_xyxy: np.ndarray) -> Faces:
        return self.detect(image_bgr)


def levelled(engine: Engine, see: Callable[[np.ndarray], None]) -> Engine:
    """The same engine under a contract that wants level eyes; ``see`` is given each input."""
    model = engine.manifest.classifier
    wanted = model.model_copy(update={"preprocess": model.preprocess.model_copy(update={"alignment": "eyes"})})

    class Seeing(FaultyEngine):
        def submit(self, slot: Slot, n: int) -> None:
            see(slot.inputs[INPUT][:n].copy())
            super().submit(slot, n)

    seeing = Seeing(engine, lambda _call: None)
    seeing.manifest = engine.manifest.model_copy(update={"model": wanted})
    return seeing  # type: ignore[return-value]


@pytest.mark.parametrize(("detector", "every"), [(TurningFace(7.0), 1), (TurningFaceNear(7.0), 4)])
def test_every_face_is_cut_at_the_angle_at_which_it_was_last_seen(
    engine: Engine, detector: TurningFace, every: int
) -> None:
    """Seen by full detection, and by the detector's own search near the last box in between."""
    seen: list[np.ndarray] = []
    level = levelled(engine, seen.append)
    source = CountingSource(6)
    image = copy.deepcopy(source._image)
    follower = NearSearch(detector) if isinstance(detector, TurningFaceNear) else None
    Pipeline(source, detector, level, [Recorder()], detect_every=every, follower=follower).run()
    assert len(seen) == 6
    cropper, want = FaceCropper(level.manifest.classifier.preprocess), np.empty_like(seen[0][0])
    # The fifth frame of four is followed and then searched: detection pulls the angle half the way, as it does the box.
    angles = (7, 14, 21, 28, 38.5, 49) if every > 1 else (7, 14, 21, 28, 35, 42)
    for given, angle in zip(seen, angles, strict=True):
        cropper.crop_into(want, image, BOX, angle)
        assert np.abs(given[0] - want).mean() < 0.01


def test_between_detections_the_angle_turns_with_the_picture() -> None:
    """A head that tilts to 33 degrees and back, searched for its eyes on every ninth frame only."""
    image, box = picture(3, (200, 240)), np.array([80, 60, 160, 140], np.float32)

    class Eyes:
        name, whole_frame, landmarks, looks, now = "eyes", False, True, 0, 0.0

        def detect(self, image_bgr: np.ndarray) -> Faces:
            self.looks += 1
            return face(self.now, box)

    detector = Eyes()
    finder = FaceFinder(
        detector, Tracker(2), FlowSearch(turns=True), DetectionSchedule(9, live=False),
        continuous=True, detect_ms=Reservoir(), follow_ms=Reservoir(),
    )  # fmt: skip
    off = []
    for index in range(36):
        detector.now = 33 * np.sin(index / 36 * np.pi)
        turn = cv2.getRotationMatrix2D((120, 100), -detector.now, 1.0)
        frame = Frame(np.asarray(cv2.warpAffine(image, turn, (240, 200), borderMode=cv2.BORDER_REFLECT), np.uint8))
        frame.index, frame.time_ms = index, 1000 * index / 30
        (track,) = finder.find(frame)
        off.append(track.angle_deg - detector.now)
    assert detector.looks == 4
    assert np.abs(off).max() < 2, "an angle that stayed would be off by up to 24 degrees"


def test_the_loop_cuts_the_pixels_that_a_prepared_dataset_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same photograph, face and angle: through ``data prepare``'s cutter, and through the loop's cropper."""
    portrait = pytest.importorskip("skimage.data").astronaut()
    turn = cv2.getRotationMatrix2D((224, 115), 18, 1.0)
    gray = cv2.warpAffine(cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY), turn, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    size, margin = 64, 0.2
    # Any engine will do, so none is timed against the others.
    opened = partial(open_face_detector, backend="onnxruntime", precision="fp32")
    monkeypatch.setattr("edge_fer.data.cut_face.open_face_detector", opened)
    recipe = PrepareRecipe.model_validate(
        {
            "sources": [{"name": "any", "path": "any"}],
            "crop": CropSpec(size=size, margin=margin, align="eyes"),
        }
    )

    class Given:
        id, box = "turned", None

        def read(self) -> np.ndarray:
            return np.asarray(gray, np.uint8)

    cut = FaceCutter(recipe).cut(Given(), "detect")  # type: ignore[arg-type]
    assert isinstance(cut, Cut)
    assert cut.found is not None
    assert cut.method == "eyes"
    assert abs(cut.angle_deg) > 8
    spec = PreprocessSpec(
        size_hw=(size, size), colour="gray", mean=(0.5,), std=(0.25,), margin=margin, alignment="eyes"
    )
    trained, looped = np.empty((1, size, size), np.float32), np.empty((1, size, size), np.float32)
    normalise_into(trained, face_pixels(cut.image, spec), spec)
    FaceCropper(spec).crop_into(looped, np.repeat(gray[..., None], 3, axis=2), cut.found.box_xyxy, cut.angle_deg)
    np.testing.assert_array_equal(looped, trained)


def test_a_detector_without_eyes_is_refused_before_the_loop_starts(engine: Engine) -> None:
    level = levelled(engine, lambda _input: None)
    with pytest.raises(UsageError, match=r"wants faces with level eyes, and the detector haar.* tells no eyes"):
        Pipeline(CountingSource(3), HaarDetector(min_face_px=60), level, [])


def test_angles_are_clockwise_and_a_profile_has_none() -> None:
    for angle in (-150.0, -30.0, 0.0, 12.5, 90.0):
        assert eye_angles_deg(face(angle))[0] == pytest.approx(angle, abs=1e-3)
    assert eye_angles_deg(face(40.0, apart=0.14 * 60))[0] == 0, "eyes nearer than they are in any view but a profile"
    assert eye_angles_deg(Faces(BOX[None], np.ones(1, np.float32)))[0] == 0
    assert eye_angles_deg(Faces.empty()).shape == (0,)


def test_a_tracks_angle_settles_the_short_way_round() -> None:
    tracker = Tracker(2)
    (track,) = tracker.associate(face(170.0))
    assert track.angle_deg == pytest.approx(170, abs=1e-3)
    tracker.associate(face(-170.0), settle=0.5)
    assert track.angle_deg % 360 == pytest.approx(180, abs=1e-3)
