"""The recipe of ``edge-fer data prepare`` as it stands in YAML; docs/datasets.md explains every key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from edge_fer.core.errors import BadInputError
from edge_fer.core.settings_files import read_settings
from edge_fer.core.spec import Alignment, Frozen
from edge_fer.data.quality import QualitySpec
from edge_fer.data.readers.base import FacesBy
from edge_fer.data.twins import TwinSpec

SHIPPED = Path(__file__).parent / "recipes"
PARTS = ("train", "val", "test")


class SourceSpec(Frozen):
    """One dataset.

    Attributes:
        name: short, unique; it goes into file names and tables.
        path: absolute, beside the recipe, below the working directory, or below $EDGE_FER_DATA.
        format: a layout's name; by default it is recognised.
        options: of that layout's reader, such as ``poses`` of KDEF.
        labels: their class -> one of the seven, or null to leave it out.
        splits: only these of the dataset's own splits; empty means all.
        faces: ``whole`` (the picture is the face), ``given`` (the box that the dataset gives, with the crop's margin,
            upright) or ``detect``; by default what the layout usually needs.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]{0,30}$")
    path: str
    format: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    labels: dict[str, str | None] = Field(default_factory=dict)
    splits: tuple[str, ...] = ()
    faces: FacesBy | None = None


class CropSpec(Frozen):
    """How a face is cut: turned until the eyes are level (``eyes``) or upright (``none``), with ``margin`` of the box's
    longer side on each side, resized to a square of ``size`` pixels."""

    size: int = Field(default=224, ge=16, le=1024)
    margin: float = Field(default=0.3, ge=0, le=1)
    align: Alignment = "eyes"


class DetectSpec(Frozen):
    """Who finds faces: what ``edge-fer run --detector`` takes. ``missing`` says what to do with a picture in which no
    face is found: leave it out, or take the whole picture (which the manifest then says)."""

    detector: str = "edge-fer-face"
    score: float | None = Field(default=None, gt=0, lt=1)
    missing: Literal["drop", "whole"] = "drop"


class SplitSpec(Frozen):
    """``stratified``: by class and source in these shares; ``official``: the datasets' own splits under these names
    (``official`` maps theirs to ours)."""

    by: Literal["stratified", "official"] = "stratified"
    train: float = Field(default=0.8, gt=0)
    val: float = Field(default=0.1, gt=0)
    test: float = Field(default=0.1, gt=0)
    official: dict[str, Literal["train", "val", "test"]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> SplitSpec:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError("train, val and test must sum to 1")
        return self


class PrepareRecipe(Frozen):
    """Everything that decides what comes out.

    Attributes:
        twins: when two faces count as the same picture; they are then put on one side of the split. ``null`` leaves
            them where chance puts them.
        image: file type of the faces; ``jpg`` is a fifth of the size and loses a little (quality 95).
    """

    seed: int = 2013
    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    detect: DetectSpec = DetectSpec()
    crop: CropSpec = CropSpec()
    quality: QualitySpec = QualitySpec()
    split: SplitSpec = SplitSpec()
    twins: TwinSpec | None = TwinSpec()
    image: Literal["png", "jpg"] = "png"

    @model_validator(mode="after")
    def _names(self) -> PrepareRecipe:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError("two sources have the same name")
        return self


def load_recipe(name_or_path: str) -> tuple[PrepareRecipe, Path]:
    """A shipped recipe by name, or a YAML file; with the folder that its relative paths start from.

    Raises:
        BadInputError: neither, not YAML, or not a recipe; the message names the first key that is wrong.
    """
    path = Path(name_or_path)
    shipped = SHIPPED / f"{name_or_path}.yaml"
    if path.suffix.lower() not in (".yaml", ".yml") and shipped.is_file():
        path = shipped
    known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
    return read_settings(path, PrepareRecipe, "recipe", fix=f"Shipped recipes: {known}."), path.parent


def find_source(source: SourceSpec, beside: Path) -> Path:
    """Where a source lies.

    Raises:
        BadInputError: nowhere.
    """
    home = os.environ.get("EDGE_FER_DATA")
    places = [beside / source.path, Path(source.path), *([Path(home) / source.path] if home else [])]
    for place in places:
        if place.exists():
            return place
    raise BadInputError(
        f"The source {source.name} was not found: there is no {source.path}.",
        fix="Give an absolute path, one beside the recipe, or set EDGE_FER_DATA to the folder that holds it.",
    )
