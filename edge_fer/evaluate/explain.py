"""What a network sees in faces: Grad-CAM with its deletion check, and feature maps, for pictures and for mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError
from edge_fer.core.faces import Faces as DetectedFaces
from edge_fer.core.faces import eye_angles_deg
from edge_fer.core.spec import Frozen, ModelSpec, PreprocessSpec
from edge_fer.data.samples import Image, Samples
from edge_fer.evaluate.deletion import ENOUGH, DeletionCheck, deletion_check
from edge_fer.evaluate.grad_cam import Explainer, stages, telling_channels
from edge_fer.evaluate.predict import fill
from edge_fer.runtime.detectors.base import FaceDetector, require_eyes
from edge_fer.runtime.preprocess import FaceCropper, resize

SEARCHED_PX = 2048
"""Longest side at which photographs are searched for their largest face; 24 megapixels would cost seconds."""
CHANNELS = 4
"""Feature maps that are shown of every stage."""
PLACES, PLACES_OF_FEW = 4, 24
"""Random places of the check for each face: of many faces, and of few."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Faces:
    """Faces as the network gets them.

    Attributes:
        ids: names that people recognise.
        inputs: float32 (n, C, H, W), normalised.
        labels: int64 (n,), indices of the true classes; -1 where it is not known.
    """

    ids: tuple[str, ...]
    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, count: int) -> Faces:
        return Faces(self.ids[:count], self.inputs[:count], self.labels[:count])


class Stage(Frozen):
    """The map that a network has at one scale: a layer, and its (C, H, W)."""

    layer: str
    shape: tuple[int, int, int]


class ExplainedFace(Frozen):
    """One face.

    Attributes:
        label: its true class, or ``None`` when that is not known.
        explained: the class whose evidence the heat shows.
        scores: softmax, by class.
        evidence: something in the layer speaks for the class; otherwise the heat is empty.
        channels: for each stage, the channels that are shown: those that vary most over the places.
    """

    id: str
    label: str | None
    predicted: str
    explained: str
    scores: dict[str, float]
    evidence: bool
    channels: tuple[tuple[int, ...], ...]


class Explanation(Frozen):
    """Everything but the pixels.

    Attributes:
        layer: whose maps Grad-CAM weighs.
        check: what deleting the hot places does; ``None`` when no face has any evidence.
        checked: on which faces, in words.
    """

    kind: Literal["edge-fer-explanation"] = "edge-fer-explanation"
    format: Literal[1] = 1
    edge_fer_version: str
    model: str
    arch: str
    source: str
    layer: str
    stages: tuple[Stage, ...]
    faces: tuple[ExplainedFace, ...]
    check: DeletionCheck | None
    checked: str


@dataclass(frozen=True)
class Pictures:
    """The pixels that belong to an :class:`Explanation`.

    Attributes:
        faces: uint8 (n, H, W, 3) RGB: what the network gets, as a picture.
        heat: float32 (n, H, W), 0..1.
        maps: by stage, float32 (n, channels, h, w).
    """

    faces: NDArray[np.uint8]
    heat: NDArray[np.float32]
    maps: tuple[NDArray[np.float32], ...]


def explain(
    explainer: Explainer,
    shown: Faces,
    checked: Faces,
    *,
    source: str,
    explained_class: int | None = None,
    population: str = "the faces that are shown",
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Explanation, Pictures]:
    """Explain faces and check the explanation.

    Args:
        shown: the faces that are drawn.
        checked: the faces of the deletion check; they may be more.
        explained_class: index of a class; ``None``: the one that each face is taken for.
        population: what ``checked`` is, in words.
    """
    from edge_fer import __version__

    spec, labels = explainer.spec, explainer.spec.labels

    def wanted(count: int) -> NDArray[np.int64] | None:
        return None if explained_class is None else np.full(count, explained_class, np.int64)

    found = explainer.heat(shown.inputs, wanted(len(shown)))
    scales = stages(explainer.graph)
    outputs = explainer.maps(shown.inputs, [s.name for s in scales])
    channels = [[telling_channels(outputs[s.name][i], CHANNELS) for s in scales] for i in range(len(shown))]
    faces = tuple(
        ExplainedFace(
            id=shown.ids[i],
            label=labels[shown.labels[i]] if shown.labels[i] >= 0 else None,
            predicted=labels[int(found.scores[i].argmax())],
            explained=labels[int(found.classes[i])],
            scores={name: float(v) for name, v in zip(labels, found.scores[i], strict=True)},
            evidence=bool(found.peak[i] > 0),
            channels=tuple(tuple(int(k) for k in one) for one in channels[i]),
        )
        for i in range(len(shown))
    )
    of_checked = found if checked is shown else explainer.heat(checked.inputs, wanted(len(checked)))
    check = deletion_check(
        explainer.scores,
        checked.inputs,
        of_checked.heat,
        of_checked.classes,
        places=PLACES if len(checked) >= ENOUGH else PLACES_OF_FEW,
        seed=seed,
        progress=progress,
    )
    maps = tuple(
        np.stack([outputs[s.name][i][channels[i][k]] for i in range(len(shown))]) for k, s in enumerate(scales)
    )
    explanation = Explanation(
        edge_fer_version=__version__,
        model=spec.name,
        arch=spec.arch,
        source=source,
        layer=explainer.layer,
        stages=tuple(Stage(layer=s.name, shape=s.shape) for s in scales),
        faces=faces,
        check=check,
        checked=population,
    )
    return explanation, Pictures(as_pictures(shown.inputs, spec.preprocess), found.heat, maps)


