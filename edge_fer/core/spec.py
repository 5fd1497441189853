"""The model contract: what training and deployment must agree on, stored with the weights."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_fer.core.labels import EMOTIONS

Colour = Literal["gray", "rgb"]
Interpolation = Literal["area", "linear"]
Alignment = Literal["none", "eyes"]


class Frozen(BaseModel):
    """Base of every file format of ours: immutable, and unknown keys are errors, not typos that pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PreprocessSpec(Frozen):
    """How the pixels of a face become the network's input.

    A value ``v`` in 0..255 of channel ``c`` becomes ``(v / 255 - mean[c]) / std[c]``. ``margin`` is the fraction of the
    detected box's longer side that is added on *each* side before the square crop is taken. ``area`` means OpenCV's
    ``INTER_AREA`` when shrinking and ``INTER_LINEAR`` when enlarging; ``linear`` means ``INTER_LINEAR`` always.
    """

    size_hw: tuple[int, int]
    colour: Colour
    mean: tuple[float, ...]
    std: tuple[float, ...]
    margin: float = Field(default=0.0, ge=0.0, le=1.0)
    alignment: Alignment = "none"
    interpolation: Interpolation = "area"

    @property
    def channels(self) -> int:
        return 1 if self.colour == "gray" else 3

    @model_validator(mode="after")
    def _consistent(self) -> PreprocessSpec:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"colour {self.colour!r} needs {self.channels} mean and std values")
        if min(self.std) <= 0:
            raise ValueError("std values must be positive")
        if not all(8 <= side <= 1024 for side in self.size_hw):
            raise ValueError("size_hw must lie between 8 and 1024 pixels")
        return self


class ModelSpec(Frozen):
    """A trained network's contract. ``arch`` names an entry of ``edge_fer.models``; ``name`` is what people call it."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    arch: str
    labels: tuple[str, ...] = EMOTIONS
    preprocess: PreprocessSpec

    @model_validator(mode="after")
    def _labels(self) -> ModelSpec:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be at least two distinct names")
        return self

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one sample."""
        return (self.preprocess.channels, *self.preprocess.size_hw)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one sample's logits: (classes,)."""
        return (len(self.labels),)


class DetectorSpec(Frozen):
    """A face detector's contract.

    The input is grey or BGR, ``(value / 255 - mean) / std``, of any size whose sides are multiples of 32; ``size_hw``
    is the one that an engine is built for. The output has 15 rows per place: the score's logit, the box's centre and
    log size, and five landmarks, relative to the place and in units of its stride; places run row by row over each
    stride's grid.
    """

    task: Literal["detection"] = "detection"
    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    arch: str
    size_hw: tuple[int, int] = (320, 320)
    colour: Literal["gray", "bgr"] = "gray"
    mean: float = 0.5
    std: float = Field(default=0.25, gt=0)
    strides: tuple[int, ...] = (8, 16, 32)
    score: float = Field(default=0.5, gt=0, lt=1)
    """The smallest score that counts as a face, chosen when the detector was evaluated."""
    smallest_px: float = Field(default=12.0, gt=0)
    """The smallest face, as the root of its box's area at the network's input, that it was trained to find."""

    @model_validator(mode="after")
    def _sizes(self) -> DetectorSpec:
        if any(side % max(self.strides) or not 32 <= side <= 4096 for side in self.size_hw):
            raise ValueError(f"size_hw must be multiples of {max(self.strides)} between 32 and 4096")
        return self

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one picture."""
        return (1 if self.colour == "gray" else 3, *self.size_hw)

    @property
    def places(self) -> int:
        """How many places the network answers for."""
        return sum((self.size_hw[0] // stride) * (self.size_hw[1] // stride) for stride in self.strides)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one picture's output: (15, places)."""
        return (15, self.places)


class StageSpec(Frozen):
    """One network of a detector that is several (a cascade). Such a network is never in a bundle of its own.

    The input is BGR, 0..255, of ``size_hw``. The output has ``rows`` values for a picture, or for each cell of a grid.
    """

    task: Literal["cascade stage"] = "cascade stage"
    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    size_hw: tuple[int, int]
    rows: int = Field(gt=0)
    grid_hw: tuple[int, int] | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one picture."""
        return (3, *self.size_hw)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one picture's output: (rows,) or (rows, grid height, grid width)."""
        return (self.rows, *(self.grid_hw or ()))


AnySpec = ModelSpec | DetectorSpec
"""Their fields differ, and unknown ones are refused, so a file is never read as the wrong kind."""
EngineSpec = ModelSpec | DetectorSpec | StageSpec
"""What an engine may be of: a bundle's network, or a stage of a cascade."""
