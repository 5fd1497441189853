"""Composites: faces pasted into scenes, at sizes, angles, lights and occlusions that we choose, with exact labels.

Two things keep a network from learning the paste instead of the face. Every face is blended through a soft mask whose
border lies inside the crop; and patches of *other* pictures are pasted through the same masks, so that a soft edge, a
change of light or a blurred patch says nothing about what is inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edge_fer.core.spec import Frozen
from edge_fer.data.detection import disguise
from edge_fer.data.detection.folder import Gray
from edge_fer.data.detection.labels import MIRRORED, SURE, UNSURE, FaceLabels

Kind = Literal["face", "ignore"]
MAX_FACES = 12
"""Labelled places of one composite, faces and ignored ones together."""
_MASK = 64


class ComposeSpec(Frozen):
    """What composites look like. Sizes are of the teacher's box (root of its area), in pixels of the composite."""

    size: int = Field(default=256, multiple_of=32)
    face_px: tuple[float, float] = (9.0, 220.0)
    small_crops_px: float = 56.0
    """Low-resolution crops (FER-2013's 48 pixels) are pasted up to this size only."""
    small_crops_share: float = Field(default=0.25, ge=0, le=1)
    faces_probability: tuple[float, ...] = (0.2, 0.3, 0.2, 0.15, 0.07, 0.05, 0.03)
    rotate_deg: float = 12.0
    wild_rotation: float = Field(default=0.2, ge=0, le=1)
    """Share of faces that are turned by anything up to 45 degrees instead."""
    occlude: float = Field(default=0.25, ge=0, le=1)
    headgear: float = Field(default=0.0, ge=0, le=1)
    """Share of faces under a helmet or hat, behind goggles, or both."""
    distract: float = Field(default=0.5, ge=0, le=1)
    marks: float = Field(default=0.0, ge=0, le=1)
    """Share of pictures with drawn letters, rings and spots: what a network takes for a small face first."""
    visible_contrast: float = Field(default=0.0, ge=0)
    """A face whose grey values spread less than this many times the noise, or these many grey values, is ignored: what
    cannot be seen must not be learnt as a face."""
    plain_background: float = Field(default=0.08, ge=0, le=1)
    dark: float = Field(default=0.25, ge=0, le=1)
    blur: float = Field(default=0.2, ge=0, le=1)
    noise: float = Field(default=0.4, ge=0, le=1)
    compress: float = Field(default=0.2, ge=0, le=1)


@dataclass(frozen=True)
class Picture:
    """A grey picture with the teacher's labels in its own pixels."""

    gray: Gray
    labels: FaceLabels


@dataclass(frozen=True)
class Composite:
    """One training picture.

    Attributes:
        gray: uint8 (size, size).
        boxes_xyxy: float32 (m, 4), over the edges where the face is.
        landmarks: float32 (m, 5, 2); NaN where they are unknown.
        ignore: bool (m,): places that are neither face nor background.
    """

    gray: Gray
    boxes_xyxy: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    ignore: NDArray[np.bool_]


def _masks(rng: np.random.Generator, count: int) -> list[NDArray[np.float32]]:
    """Alpha masks (64, 64) in 0..1: superellipses with soft borders that end inside the square."""
    axis = (np.arange(_MASK) + 0.5) / _MASK * 2 - 1
    x, y = np.meshgrid(axis, axis)
    masks = []
    for _ in range(count):
        power, feather = rng.uniform(2.0, 5.0), rng.uniform(0.06, 0.35)
        rx, ry = rng.uniform(0.72, 0.98), rng.uniform(0.8, 0.98)
        radius = (np.abs(x / rx) ** power + np.abs(y / ry) ** power) ** (1 / power)
        masks.append(np.clip((1 - radius) / feather, 0, 1).astype(np.float32))
    return masks


def _similarity(
    centre_from: NDArray[np.float64], centre_to: NDArray[np.float64], factor: float, degrees: float, aspect: float
) -> NDArray[np.float64]:
    """Affine 2x3: scale (x by ``aspect`` more), rotate, and carry one centre to the other."""
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation @ np.diag([factor * aspect, factor / aspect])
    return np.hstack([linear, (centre_to - linear @ centre_from)[:, None]])


