"""Training recipes: YAML files that are validated before anything slow starts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.core.files import atomic_file
from edge_fer.core.findings import findings
from edge_fer.core.settings_files import read_yaml, yaml_complaint
from edge_fer.core.spec import Frozen, ModelSpec
from edge_fer.train.augment import AugmentSpec
from edge_fer.train.distill import DistillSpec
from edge_fer.train.losses import LossSpec


class OptimizerSpec(Frozen):
    """``lr`` is for a whole batch.

    ``muon`` orthogonalises the updates of convolution weights; the other parameters get SGD at ``lr_other``. The decay
    of ``adam`` and ``sgd`` is added to the gradient (L2), that of ``adamw`` and ``muon`` is taken off the weights.
    """

    kind: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    lr_other: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    warmup_epochs: float = Field(default=1.0, ge=0)


class PartSpec(Frozen):
    """A part of the network, by the beginning of its parameters' names, that is not trained like the rest.

    ``lr`` replaces the optimiser's. A ``frozen`` part does not change, its batch-norm statistics included, and neither
    drops nor perturbs anything; with ``thaw_epoch`` only until that epoch begins. The first part that matches counts.
    """

    match: str
    lr: float | None = Field(default=None, gt=0)
    frozen: bool = False
    thaw_epoch: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _says_something(self) -> PartSpec:
        if self.lr is None and not self.frozen:
            raise ValueError("a part needs an lr, or to be frozen")
        if self.thaw_epoch is not None and not self.frozen:
            raise ValueError("thaw_epoch is for a frozen part")
        if self.frozen and self.thaw_epoch is None and self.lr is not None:
            raise ValueError("a part that stays frozen has no lr")
        return self


class ScheduleSpec(Frozen):
    """How the learning rate moves after the warm-up.

    ``cosine``: from 1 to 0 once. ``restarts``: a cosine over ``first_epochs``, then again from 1 over
    ``multiply`` times as many, and so on (Loshchilov & Hutter, SGDR, 2017). ``constant``: not at all. ``lowest`` is the
    factor that a cosine ends at.
    """

    kind: Literal["cosine", "restarts", "constant"] = "cosine"
    first_epochs: int = Field(default=10, gt=0)
    multiply: int = Field(default=2, ge=1)
    lowest: float = Field(default=0.0, ge=0, lt=1)


class SizePhase(Frozen):
    """From epoch ``start`` on, train at ``size_hw``."""

    start: int = Field(ge=0)
    size_hw: tuple[int, int]


class Recipe(Frozen):
    """Everything that a training depends on besides the data's location and the number of threads."""

    model: ModelSpec
    model_options: dict[str, object] = Field(default_factory=dict)
    split: str = "train"
    holdout_fraction: float = Field(default=0.06, gt=0, lt=0.5)
    holdout_salt: str = "edge-fer"
    seed: int = 0
    epochs: int = Field(gt=0)
    batch_size: int = Field(default=128, gt=0)
    amp: Literal["none", "bf16", "fp16"] = "bf16"
    init: str | None = None
    """Weights to begin with: a file, or ``imagenet`` for the published ones of the trunk. The classifier is new."""
    optimizer: OptimizerSpec = OptimizerSpec()
    parts: tuple[PartSpec, ...] = ()
    schedule: ScheduleSpec = ScheduleSpec()
    loss: LossSpec = LossSpec()
    distill: DistillSpec | None = None
    """Teachers to learn from beside the labels, e.g. ``{teachers: [runs/a/best.safetensors], weight: 0.7}``."""
    balance: bool = False
    """Draw samples with replacement, every class as often as any other, instead of each sample once an epoch."""
    patience: int | None = Field(default=None, gt=0)
    """Stop after so many epochs without a better held-out top-1."""
    augment: AugmentSpec = AugmentSpec()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    self_target_start: int | None = None
    self_target_weight: float = Field(default=0.0, ge=0, lt=1)
    self_target_momentum: float = Field(default=0.8, ge=0, lt=1)
    sizes: tuple[SizePhase, ...] = ()

    def size_at(self, epoch: int) -> tuple[int, int]:
        """Training resolution (height, width) of an epoch."""
        size = self.model.preprocess.size_hw
        for phase in self.sizes:
            if epoch >= phase.start:
                size = phase.size_hw
        return size


def save_recipe(path: Path, recipe: Frozen) -> None:
    """Write a recipe as YAML, with every default spelt out, so that a run can be repeated from its folder alone."""
    with atomic_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def _override(tree: dict[str, object], setting: str) -> None:
    """Apply ``a.b=value`` to a nested mapping; the value is YAML."""
    keys, separator, value = setting.partition("=")
    if not separator or not keys:
        raise UsageError(f"--set takes key=value, not {setting!r}.", fix="For example: --set optimizer.lr=0.02")
    *parents, last = keys.split(".")
    for key in parents:
        child = tree.setdefault(key, {})
        if not isinstance(child, dict):
            raise UsageError(f"--set {setting}: {key!r} holds a value, not a group of keys.")
        tree = child
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"The value of --set {setting} is not valid YAML{yaml_complaint(error)}.") from None


_R = TypeVar("_R", bound=Frozen)


def recipe_task(name_or_path: str) -> str:
    """``classification`` or ``detection``: what a recipe trains. Errors as of :func:`load_recipe`."""
    return str(_read(name_or_path, ())[0].get("task", "classification"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name, or any YAML file by path, and apply ``key=value`` overrides.

    Raises:
        UsageError: neither a file nor the name of a shipped recipe.
        BadInputError: the file is not a valid recipe; the message names each wrong key.
    """
    return load_as(Recipe, name_or_path, overrides)


def load_as(kind: type[_R], name_or_path: str, overrides: Sequence[str] = ()) -> _R:
    """:func:`load_recipe` for recipes of any kind."""
    tree, where = _read(name_or_path, overrides)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        typed = {setting.partition("=")[0] for setting in overrides}
        places = {".".join(map(str, one["loc"])) for one in error.errors()}
        # A shipped recipe is valid, and so is most likely a file in all that was not typed.
        if blamed := [key for key in typed if any(place == key or key.startswith(f"{place}.") for place in places)]:
            raise UsageError(f"Wrong setting of {', '.join(blamed)}: {findings(error, kind)}.") from None
        raise BadInputError(f"{where} is not a valid recipe: {findings(error, kind)}.") from None


def _read(name_or_path: str, overrides: Sequence[str]) -> tuple[dict[str, object], str]:
    """A recipe as a tree with the overrides applied, and what to call it in messages."""
    path = Path(name_or_path)
    shipped = resources.files("edge_fer.train.recipes")
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        tree, where = read_yaml(path, "recipe"), str(path)
    elif (entry := shipped / f"{name_or_path}.yaml").is_file():
        tree, where = yaml.safe_load(entry.read_text(encoding="utf-8")), f"recipe {name_or_path}"
    else:
        known = sorted(item.name.removesuffix(".yaml") for item in shipped.iterdir() if item.name.endswith(".yaml"))
        raise UsageError(f"No recipe {name_or_path!r}.", fix=f"Shipped recipes: {', '.join(known)}.")
    if not isinstance(tree, dict):
        raise BadInputError(f"{where} is not a valid recipe: it holds no keys with values.")
    for setting in overrides:
        _override(tree, setting)
    return tree, where
