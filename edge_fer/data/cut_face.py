"""From a labelled picture to a face of fixed size: found, turned until the eyes are level, cut with its margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.core.faces import EYES_APART, Faces, iou, most_prominent
from edge_fer.data.prepare_recipe import PrepareRecipe
from edge_fer.data.quality import UNREADABLE, find_anomaly
from edge_fer.data.readers.base import FacesBy, Record, box_pixels
from edge_fer.data.samples import Image
from edge_fer.runtime.detectors.base import FaceDetector
from edge_fer.runtime.preprocess import levelling, resize, square_around, to_bgr

NO_FACE, ANOTHER_FACE, PROFILE = "no face", "no face at the box", "eyes not apart"
CANVASES_PX = (320, 640)
"""Pictures are fitted into squares of these sizes, the second only when the first shows no face: every picture then has
one of two sizes, for which an engine is built once."""
BORDER = 0.25
"""Share of the picture's longer side that is added around it: detectors expect surroundings, close-ups have none."""
SMALLEST_PX = 20
"""Smallest face that is looked for, in the canvas."""
SAME_FACE = 0.2
"""A found face is the one that the dataset marked when their boxes overlap (IoU) this much."""
CLOSE_UP, LOOKS = 2.4, 2
"""Side of a closer look's square, in sides of the face, and how many there are. On a portrait turned by 30 degrees the
first look is 6 to 15 degrees wrong, the third 2 to 3."""
SAME_LOOK = 0.4
"""A closer look's face is the last one's when their boxes overlap this much."""
Method = Literal["whole", "given", "upright", "eyes"]


@dataclass(frozen=True)
class Found:
    """A face in its picture's pixels; ``faces`` is how many there were to choose from."""

    box_xyxy: NDArray[np.float32]
    landmarks: NDArray[np.float32] | None
    score: float
    faces: int

    @property
    def angle_deg(self) -> float:
        """How far the line through the eyes is off level, clockwise; 0 without landmarks."""
        if self.landmarks is None:
            return 0.0
        right = self.landmarks[1] - self.landmarks[0]
        return float(np.degrees(np.arctan2(right[1], right[0])))


@dataclass(frozen=True)
class Cut:
    """A cut-out face, uint8 (size, size) grey or (size, size, 3) BGR, and how it came about."""

    image: Image
    method: Method
    found: Found | None
    angle_deg: float


@dataclass(frozen=True)
class Refusal:
    """Why a picture gives no face: a kind to count by, and a sentence; ``image`` is what a person would like to see."""

    kind: str
    detail: str
    image: Image | None