def _turned_box(box: NDArray[np.float32], matrix: NDArray[np.float64], degrees: float) -> NDArray[np.float32]:
    """The teacher's box after the transform: same centre; as wide and high as the upright face, its sides traded as it
    lies down. The bounding box of the turned rectangle would be far larger than any face."""
    centre = matrix[:, :2] @ ((box[:2] + box[2:]) / 2) + matrix[:, 2]
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    width, height = (box[2:] - box[:2]) * scale
    lying = np.sin(np.deg2rad(degrees)) ** 2
    half = np.array([width * (1 - lying) + height * lying, height * (1 - lying) + width * lying]) / 2
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


class Compositor:
    """Makes composites from labelled scenes and face crops.

    Args:
        scenes: photographs; their own faces keep their labels.
        faces: crops whose surest face is pasted; ``small_faces`` are crops of low resolution.
        spec: the distribution.
        scene_weights: float (len(scenes),) or None; looked at on each draw, so a trainer that shares the array can
            send the scenes that fool the network more often.
    """

    def __init__(
        self,
        scenes: Sequence[Picture],
        faces: Sequence[Picture],
        small_faces: Sequence[Picture],
        spec: ComposeSpec,
        scene_weights: NDArray[np.float32] | None = None,
    ) -> None:
        self.scenes, self.spec, self.scene_weights = list(scenes), spec, scene_weights
        self.faces = [picture for picture in faces if _usable(picture)]
        self.small_faces = [picture for picture in small_faces if _usable(picture)]
        if not self.scenes or not self.faces:
            raise ValueError("a compositor needs scenes and labelled faces")
        self._masks = _masks(np.random.default_rng(7), 96)

    def draw(self, rng: np.random.Generator) -> Composite:
        """One composite; the same generator state gives the same picture."""
        spec = self.spec
        canvas, boxes, landmarks, ignore = self._background(rng)
        if rng.random() < spec.distract:
            for _ in range(int(rng.integers(1, 4))):
                self._paste_distractor(rng, canvas, boxes)
        if rng.random() < spec.marks:
            disguise.draw_marks(rng, canvas, boxes)
        for _ in range(int(rng.choice(len(spec.faces_probability), p=spec.faces_probability))):
            if len(boxes) < MAX_FACES:
                self._paste_face(rng, canvas, boxes, landmarks, ignore)
        canvas, floor_px, grain = self._degrade(rng, canvas)
        sides = np.array([np.sqrt(max(0.0, (b[2] - b[0]) * (b[3] - b[1]))) for b in boxes])
        hidden = np.array([_visible(b, spec.size) < 0.55 for b in boxes], dtype=bool)
        faint = np.array([_spread(canvas, b) < spec.visible_contrast * max(3.0, grain) for b in boxes], dtype=bool)
        unsure = np.array(ignore, dtype=bool) | hidden | faint | (sides < max(floor_px, spec.face_px[0] * 0.8))
        return Composite(
            canvas,
            np.asarray(boxes, np.float32).reshape(-1, 4)[:MAX_FACES],
            np.asarray(landmarks, np.float32).reshape(-1, 5, 2)[:MAX_FACES],
            unsure[:MAX_FACES],
        )

    def draw_one(self, rng: np.random.Generator, *, degrees: float, cover_mouth: bool) -> Composite | None:
        """A composite with one whole face of a chosen angle, for testing: neither noise nor blur nor other light.

        The generator decides scene, face, size and place alike, whatever the angle and the cover. ``None`` when the
        place is taken by a face of the scene's own.
        """
        spec = self.spec
        canvas, boxes, landmarks, ignore = self._background(rng)
        picture = self.faces[int(rng.integers(len(self.faces)))]
        best = int(picture.labels.scores.argmax())
        box, points = picture.labels.boxes_xyxy[best], picture.labels.landmarks[best]
        target = float(np.exp(rng.uniform(*np.log(spec.face_px))))
        centre = rng.uniform(0.8 * target, spec.size - 0.8 * target, 2)
        crop = np.array(picture.gray)
        own = np.random.default_rng(int(rng.integers(1 << 31)))
        if cover_mouth:
            disguise.cover_mouth(own, crop, box, points)
        side = float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))
        matrix = _similarity((box[:2] + box[2:]).astype(np.float64) / 2, centre, target / side, degrees, 1.0)
        placed = _turned_box(box, matrix, degrees)
        if disguise.covers(placed, boxes, 0.0):
            return None
        self._blend(rng, canvas, crop, matrix, hard=False)
        boxes.append(placed)
        landmarks.append((points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32))
        ignore.append(False)
        doubtful = np.array(ignore, dtype=bool)
        doubtful[:-1] = True
        return Composite(canvas, np.asarray(boxes, np.float32), np.asarray(landmarks, np.float32), doubtful)

    # -- background ----------------------------------------------------------------------------------------------

    def _scene_index(self, rng: np.random.Generator) -> int:
        if self.scene_weights is None:
            return int(rng.integers(len(self.scenes)))
        total = np.cumsum(self.scene_weights, dtype=np.float64)
        return min(int(np.searchsorted(total, rng.random() * total[-1])), len(self.scenes) - 1)

    def _background(
        self, rng: np.random.Generator
    ) -> tuple[Gray, list[NDArray[np.float32]], list[NDArray[np.float32]], list[bool]]:
        size = self.spec.size
        if rng.random() < self.spec.plain_background:
            canvas = np.full((size, size), rng.integers(0, 256), np.uint8)
            if rng.random() < 0.5:
                ramp = np.linspace(float(rng.uniform(0, 255)), float(rng.uniform(0, 255)), size)
                canvas[:] = (ramp[None] if rng.random() < 0.5 else ramp[:, None]).astype(np.uint8)
            return canvas, [], [], []
        scene = self.scenes[self._scene_index(rng)]
        height, width = scene.gray.shape
        # A window between a third of the short side and somewhat more than the long one; what lies outside is border.
        side = int(np.exp(rng.uniform(np.log(0.33 * min(height, width)), np.log(1.15 * max(height, width)))))
        aspect = float(np.exp(rng.normal(0, 0.07)))
        w, h = max(16, int(side * aspect)), max(16, int(side / aspect))
        x0 = int(rng.integers(min(0, width - w), max(0, width - w) + 1))
        y0 = int(rng.integers(min(0, height - h), max(0, height - h) + 1))
        cut = scene.gray[max(0, y0) : y0 + h, max(0, x0) : x0 + w]
        outside = (max(0, -y0), h - cut.shape[0] - max(0, -y0), max(0, -x0), w - cut.shape[1] - max(0, -x0))
        if any(outside):
            value = int(rng.integers(0, 256))
            cut = np.asarray(cv2.copyMakeBorder(cut, *outside, cv2.BORDER_CONSTANT, value=value), dtype=np.uint8)
        shrinks = size < max(w, h)
        kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        canvas = np.asarray(cv2.resize(cut, (size, size), interpolation=kind), dtype=np.uint8)
        factor = np.array([size / w, size / h], np.float32)
        origin = np.array([x0, y0], np.float32)
        boxes = (scene.labels.boxes_xyxy.reshape(-1, 2, 2) - origin) * factor
        landmarks = (scene.labels.landmarks - origin) * factor
        mirrored = rng.random() < 0.5
        if mirrored:
            canvas = np.ascontiguousarray(canvas[:, ::-1])
            boxes[..., 0] = size - boxes[:, ::-1, 0]
            landmarks = landmarks[:, MIRRORED]
            landmarks[..., 0] = size - landmarks[..., 0]
        boxes = boxes.reshape(-1, 4)
        near = [i for i in np.flatnonzero(scene.labels.scores >= UNSURE) if _visible(boxes[i], size) > 0]
        return (
            np.ascontiguousarray(canvas, dtype=np.uint8),
            [boxes[i] for i in near],
            [landmarks[i] for i in near],
            [bool(scene.labels.scores[i] < SURE) for i in near],
        )

    # -- pasting -------------------------------------------------------------------------------------------------

    def _paste_face(
        self,
        rng: np.random.Generator,
        canvas: Gray,
        boxes: list[NDArray[np.float32]],
        landmarks: list[NDArray[np.float32]],
        ignore: list[bool],
    ) -> None:
        spec = self.spec
        low, high = spec.face_px
        small = bool(self.small_faces) and rng.random() < spec.small_crops_share
        pool = self.small_faces if small else self.faces
        picture = pool[int(rng.integers(len(pool)))]
        best = int(picture.labels.scores.argmax())
        box, points = picture.labels.boxes_xyxy[best], picture.labels.landmarks[best]
        crop = picture.gray
        if rng.random() < 0.5:
            crop, box, points = _mirror(crop, box, points)
        target = float(np.exp(rng.uniform(np.log(low), np.log(min(high, spec.small_crops_px) if small else high))))
        wild = rng.random() < spec.wild_rotation
        degrees = float(rng.uniform(-45, 45)) if wild else float(np.clip(rng.normal(0, spec.rotate_deg), -45, 45))
        aspect = float(np.exp(rng.normal(0, 0.04)))
        crop = np.array(crop)
        # A face whose landmarks are unknown is hidden enough as it is.
        placeable = bool(np.isfinite(points).all())
        if rng.random() < spec.occlude and placeable:
            disguise.occlude(rng, crop, box, points)
        # Asked first, so that recipes without it draw what they always drew.
        if spec.headgear and rng.random() < spec.headgear and placeable:
            disguise.put_on_headgear(rng, crop, box, points)
        side = float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))
        for _ in range(6):
            centre = rng.uniform(-0.1 * target, spec.size + 0.1 * target, 2)
            matrix = _similarity((box[:2] + box[2:]).astype(np.float64) / 2, centre, target / side, degrees, aspect)
            placed = _turned_box(box, matrix, degrees)
            if not disguise.covers(placed, boxes, 0.1):
                break
        else:
            return
        if self._blend(rng, canvas, crop, matrix, hard=rng.random() < 0.12):
            boxes.append(placed)
            landmarks.append((points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32))
            ignore.append(False)

    def _paste_distractor(self, rng: np.random.Generator, canvas: Gray, boxes: list[NDArray[np.float32]]) -> None:
        scene = self.scenes[self._scene_index(rng)]
        height, width = scene.gray.shape
        side = int(rng.uniform(0.1, 0.7) * min(height, width))
        if side < 16:
            return
        x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
        patch_box = np.array([x, y, x + side, y + side], np.float32)
        if disguise.covers(patch_box, list(scene.labels.boxes_xyxy[scene.labels.scores >= UNSURE]), 0.0):
            return
        target = float(np.exp(rng.uniform(np.log(16), np.log(0.9 * self.spec.size))))
        centre = rng.uniform(0, self.spec.size, 2)
        half = target * 0.6
        place = np.array([*(centre - half), *(centre + half)], np.float32)
        if disguise.covers(place, boxes, 0.0):
            return
        degrees = float(rng.uniform(-45, 45))
        matrix = _similarity(np.array([side / 2, side / 2]), centre, target / side, degrees, 1.0)
        self._blend(rng, canvas, scene.gray[y : y + side, x : x + side], matrix, hard=rng.random() < 0.12)

    def _blend(
        self, rng: np.random.Generator, canvas: Gray, crop: Gray, matrix: NDArray[np.float64], *, hard: bool
    ) -> bool:
        """Warp ``crop`` onto ``canvas`` in place; ``False`` when nothing of it falls on the canvas."""
        height, width = crop.shape
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ matrix[:, :2].T + matrix[:, 2]
        x0, y0 = np.floor(corners.min(axis=0)).astype(int).clip(0)
        x1, y1 = np.minimum(np.ceil(corners.max(axis=0)).astype(int), canvas.shape[1::-1])
        if x1 - x0 < 2 or y1 - y0 < 2:
            return False
        # Bilinear sampling skips pixels below half size, so the crop is first shrunk by areas.
        factor = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        local = matrix.copy()
        if factor < 0.6:
            size = (max(4, round(width * factor * 1.1)), max(4, round(height * factor * 1.1)))
            crop = np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
            local[:, 0] *= width / size[0]
            local[:, 1] *= height / size[1]
        local[:, 2] -= (x0, y0)
        area = (int(x1 - x0), int(y1 - y0))
        face = cv2.warpAffine(crop, local, area, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = np.ones((_MASK, _MASK), np.float32) if hard else self._masks[int(rng.integers(len(self._masks)))]
        to_mask = matrix.copy()
        to_mask[:, 0] *= width / _MASK
        to_mask[:, 1] *= height / _MASK
        to_mask[:, 2] -= (x0, y0)
        alpha = cv2.warpAffine(mask, to_mask, area, flags=cv2.INTER_LINEAR)
        place = canvas[y0:y1, x0:x1]
        mean = float(cv2.mean(face)[0])
        # Sometimes the face takes on the light of its surroundings, sometimes it keeps its own.
        light = mean + float(rng.uniform(0, 0.7)) * (float(cv2.mean(place)[0]) - mean) * (rng.random() < 0.6)
        contrast = float(np.exp(rng.normal(0, 0.2)))
        pasted = cv2.convertScaleAbs(face, alpha=contrast, beta=max(-mean * contrast, light - mean * contrast))
        place[:] = cv2.blendLinear(pasted, np.ascontiguousarray(place), alpha, 1 - alpha)
        return True

    # -- light, lens, sensor -------------------------------------------------------------------------------------

    def _degrade(self, rng: np.random.Generator, canvas: Gray) -> tuple[Gray, float, float]:
        """Light, blur, noise and compression of the whole picture; also the smallest face that survives the blur, in
        pixels, and the noise, in grey values."""
        spec, floor_px, level = self.spec, 0.0, 0.0
        if rng.random() < spec.blur:
            sigma = float(rng.uniform(0.4, 2.2))
            if rng.random() < 0.5:
                canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), sigma), dtype=np.uint8)
            else:
                canvas = _motion_blur(canvas, int(2 * round(sigma * 1.5) + 3), float(rng.uniform(0, 180)))
            floor_px = 8 * sigma
        table = np.arange(256, dtype=np.float32) / 255
        if rng.random() < spec.dark:
            table = table ** float(rng.uniform(0.9, 1.4)) * float(rng.uniform(0.12, 0.6))
        elif rng.random() < 0.5:
            table = table ** float(np.exp(rng.normal(0, 0.3))) * float(rng.uniform(0.7, 1.25))
        canvas = np.asarray(cv2.LUT(canvas, (table * 255).clip(0, 255).astype(np.uint8)), dtype=np.uint8)
        if rng.random() < spec.noise:
            grain = np.empty(canvas.shape, np.int16)
            cv2.setRNGSeed(int(rng.integers(1 << 31)))
            cv2.randn(grain, np.zeros(1), np.array([level := float(rng.uniform(1, 10))]))
            canvas = np.asarray(cv2.add(canvas, grain, dtype=cv2.CV_8U), dtype=np.uint8)
        if rng.random() < spec.compress:
            quality = int(rng.integers(25, 90))
            _, raw = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, quality])
            decoded = cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE)
            canvas = np.asarray(decoded, dtype=np.uint8)
        return canvas, floor_px, level


