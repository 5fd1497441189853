"""The detector's recipe: like :class:`edge_fer.train.recipe.Recipe`, with composites for a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from edge_fer.core.spec import DetectorSpec, Frozen
from edge_fer.data.detection.compose import ComposeSpec
from edge_fer.data.detection.folder import HOLDOUT_FRACTION, HOLDOUT_SALT
from edge_fer.train.recipe import OptimizerSpec, load_as


class DetectionRecipe(Frozen):
    """Everything that a detector's training depends on besides the data's location and the number of threads.

    An *epoch* is ``epoch_size`` fresh composites; none is ever drawn twice. ``holdout_fraction`` of scenes and faces,
    by hash, is never seen: ``edge-fer eval --task detection`` measures on it.
    """

    task: Literal["detection"]
    model: DetectorSpec
    model_options: dict[str, object] = Field(default_factory=dict)
    holdout_fraction: float = Field(default=HOLDOUT_FRACTION, gt=0, lt=0.5)
    holdout_salt: str = HOLDOUT_SALT
    seed: int = 0
    epochs: int = Field(gt=0)
    epoch_size: int = Field(default=16384, gt=0)
    batch_size: int = Field(default=32, gt=0)
    amp: Literal["none", "bf16"] = "bf16"
    optimizer: OptimizerSpec = OptimizerSpec()
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    box_weight: float = Field(default=2.0, gt=0)
    landmark_weight: float = Field(default=4.0, gt=0)
    compose: ComposeSpec = ComposeSpec()
    scenes_with_faces: float = Field(default=3.0, gt=0)
    """How much more often a scene with faces of its own is drawn."""
    mine_every: int = Field(default=1, ge=0)
    """After every so many epochs the network looks at all training scenes; those where it sees faces that the teacher
    does not are drawn up to ``mine_weight`` times as often. 0: never."""
    mine_weight: float = Field(default=6.0, ge=1)
    small_faces: int = Field(default=6000, ge=0)
    """How many of the low-resolution crops are labelled and used."""
    small_faces_certain: bool = False
    """Every low-resolution crop shows a face, also where the teacher sees none (:func:`shows_a_face`)."""


def load_detection_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> DetectionRecipe:
    """As :func:`edge_fer.train.recipe.load_recipe`, for a detector."""
    return load_as(DetectionRecipe, name_or_path, overrides)
