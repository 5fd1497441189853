"""Contracts of the small networks that the tests of this folder share."""

from __future__ import annotations

from edge_fer.core.spec import ModelSpec, PreprocessSpec

COMPACT = ModelSpec(
    name="tiny",
    arch="compact",
    preprocess=PreprocessSpec(size_hw=(32, 32), colour="gray", mean=(0.5,), std=(0.25,)),
)
COMPACT_RGB = COMPACT.model_copy(
    update={"preprocess": PreprocessSpec(size_hw=(32, 32), colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)}
)
OPTIONS: dict[str, object] = {"widths": [8, 16, 24, 32], "depths": [1, 1, 1], "dropout": 0.0}
RESNET = ModelSpec(
    name="resnet",
    arch="resnet18",
    preprocess=PreprocessSpec(size_hw=(64, 64), colour="rgb", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
)