def as_pictures(inputs: NDArray[np.float32], preprocess: PreprocessSpec) -> NDArray[np.uint8]:
    """Normalised float32 (n, C, H, W) back to uint8 (n, H, W, 3) RGB."""
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (preprocess.mean, preprocess.std))
    pixels = np.clip(np.rint((inputs * std + mean) * 255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels


def faces_of_samples(samples: Samples, labels: NDArray[np.int64], indices: Sequence[int], spec: ModelSpec) -> Faces:
    """Some faces of a dataset, as evaluation feeds them.

    Args:
        labels: int64 (n,) of all samples, in the model's classes.
    """
    chosen = samples.select(list(indices))
    inputs = np.empty((len(chosen), *spec.input_shape), np.float32)
    fill(inputs, chosen, 0, len(chosen), spec.preprocess)
    return Faces(chosen.ids, inputs, labels[list(indices)])


def faces_of_pictures(
    pictures: Sequence[tuple[str, Image]], detector: FaceDetector, spec: ModelSpec
) -> tuple[Faces, tuple[str, ...]]:
    """The largest face of every picture, cropped as the live loop does.

    Args:
        pictures: (name, grey or BGR pixels).

    Returns:
        the faces, and the names of the pictures in which there is none.

    Raises:
        BadInputError: there is none in any.
        UsageError: the contract wants level eyes, and the detector tells none.
    """
    require_eyes(detector, spec)
    cropper = FaceCropper(spec.preprocess)
    ids, rows, without = [], [], []
    for name, image in pictures:
        bgr = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        boxes, angles = find_faces(bgr, detector)
        if not len(boxes):
            without.append(name)
            continue
        rows.append(cropped(bgr, boxes[0], angles[0], detector, cropper, spec))
        ids.append(name)
    if not rows:
        raise BadInputError(
            f"The detector {detector.name} finds no face in {without[0]}"
            + (f" and {len(without) - 1} other pictures." if len(without) > 1 else "."),
            fix="If the pictures are faces already: --detector none",
        )
    return Faces(tuple(ids), np.stack(rows), np.full(len(ids), -1, np.int64)), tuple(without)


def find_faces(image_bgr: NDArray[np.uint8], detector: FaceDetector) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes (n, 4) of the faces in a picture, the largest first, and how far their eyes are off level (n,), degrees.

    A picture with a side above ``SEARCHED_PX`` is searched in a smaller copy; the boxes are the picture's own.
    """
    height, width = image_bgr.shape[:2]
    shrink = min(1.0, SEARCHED_PX / max(height, width))
    if shrink < 1 and not detector.whole_frame:
        size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        small = detector.detect(resize(image_bgr, size, "area"))
        back = np.array([width / size[1], height / size[0]], np.float32)
        landmarks = None if small.landmarks is None else small.landmarks * back
        found = DetectedFaces(small.boxes_xyxy * np.tile(back, 2), small.scores, landmarks)
    else:
        found = detector.detect(image_bgr)
    order = np.argsort(-(found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]).prod(axis=1), kind="stable")
    return found.boxes_xyxy[order], eye_angles_deg(found)[order]


def cropped(
    image_bgr: NDArray[np.uint8],
    box_xyxy: NDArray[np.float32],
    angle_deg: float,
    detector: FaceDetector,
    cropper: FaceCropper,
    spec: ModelSpec,
) -> NDArray[np.float32]:
    """float32 (C, H, W) of one face, with the live loop's pixels."""
    row = np.empty(spec.input_shape, np.float32)
    if detector.whole_frame:
        cropper.whole_into(row, image_bgr)
    else:
        levels = spec.preprocess.alignment == "eyes"
        cropper.crop_into(row, image_bgr, box_xyxy, float(angle_deg) if levels else 0.0)
    return row


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """Up to ``wanted`` indices, evenly over ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))