class FaceSeeker:
    """The largest face of a picture, or the one that overlaps a given box."""

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector

    def find(self, image: Image, box_xyxy: NDArray[np.float32] | None) -> Found | None:
        """``None`` when there is none, or none at the given box."""
        bgr = to_bgr(image)
        for side in CANVASES_PX:
            faces = self._look(bgr, side)
            best = _choose(faces, box_xyxy)
            if best is not None:
                found = Found(*_numbered(faces, best), len(faces))
                for _ in range(LOOKS):
                    found = self._closer(bgr, found)
                return found
        return None

    def _closer(self, bgr: Image, last: Found) -> Found:
        """Look again at the face's surroundings alone, turned as far as its eyes were off level: larger and upright, it
        is seen more exactly. Where that look finds no face there, the last one stands.

        The box then is the upright face's, turned back about its centre: its sides are not the turned face's.
        """
        middle = (last.box_xyxy[:2] + last.box_xyxy[2:]) / 2
        side = CANVASES_PX[0]
        factor = side / (CLOSE_UP * float((last.box_xyxy[2:] - last.box_xyxy[:2]).max()))
        turn = np.asarray(
            cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), last.angle_deg, factor), dtype=np.float64
        )
        turn[:, 2] += side / 2 - middle
        source, scaled = bgr, turn.copy()
        if factor < 0.5:
            # A turn that also shrinks would skip pixels: shrink by area first.
            height, width = (max(1, round(length * 2 * factor)) for length in bgr.shape[:2])
            source = resize(bgr, (height, width), "area")
            scaled[:, :2] *= (bgr.shape[1] / width, bgr.shape[0] / height)
        view = cv2.warpAffine(source, scaled, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        faces = self._detector.detect(np.asarray(view, dtype=np.uint8))
        half = (last.box_xyxy[2:] - last.box_xyxy[:2]) * factor / 2
        expected = np.concatenate([side / 2 - half, side / 2 + half]).astype(np.float32)
        best = _choose(faces, expected, SAME_LOOK)
        if best is None:
            return last
        box, landmarks, score = _numbered(faces, best)
        back = cv2.invertAffineTransform(turn)
        centre = back[:, :2] @ ((box[:2] + box[2:]) / 2) + back[:, 2]
        half = (box[2:] - box[:2]) / 2 / factor
        if landmarks is not None:
            landmarks = (landmarks @ back[:, :2].T + back[:, 2]).astype(np.float32)
        return Found(np.concatenate([centre - half, centre + half]).astype(np.float32), landmarks, score, last.faces)

    def _look(self, bgr: Image, side: int) -> Faces:
        height, width = bgr.shape[:2]
        factor = side / (max(height, width) * (1 + 2 * BORDER))
        small_h, small_w = max(1, round(height * factor)), max(1, round(width * factor))
        small = resize(bgr, (small_h, small_w), "area")
        top, left = (side - small_h) // 2, (side - small_w) // 2
        edges = (top, side - small_h - top, left, side - small_w - left)
        canvas = cv2.copyMakeBorder(small, *edges, cv2.BORDER_REPLICATE)
        found = self._detector.detect(np.asarray(canvas, dtype=np.uint8))
        if len(found) == 0:
            return found
        back = np.array([width / small_w, height / small_h], np.float32)
        origin = np.array([left, top], np.float32)
        boxes = (found.boxes_xyxy - np.tile(origin, 2)) * np.tile(back, 2)
        landmarks = None if found.landmarks is None else (found.landmarks - origin) * back
        return Faces(boxes, found.scores, landmarks)


def _numbered(faces: Faces, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, float]:
    """(box, landmarks, score) of one face."""
    landmarks = None if faces.landmarks is None else faces.landmarks[number]
    return faces.boxes_xyxy[number], landmarks, float(faces.scores[number])


def _choose(faces: Faces, box_xyxy: NDArray[np.float32] | None, least: float = SAME_FACE) -> int | None:
    if box_xyxy is None or len(faces) == 0:
        return most_prominent(faces)
    overlap = iou(box_xyxy[None], faces.boxes_xyxy)[0]
    best = int(overlap.argmax())
    return best if overlap[best] >= least else None


class FaceCutter:
    """Cuts faces as a recipe says. One belongs to one process; the detector is opened when the first picture needs it.

    Raises (by :meth:`cut`):
        UsageError: eyes are to be levelled, but the detector tells no landmarks.
        EdgeFerError: what opening the detector raises.
    """

    def __init__(self, recipe: PrepareRecipe) -> None:
        self._recipe = recipe
        self._seeker: FaceSeeker | None = None

    def open(self) -> FaceSeeker:
        """Open the detector, building its engine where that has not been done on this machine."""
        if self._seeker is None:
            detect = self._recipe.detect
            detector = open_face_detector(detect.detector, min_face_px=SMALLEST_PX, score=detect.score)
            self._seeker = FaceSeeker(detector)
        return self._seeker

    def cut(self, record: Record, faces: FacesBy) -> Cut | Refusal:
        """One picture's face, or why there is none."""
        try:
            image = record.read()
        except BadInputError as error:
            return Refusal(UNREADABLE, str(error), None)
        made = self._made(image, record, faces)
        if isinstance(made, Refusal):
            return made
        if made.found is None:
            side = min(image.shape[:2])
        else:
            left, top, right, bottom = made.found.box_xyxy
            side = min(right - left, bottom - top)
        anomaly = find_anomaly(made.image, float(side), self._recipe.quality)
        return made if anomaly is None else Refusal(*anomaly, made.image)

    def _made(self, image: Image, record: Record, faces: FacesBy) -> Cut | Refusal:
        given = None if record.box is None else np.array(box_pixels(record.box, image), np.float32)
        if faces == "whole":
            return self._whole(image)
        if faces == "given":
            if given is None:
                raise UsageError(
                    f"{record.id} has no box, but its source says faces: given.", fix="Say detect, or whole."
                )
            found = Found(given, None, 1.0, 1)
            return Cut(self._upright(image, given), "given", found, 0.0)
        seen = self.open().find(image, given)
        if seen is None:
            if self._recipe.detect.missing == "whole":
                return self._whole(image)
            if given is not None:
                return Refusal(ANOTHER_FACE, "", image)
            return Refusal(NO_FACE, "", image)
        if self._recipe.crop.align == "none":
            return Cut(self._upright(image, seen.box_xyxy), "upright", seen, 0.0)
        if seen.landmarks is None:
            raise UsageError(
                f"The detector {self._recipe.detect.detector} tells no eyes to level faces by.",
                fix="crop: {align: none}, or another detector.",
            )
        right = seen.landmarks[1] - seen.landmarks[0]
        distance, width = float(np.hypot(*right)), float(seen.box_xyxy[2] - seen.box_xyxy[0])
        if distance < EYES_APART * width:
            return Refusal(PROFILE, f"eyes {distance:.0f} px apart in a face of {width:.0f}", image)
        return Cut(self._levelled(image, seen.box_xyxy, seen.angle_deg), "eyes", seen, seen.angle_deg)

    def _whole(self, image: Image) -> Cut:
        size = self._recipe.crop.size
        return Cut(resize(image, (size, size), "area"), "whole", None, 0.0)

    def _levelled(self, image: Image, box_xyxy: NDArray[np.float32], angle_deg: float) -> Image:
        """The square around a box with the margin, turned about its centre by ``-angle_deg``; the border repeats where
        it leaves the picture. These are the pixels of the live loop's crop.

        It is turned at the picture's own scale and made smaller afterwards by area, so that nothing aliases.
        """
        turn, side = levelling(box_xyxy, self._recipe.crop.margin, angle_deg)
        turned = cv2.warpAffine(image, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        size = self._recipe.crop.size
        return resize(np.asarray(turned, dtype=np.uint8), (size, size), "area")

    def _upright(self, image: Image, box_xyxy: NDArray[np.float32]) -> Image:
        """The square around a box with the margin. Where it leaves the picture it is moved in, and made smaller if it
        must be: a dataset's boxes often reach from edge to edge, and a repeated border would be a third of the face."""
        height, width = image.shape[:2]
        left, top, wanted = square_around(box_xyxy, self._recipe.crop.margin)
        side = min(wanted, height, width)
        left = int(np.clip(left + (wanted - side) // 2, 0, width - side))
        top = int(np.clip(top + (wanted - side) // 2, 0, height - side))
        size = self._recipe.crop.size
        return resize(image[top : top + side, left : left + side], (size, size), "area")
