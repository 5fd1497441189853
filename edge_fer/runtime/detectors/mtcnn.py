"""MTCNN: three networks, each looking more closely at what the one before has left.

Source: Zhang, Zhang, Li & Qiao, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks",
IEEE Signal Processing Letters 23 (10), 2016. Thresholds, rounding and the order of steps are those of facenet-pytorch,
whose weights these are; what differs is said where it does (docs/decisions/0027).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.engine import INPUT, OUTPUT, Engine
from edge_fer.core.faces import Faces
from edge_fer.core.spec import StageSpec
from edge_fer.runtime.detectors.mtcnn_pyramid import Pyramid, levels_of, logit
from edge_fer.runtime.detectors.smallest_face import min_face_in, told

PROPOSE, REFINE, OUTLINE = 0.6, 0.7, 0.7
"""The smallest scores that pass the three networks."""
IN_LEVEL, ACROSS_LEVELS, REFINED, SMALLER = 0.5, 0.7, 0.7, 0.7
"""Overlaps above which the lower score goes: IoU, and of the last network's boxes the share of the smaller one."""
REFINE_PX, OUTLINE_PX = 24, 48
FIELDS = 5
"""Of a proposal and a refined box: the score's logit, and how far each side moves, in sides of the box. The last
network adds ten numbers: x of five landmarks, then y, in sides of the box."""
BATCH = 32
"""Windows that are looked at in one run; more are looked at in several."""
PIXELS_READ = 4
"""Per side of a network's pixel at least so many of the picture are averaged. Windows with twice as many and more are
cut from the picture halved, or halved again: each pixel of fifty overlapping windows of a face that fills the picture
costs more than the networks."""
SIZES_KEPT = 4
SHIFT = 0.3
"""Around a known face, windows begin at its box and this part of its side to the left, right, above and below."""

REFINE_STAGE = StageSpec(name="mtcnn-refine", size_hw=(REFINE_PX, REFINE_PX), rows=FIELDS)
OUTLINE_STAGE = StageSpec(name="mtcnn-outline", size_hw=(OUTLINE_PX, OUTLINE_PX), rows=FIELDS + 10)


def proposal_stage(pyramid: Pyramid) -> StageSpec:
    """The first network's contract for pictures of one size."""
    return StageSpec(name="mtcnn-propose", size_hw=pyramid.size_hw, rows=FIELDS, grid_hw=pyramid.grid_hw)


