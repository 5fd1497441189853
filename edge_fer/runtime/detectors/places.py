"""What the network says of every place of its input, and how that becomes faces: decode, suppress, vote."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.faces import Faces, iou
from edge_fer.core.spec import DetectorSpec

NMS_IOU = 0.4
VOTE_IOU = 0.6
"""Boxes that overlap the best one this much are averaged into it, weighted by score: it trembles less than any of
them."""
MOST = 256
"""Places that are looked at; a crowd gives a few per face."""
LARGEST_LOG = 5.0


class Decoder:
    """Raw outputs (15, places) of one input size -> faces in the input's pixels. Source: the layout of
    :class:`edge_fer.models.face_pyramid.FacePyramid`."""

    def __init__(self, spec: DetectorSpec) -> None:
        centres, strides = [], []
        for stride in spec.strides:
            y, x = np.mgrid[: spec.size_hw[0] // stride, : spec.size_hw[1] // stride]
            centres.append((np.stack([x.ravel(), y.ravel()]) + 0.5) * stride)
            strides.append(np.full(x.size, stride))
        self._centres = np.concatenate(centres, axis=1).astype(np.float32)
        self._strides = np.concatenate(strides).astype(np.float32)
        self._above = np.empty(len(self._strides), np.bool_)

    def decode(self, raw: NDArray[np.float32], score: float) -> Faces:
        """Every place from ``score`` up, best first, at most ``MOST``; not yet suppressed."""
        np.greater_equal(raw[0], math.log(score / (1 - score)), out=self._above)
        chosen = np.flatnonzero(self._above)
        if len(chosen) == 0:
            return Faces.empty()
        chosen = chosen[np.argsort(-raw[0, chosen], kind="stable")[:MOST]]
        found, stride, centre = raw[:, chosen], self._strides[chosen], self._centres[:, chosen]
        middle = centre + found[1:3] * stride
        half = np.exp(np.clip(found[3:5], -4.0, LARGEST_LOG)) * (stride / 2)
        landmarks = centre[:, None] + found[5:].reshape(5, 2, -1).transpose(1, 0, 2) * stride
        return Faces(
            np.ascontiguousarray(np.concatenate([middle - half, middle + half]).T),
            (1 / (1 + np.exp(-found[0]))).astype(np.float32),
            np.ascontiguousarray(landmarks.transpose(2, 1, 0)),
        )


def suppress(faces: Faces) -> Faces:
    """Non-maximum suppression with voting; ``faces`` are sorted, best first."""
    if len(faces) < 2:
        return faces
    overlap = iou(faces.boxes_xyxy, faces.boxes_xyxy)
    free, best = np.ones(len(faces), np.bool_), []
    for row in range(len(faces)):
        if free[row]:
            best.append(row)
            free &= overlap[row] < NMS_IOU
    return vote(faces, best, overlap[best])


def vote(faces: Faces, best: Sequence[int], overlap: NDArray[np.float32]) -> Faces:
    """The ``best`` of these faces with their own scores, and with boxes and landmarks that are means over all that
    overlap them well, weighted by score.

    Args:
        overlap: float32 (len(best), len(faces)), intersection over union.
    """
    weight = faces.scores * (overlap >= VOTE_IOU)
    weight /= weight.sum(axis=1, keepdims=True)
    landmarks = None
    if faces.landmarks is not None:
        landmarks = (weight @ faces.landmarks.reshape(len(faces), -1)).reshape(len(best), -1, 2)
    return Faces(weight @ faces.boxes_xyxy, faces.scores[list(best)], landmarks)


def at_least(faces: Faces, side_px: float) -> Faces:
    """Those whose box has at least this side (root of its area)."""
    large = np.sqrt((faces.boxes_xyxy[:, 2:] - faces.boxes_xyxy[:, :2]).prod(axis=1)) >= side_px
    if large.all():
        return faces
    landmarks = None if faces.landmarks is None else faces.landmarks[large]
    return Faces(faces.boxes_xyxy[large], faces.scores[large], landmarks)


def together(fine: Faces, coarse: Faces) -> Faces:
    """Finds of two looks at one picture as one list, best first, each face once.

    Half a large face may look like a face to the fine look, so what lies mostly within a surer find of the coarse one
    goes too.
    """
    if len(fine) == 0 or len(coarse) == 0:
        return coarse if len(fine) == 0 else fine
    order = np.argsort(-np.concatenate([fine.scores, coarse.scores]), kind="stable")
    landmarks = None
    if fine.landmarks is not None and coarse.landmarks is not None:
        landmarks = np.concatenate([fine.landmarks, coarse.landmarks])[order]
    scores = np.concatenate([fine.scores, coarse.scores])[order]
    found = suppress(Faces(np.concatenate([fine.boxes_xyxy, coarse.boxes_xyxy])[order], scores, landmarks))
    boxes = found.boxes_xyxy
    area = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    overlap = (np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner).clip(0).prod(axis=2)
    inside = (
        (overlap >= 0.8 * area[:, None]) & (area[:, None] < 0.5 * area[None]) & (found.scores[:, None] < found.scores)
    )
    keep = ~inside.any(axis=1)
    return Faces(boxes[keep], found.scores[keep], None if found.landmarks is None else found.landmarks[keep])
