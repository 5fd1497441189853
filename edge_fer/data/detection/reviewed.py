"""What a look at the teacher's sure finds in the training scenes changed: 244 were looked at, 24 are no people.

A scene is named by the first twelve digits of its file name's SHA-256; in other pictures nothing changes.
"""

from __future__ import annotations

import hashlib

import numpy as np

from edge_fer.data.detection.labels import SURE, UNSURE, FaceLabels

ANIMALS = frozenset(
    {
        "10c4ce989029",
        "12dab706e255",
        "31a3453711d8",
        "34cc21dcb07d",
        "34cd2dcea803",
        "3d4d836aac5b",
        "5238c048a26d",
        "5614294a6476",
        "5aca93923dcc",
        "6bf1b7bfa049",
        "82154246ef8d",
        "829a68b9ba7c",
        "d0da0f4d3c32",
        "e46d85f39f27",
        "eef26748491c",
        "f0bfef7a7bdb",
        "f7784d2d41d0",
    }
)
"""Scenes in which all that the teacher is sure of are faces of dogs, apes and other animals: background."""
LIKENESSES = frozenset({"0ededd012e76", "55329d89f05e", "b1bcba6e0df5", "d29f71b39c31", "de6f735e524a", "e973f62edc0e"})
"""Scenes with a statue, a mask, a doll, or a dog before a man's face: neither face nor background."""


def reviewed(name: str, labels: FaceLabels) -> FaceLabels:
    """The teacher's labels of the scene of that file name, as they are after the look."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    if digest in ANIMALS:
        kept = labels.scores < SURE
        return FaceLabels(labels.boxes_xyxy[kept], labels.landmarks[kept], labels.scores[kept])
    if digest in LIKENESSES:
        doubtful = np.minimum(labels.scores, np.float32((SURE + UNSURE) / 2))
        return FaceLabels(labels.boxes_xyxy, labels.landmarks, doubtful.astype(np.float32))
    return labels