def _usable(picture: Picture) -> bool:
    return len(picture.labels) > 0 and bool(picture.labels.scores.max() >= SURE)


def _mirror(
    gray: Gray, box: NDArray[np.float32], points: NDArray[np.float32]
) -> tuple[Gray, NDArray[np.float32], NDArray[np.float32]]:
    width = gray.shape[1]
    points = points[list(MIRRORED)].copy()
    points[:, 0] = width - points[:, 0]
    return gray[:, ::-1], np.array([width - box[2], box[1], width - box[0], box[3]], np.float32), points


def _spread(canvas: Gray, box: NDArray[np.float32]) -> float:
    """Standard deviation of the grey values inside a box."""
    x0, y0, x1, y1 = np.clip(np.round(box), 0, len(canvas)).astype(int)
    return float(canvas[y0:y1, x0:x1].std()) if x1 > x0 and y1 > y0 else 0.0


def _visible(box: NDArray[np.float32], size: int) -> float:
    """Share of a box's area that lies on the canvas."""
    w, h = box[2] - box[0], box[3] - box[1]
    inside = np.clip(box, 0, size)
    return float((inside[2] - inside[0]) * (inside[3] - inside[1]) / max(1e-6, w * h))


def _motion_blur(gray: Gray, length: int, degrees: float) -> Gray:
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1.0
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), degrees, 1.0)
    kernel = np.asarray(cv2.warpAffine(kernel, turn, (length, length)), dtype=np.float32)
    return np.asarray(cv2.filter2D(gray, -1, kernel / kernel.sum()), dtype=np.uint8)