class MtcnnDetector:
    """Boxes, scores and five landmarks. The first network has an engine for each size of picture, of which the last
    ``SIZES_KEPT`` are kept; the others have one.

    Args:
        open_stage: a stage's contract and the most windows in a run -> its engine.
        min_face_px: the smallest face wanted, in pixels of the frame; half of it is four times the work for
            the first network. ``None``: a share of each picture's height.
        score: the smallest score that counts as a face, 0..1; ``None``: 0.7.
    """

    whole_frame = False
    landmarks = True

    def __init__(
        self,
        open_stage: Callable[[StageSpec, int], Engine],
        *,
        min_face_px: int | None = 60,
        score: float | None = None,
    ) -> None:
        self._open_stage, self._min_face_px = open_stage, min_face_px
        self._score = OUTLINE if score is None else score
        self._searches: dict[tuple[int, int], _Search] = {}
        self._looks: tuple[_Look, _Look] | None = None
        self._halvings = _Halvings()
        self.name = f"mtcnn, {told(min_face_px)}"

    def warm_up(self, height: int, width: int) -> None:
        """Open the engines that frames of this size need, so that the first frame does not wait for them."""
        self._search_for(height, width)
        for look in self._open_looks():
            look.warm_up()

    def detect(self, image_bgr: NDArray[np.uint8]) -> Faces:
        search = self._search_for(*image_bgr.shape[:2])
        return Faces.empty() if search is None else self._closer(image_bgr, search.search(image_bgr))

    def detect_near(self, image_bgr: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> Faces:
        """Faces near known ones, without the first network; fewer where one is gone."""
        if len(boxes_xyxy) == 0:
            return Faces.empty()
        squares = squared(boxes_xyxy)
        side = squares[:, 2:3] - squares[:, :1]
        moved = [squares + SHIFT * side * np.array([x, y, x, y], np.float32) for x, y in _AROUND]
        return self._closer(image_bgr, np.concatenate(moved))

    def close(self) -> None:
        """Give the engines back; the detector cannot be used afterwards."""
        for part in (*self._searches.values(), *(self._looks or ())):
            part.engine.close()
        self._searches, self._looks = {}, None

    def _search_for(self, height: int, width: int) -> _Search | None:
        """The first network for pictures of a size; ``None`` where they are smaller than the smallest face."""
        smallest = min_face_in(height, self._min_face_px)
        if not levels_of(height, width, smallest):
            return None
        search = self._searches.pop((height, width), None)
        if search is None:
            while len(self._searches) >= SIZES_KEPT:
                self._searches.pop(next(iter(self._searches))).engine.close()
            pyramid = Pyramid(height, width, smallest)
            search = _Search(self._open_stage(proposal_stage(pyramid), 1), pyramid)
        self._searches[height, width] = search  # the last one of a dictionary is the newest
        return search

    def _open_looks(self) -> tuple[_Look, _Look]:
        if self._looks is None:
            self._looks = (
                _Look(self._open_stage(REFINE_STAGE, BATCH), REFINE_PX),
                _Look(self._open_stage(OUTLINE_STAGE, BATCH), OUTLINE_PX),
            )
        return self._looks

    def _closer(self, image_bgr: NDArray[np.uint8], squares: NDArray[np.float32]) -> Faces:
        """What the second and the third network make of squares (n, 4)."""
        refine, outline = self._open_looks()
        self._halvings.begin(image_bgr)
        windows, raw = refine.look(self._halvings, squares)
        passed = raw[:, 0] > logit(REFINE)
        windows, raw = windows[passed], raw[passed]
        kept = _without_overlaps(windows, raw[:, 0], REFINED)
        windows, raw = outline.look(self._halvings, squared(_calibrated(windows[kept], raw[kept, 1:], 1)))
        self._halvings.end()
        passed = raw[:, 0] > logit(self._score)
        windows, raw = windows[passed], raw[passed]
        if len(windows) == 0:
            return Faces.empty()
        size = (windows[:, 2:] - windows[:, :2] + 1)[:, None]
        landmarks = raw[:, FIELDS:].reshape(-1, 2, 5).transpose(0, 2, 1) * size + windows[:, None, :2] - 1
        boxes = _calibrated(windows, raw[:, 1:FIELDS], 1)
        kept = _without_smaller(boxes, raw[:, 0])
        scores = 1 / (1 + np.exp(-raw[kept, 0]))
        return Faces(boxes[kept], scores.astype(np.float32), np.ascontiguousarray(landmarks[kept], np.float32))


_AROUND = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


class _Search:
    """The first network for pictures of one size."""

    def __init__(self, engine: Engine, pyramid: Pyramid) -> None:
        self.engine, self._slot, self._pyramid = engine, engine.slots[0], pyramid

    def search(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Squares (n, 4) in which there may be a face."""
        pyramid = self._pyramid
        pyramid.write_into(self._slot.inputs[INPUT][0], image_bgr)
        self.engine.submit(self._slot, 1)
        self.engine.wait(self._slot)
        raw = self._slot.outputs[OUTPUT][0].reshape(FIELDS, -1)
        chosen = np.flatnonzero(raw[0, pyramid.cells] >= logit(PROPOSE))
        found, boxes = raw[:, pyramid.cells[chosen]], pyramid.boxes_xyxy[chosen]
        kept = _without_overlaps(boxes, found[0], IN_LEVEL, pyramid.level[chosen])
        boxes, found = boxes[kept], found[:, kept]
        kept = _without_overlaps(boxes, found[0], ACROSS_LEVELS)
        return squared(_calibrated(boxes[kept], found[1:, kept].T, 0))


class _Halvings:
    """A picture, half of it, a quarter, ...: each made when it is first asked for, in memory that is kept."""

    def __init__(self) -> None:
        self._made: list[NDArray[np.uint8]] = []
        self._kept: list[NDArray[np.uint8]] = []

    def begin(self, image_bgr: NDArray[np.uint8]) -> None:
        """Go on with this picture, uint8 (H, W, 3)."""
        self._made = [image_bgr]

    def end(self) -> None:
        """Let go of the picture."""
        self._made = []

    @property
    def size_wh(self) -> tuple[int, int]:
        height, width = self._made[0].shape[:2]
        return width, height

    def picture(self, halved: int) -> NDArray[np.uint8]:
        """The picture halved so many times: each pixel is the mean of four, and the last of an odd side is left out."""
        while len(self._made) <= halved:
            before, place = self._made[-1], len(self._made) - 1
            shape = (before.shape[0] // 2, before.shape[1] // 2, 3)
            if len(self._kept) <= place:
                self._kept.append(np.empty(shape, np.uint8))
            elif self._kept[place].shape != shape:
                self._kept[place] = np.empty(shape, np.uint8)
            whole = before[: 2 * shape[0], : 2 * shape[1]]
            cv2.resize(whole, shape[1::-1], dst=self._kept[place], interpolation=cv2.INTER_AREA)
            self._made.append(self._kept[place])
        return self._made[halved]


class _Look:
    """An engine that looks at windows of a picture, brought to its size by area."""

    def __init__(self, engine: Engine, side_px: int) -> None:
        self.engine, self._slot, self._side = engine, engine.slots[0], side_px
        self._small = np.empty((BATCH, side_px, side_px, 3), np.uint8)

    def warm_up(self) -> None:
        """Run every number of windows that there will be: an engine prepares each when it comes first."""
        for n in sorted({_filled(count) for count in range(1, BATCH + 1)}):
            self._run(n)

    def look(
        self, pictures: _Halvings, squares: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The squares (n, 4) that are in the picture at least in part, and the network's rows (n, fields) for them.

        What reaches over the edge is cut off and the rest stretched to a square, as facenet-pytorch does it.
        """
        corners = np.trunc(squares).astype(np.int64)
        low, high = np.maximum(corners[:, :2], 1) - 1, np.minimum(corners[:, 2:], pictures.size_wh)
        inside = (high > low).all(axis=1)
        squares, low, high = squares[inside], low[inside], high[inside]
        # Corners go to whole pixels of the halved picture, at most an eighth of a network's pixel away.
        spare = np.maximum((high - low).min(axis=1) // (PIXELS_READ * self._side), 1)
        halved = np.log2(spare).astype(np.int64)
        half = (1 << halved[:, None]) >> 1
        low, high = (low + half) >> halved[:, None], (high + half) >> halved[:, None]
        rows = np.empty((len(squares), *self._slot.outputs[OUTPUT].shape[1:]), np.float32)
        for first in range(0, len(squares), BATCH):
            part = slice(first, first + BATCH)
            places = np.concatenate([halved[part, None], low[part], high[part]], axis=1).tolist()
            for small, (level, left, top, right, bottom) in zip(self._small, places, strict=False):
                window = pictures.picture(level)[top:bottom, left:right]
                cv2.resize(window, (self._side, self._side), dst=small, interpolation=cv2.INTER_AREA)
            count = len(places)
            np.copyto(self._slot.inputs[INPUT][:count], self._small[:count].transpose(0, 3, 1, 2))
            self._run(_filled(count))
            rows[part] = self._slot.outputs[OUTPUT][:count]
        return squares, rows

    def _run(self, n: int) -> None:
        self.engine.submit(self._slot, n)
        self.engine.wait(self._slot)


def _filled(count: int) -> int:
    """The run that serves so many windows: the next multiple of a quarter of the power of two above, so that sixteen
    sizes occur and at most a fifth of a run is computed for nothing."""
    step = max(1, (1 << (count - 1).bit_length()) // 8)
    return min(BATCH, -(-count // step) * step)


def squared(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squares about the boxes' centres with their longer sides: (n, 4) -> (n, 4)."""
    sizes = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    side = sizes.max(axis=1, keepdims=True)
    low = boxes_xyxy[:, :2] + (sizes - side) / 2
    return np.concatenate([low, low + side], axis=1)


def _calibrated(boxes: NDArray[np.float32], shifts: NDArray[np.float32], inclusive: int) -> NDArray[np.float32]:
    """Boxes (n, 4) whose sides are moved by shares (n, 4) of their lengths; ``inclusive`` is added to a length."""
    sizes = boxes[:, 2:] - boxes[:, :2] + inclusive
    return np.asarray(boxes + shifts * np.tile(sizes, 2), dtype=np.float32)


def _without_overlaps(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], most: float, group: NDArray[np.int32] | None = None
) -> NDArray[np.intp]:
    """Which boxes (n, 4) stay when none may overlap (IoU) a better one of its group by more than ``most``; best
    first."""
    if len(boxes) < 2:
        return np.arange(len(boxes))
    rectangles = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    groups = np.zeros(len(boxes), np.int32) if group is None else group
    # Scores are logits of above a half, so all of them are above 0. OpenCV's stub forgets that it takes arrays.
    kept = cv2.dnn.NMSBoxesBatched(rectangles, scores, groups, 0.0, most)  # type: ignore[arg-type]
    return np.asarray(kept, dtype=np.intp)


def _without_smaller(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Which boxes (n, 4) stay when none may share more than ``SMALLER`` of the smaller one with a better one; best
    first. Pixels are counted inclusively."""
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order]
    area = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low + 1, 0, None).prod(axis=2) / np.minimum(area[:, None], area[None])
    free, kept = np.ones(len(boxes), np.bool_), []
    for place in range(len(boxes)):
        if free[place]:
            kept.append(place)
            free &= shared[place] <= SMALLER
    return np.asarray(order[kept], dtype=np.intp)
