"""The project's own detector, on any engine: letterbox, decode, suppress, search near known faces, look closer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.engine import INPUT, OUTPUT, Engine
from edge_fer.core.errors import UsageError
from edge_fer.core.faces import Faces, iou
from edge_fer.core.spec import DetectorSpec
from edge_fer.runtime.detectors.closer_look import LOOKS, CloserLook
from edge_fer.runtime.detectors.closer_look import SIDE as CLOSER_SIDE
from edge_fer.runtime.detectors.places import Decoder, at_least, suppress, together
from edge_fer.runtime.detectors.pyramid_input import Shrinker, pixels_into
from edge_fer.runtime.detectors.smallest_face import min_face_in, told

WORKING_FACE = 20.0
"""The smallest wanted face is brought to this size (root of its box's area) at the network's input: twice the smallest
that it was trained on."""
LARGEST_FACE = 220.0
"""The largest face that the network was trained on, at its input."""
LARGEST_SIDE = 4096
"""Of an engine's input. A longer picture among others is made smaller than its smallest face asks for."""
COARSE_SIDE = 224
"""Shorter side of the second, coarse look that finds larger ones; it costs a small part of the first."""
NEAR_HW = (96, 96)
"""Input size of the search around a known face."""
CLOSER_HW = (CLOSER_SIDE, CLOSER_SIDE)
WORTH_A_LOOK = 0.7
"""Part of the contract's score from which a find is looked at closer. Two closer looks hardly ever lift less than that
over it: no face gives them much more than the score itself."""
FIXED_SIZES = (NEAR_HW, CLOSER_HW)
SIZES_KEPT = 8
"""Engines for whole pictures that are kept. A camera needs two; a folder of photographs might need one after the
other, of 20 MB each."""
KNOWN_IOU = 0.5
"""Overlap with a known face from which a find is that face."""
SAMPLES = 2
"""Per side of an output pixel, what is read of a picture that is made much smaller for that search; every pixel of a
large face would cost more than the network."""
NEAR_REGION = 2.4
"""Side of that search's square, in sides of the face: the face may move by half its size between two frames."""
SMALLER = 0.75
"""Finds below this part of the smallest wanted face are dropped: what looks like a face at a dozen pixels is a
letter or a flower as often as one."""
KEEP = 0.6
"""A known face is kept down to this part of the score that a new one needs."""


class Level(Protocol):
    """An engine of one input size and what brings pictures to it."""

    @property
    def engine(self) -> Engine: ...

    def look(self, image_bgr: NDArray[np.uint8], score: float, *, sampled: bool = False) -> Faces:
        """Faces in the pixels of ``image_bgr``, uint8 (H, W, 3), from ``score`` up."""
        ...


class HostLevel:
    """An engine of one input size with its decoder and the buffers of its pictures, which the CPU resizes."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.slot = engine, engine.slots[0]
        self.spec = engine.manifest.detector
        self.decoder = Decoder(self.spec)
        self._shrink = Shrinker(self.spec.colour)
        self._sampled = np.empty((0, 0, 3), np.uint8)

    def look(self, image_bgr: NDArray[np.uint8], score: float, *, sampled: bool = False) -> Faces:
        """Faces in the pixels of ``image_bgr``, which is resized into buffers that are made once per size.

        Args:
            sampled: read only ``SAMPLES`` x ``SAMPLES`` pixels for one of the network's, where there are far more.
        """
        height, width = image_bgr.shape[:2]
        factor = min(self.spec.size_hw[0] / height, self.spec.size_hw[1] / width)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        if sampled and factor < 1 / (2 * SAMPLES):
            between = (size[0] * SAMPLES, size[1] * SAMPLES)
            if self._sampled.shape[1::-1] != between:
                self._sampled = np.empty((*between[::-1], 3), np.uint8)
            image_bgr = cv2.resize(image_bgr, between, dst=self._sampled, interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[assignment]
        found = suppress(self.places(self._shrink(image_bgr, size), score))
        if len(found) == 0:
            return found
        # Each axis by its own factor: rounding the small picture's sides makes them differ a little.
        back = np.array([width / size[0], height / size[1]], np.float32)
        landmarks = None if found.landmarks is None else found.landmarks * back
        return Faces(found.boxes_xyxy * np.tile(back, 2), found.scores, landmarks)

    def places(self, pixels: NDArray[np.uint8], score: float) -> Faces:
        """Every place that answers from ``score`` up, best first, several to a face, in a picture that fits the input
        and in its pixels: uint8 (h, w) grey or (h, w, 3) BGR."""
        pixels_into(self.slot.inputs[INPUT][0], pixels, self.spec)
        self.engine.submit(self.slot, 1)
        self.engine.wait(self.slot)
        return self.decoder.decode(self.slot.outputs[OUTPUT][0], score)


class FacePyramidDetector:
    """Boxes, scores and five landmarks from the project's own network.

    The picture is made smaller until the smallest wanted face has ``WORKING_FACE`` pixels, so a larger ``min_face_px``
    makes every frame cheaper. Engines are opened by input size, when a picture first needs them; the last
    ``SIZES_KEPT`` are kept.

    Args:
        open_at: (height, width), multiples of the largest stride -> an engine of that input size, one picture a batch.
        spec: the network's contract.
        min_face_px: the smallest face wanted, as the root of its box's area, in pixels of the frame; ``None``: a share
            of each picture's height.
        score: the smallest score that counts as a face; ``None``: the contract's.
        full_level: what searches whole frames with an engine; searching near known faces is always the CPU's.
        verifies: what the first look finds is looked at closer (:class:`CloserLook`): scores are means of three looks.
    """

    whole_frame = False
    landmarks = True

    def __init__(
        self,
        open_at: Callable[[tuple[int, int]], Engine],
        spec: DetectorSpec,
        *,
        min_face_px: int | None = 60,
        score: float | None = None,
        full_level: Callable[[Engine], Level] = HostLevel,
        verifies: bool = False,
    ) -> None:
        self._open_at, self._spec, self._full_level = open_at, spec, full_level
        self._min_face_px = min_face_px
        self._score = spec.score if score is None else score
        self._levels: dict[tuple[int, int], Level] = {}
        self._verifies, self._sharp = verifies, False
        self._closer: CloserLook | None = None
        self.name = f"{spec.name}, {told(min_face_px)}"

    def _scale_for(self, height: int, width: int) -> float:
        """By how much a picture is made smaller for the fine look."""
        return min(1.0, WORKING_FACE / min_face_in(height, self._min_face_px), LARGEST_SIDE / max(height, width))

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """Input size (height, width) for frames of a size: the scaled frame, filled up to whole strides."""
        step, scale = max(self._spec.strides), self._scale_for(height, width)
        return (
            max(step, step * math.ceil(height * scale / step - 0.2)),
            max(step, step * math.ceil(width * scale / step - 0.2)),
        )

    def coarse_size_for(self, height: int, width: int) -> tuple[int, int] | None:
        """Input size of the look that finds faces too large for :meth:`size_for`'s; ``None`` where none can be."""
        fine = self.size_for(height, width)
        if min(fine) <= 1.2 * LARGEST_FACE:
            return None
        step, factor = max(self._spec.strides), min(COARSE_SIDE / min(height, width), LARGEST_SIDE / max(height, width))
        return max(step, step * round(height * factor / step)), max(step, step * round(width * factor / step))

    def _level(self, size_hw: tuple[int, int]) -> Level:
        level = self._levels.pop(size_hw, None)
        if level is None:
            whole = [size for size in self._levels if size not in FIXED_SIZES]
            if len(whole) >= SIZES_KEPT:
                self._levels.pop(whole[0]).engine.close()
            make = HostLevel if size_hw in FIXED_SIZES else self._full_level
            level = make(self._open_at(size_hw))
        self._levels[size_hw] = level  # the last one of a dictionary is the newest
        return level

    def sharpen(self) -> None:
        """From now on known faces are looked at closer too, for the sake of their landmarks."""
        self._sharp = True

    def _open_closer(self) -> CloserLook:
        if self._closer is None:
            level = self._level(CLOSER_HW)
            assert isinstance(level, HostLevel)
            self._closer = CloserLook(level)
        return self._closer

    def warm_up(self, height: int, width: int) -> None:
        """Open the engines that full searches of frames of this size need, so that the first frame does not wait.

        Raises:
            UsageError: the smallest face is so small that the search would be larger than any engine.
        """
        if self._min_face_px and self._scale_for(height, width) < min(1.0, WORKING_FACE / self._min_face_px):
            least = math.ceil(WORKING_FACE * max(height, width) / LARGEST_SIDE)
            raise UsageError(
                f"Frames of {width}x{height} cannot be searched for faces of {self._min_face_px} px at once.",
                fix=f"--min-face {least}",
            )
        self._level(self.size_for(height, width))
        if (coarse := self.coarse_size_for(height, width)) is not None:
            self._level(coarse)
        if self._verifies:
            self._open_closer()

    def detect(self, image_bgr: NDArray[np.uint8]) -> Faces:
        return self.detect_again(image_bgr, np.empty((0, 4), np.float32))

    def detect_again(self, image_bgr: NDArray[np.uint8], known_xyxy: NDArray[np.float32]) -> Faces:
        """As :meth:`detect`, for somebody who knows some faces, float32 (k, 4): a sure find in such a place is believed
        without a closer look."""
        worth_a_look = WORTH_A_LOOK * self._spec.score
        least = min(self._score, worth_a_look) if self._verifies else self._score
        found = self._level(self.size_for(*image_bgr.shape[:2])).look(image_bgr, least)
        if (coarse := self.coarse_size_for(*image_bgr.shape[:2])) is not None:
            # What the fine look can see is its own to find: the coarse one would only add false alarms.
            large = at_least(
                self._level(coarse).look(image_bgr, least), LARGEST_FACE / 2 / self._scale_for(*image_bgr.shape[:2])
            )
            found = together(found, large)
        found = at_least(found, SMALLER * min_face_in(len(image_bgr), self._min_face_px))
        if not self._verifies or found.landmarks is None:
            return found
        believed = found.scores >= self._score
        believed &= (iou(found.boxes_xyxy, known_xyxy) >= KNOWN_IOU).any(axis=1) & (not self._sharp)
        looked = ~believed & (found.scores >= worth_a_look)
        # Who asks for less sure finds than are worth a look gets them as what they are: seen by one look of three.
        scores, landmarks = np.where(believed, found.scores, found.scores / LOOKS), found.landmarks.copy()
        if looked.any():
            closer = self._open_closer().look(
                image_bgr,
                Faces(found.boxes_xyxy[looked], found.scores[looked], found.landmarks[looked]),
                enough=self._score,
            )
            scores[looked], landmarks[looked] = closer.scores, closer.landmarks
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= self._score]
        return Faces(found.boxes_xyxy[order], scores[order].astype(np.float32), landmarks[order])

    def detect_near(self, image_bgr: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> Faces:
        """Faces near known ones, each searched for in a square around its last box; fewer where one is gone."""
        level = self._level(NEAR_HW)
        boxes, scores, landmarks = [], [], []
        for box in boxes_xyxy:
            found = self._look_near(level, image_bgr, box)
            if found is None:
                continue
            boxes.append(found.boxes_xyxy[0])
            scores.append(found.scores[0])
            if found.landmarks is not None:
                landmarks.append(found.landmarks[0])
        if not boxes:
            return Faces.empty()
        return Faces(np.stack(boxes), np.asarray(scores, np.float32), np.stack(landmarks) if landmarks else None)

    def _look_near(self, level: Level, image_bgr: NDArray[np.uint8], box: NDArray[np.float32]) -> Faces | None:
        height, width = image_bgr.shape[:2]
        side = float(np.sqrt(max(1.0, float((box[2] - box[0]) * (box[3] - box[1])))))
        centre, half = (box[:2] + box[2:]) / 2, NEAR_REGION * side / 2
        x0, y0 = max(0, int(centre[0] - half)), max(0, int(centre[1] - half))
        x1, y1 = min(width, int(centre[0] + half) + 1), min(height, int(centre[1] + half) + 1)
        if x1 - x0 < 8 or y1 - y0 < 8:
            return None
        found = level.look(image_bgr[y0:y1, x0:x1], self._score * KEEP, sampled=True)
        if len(found) == 0:
            return None
        origin = np.array([x0, y0], np.float32)
        moved = found.boxes_xyxy + np.tile(origin, 2)
        best = int((iou(box[None].astype(np.float32), moved)[0] * found.scores).argmax())
        if iou(box[None].astype(np.float32), moved[best : best + 1])[0, 0] < 0.1:
            return None
        landmarks = None if found.landmarks is None else found.landmarks[best : best + 1] + origin
        return Faces(moved[best : best + 1], found.scores[best : best + 1], landmarks)

    def close(self) -> None:
        """Give the engines back; the detector cannot be used afterwards."""
        for level in self._levels.values():
            level.engine.close()
        self._levels.clear()
