"""Architectures by name. A new one is one file and one line here.

Only building one needs torch: without it a name that exists is told from one that does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING

from edge_fer.core.errors import CheckpointError, UsageError
from edge_fer.core.spec import AnySpec, DetectorSpec

if TYPE_CHECKING:
    from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and how to read its contract off a state dict that carries none.

    Attributes:
        factory: ``module:function`` taking ``num_classes``, ``in_channels`` and the architecture's own options.
        input_weight: key of the first convolution's weight (out, channels, kh, kw).
        output_weight: key of the classifier's weight (classes, features).
        task: ``classification`` or ``detection``.
        size_hw: input size that the published recipe uses, assumed for a plain state dict.
        mean, std: per RGB channel, of the published recipe; a grey network takes their averages.
        paper: whose network it is, or who trained it on faces, as people would look for it; empty for none.
        recipes: shipped recipes that train it, the paper's own first.
    """

    factory: str
    input_weight: str
    output_weight: str
    task: str = "classification"
    size_hw: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    paper: str = ""
    recipes: tuple[str, ...] = ()


_SMALL_FACES = (0.508, 0.508, 0.508), (0.255, 0.255, 0.255)
"""Mean and standard deviation of FER-2013's 48x48 faces."""

ARCHITECTURES: dict[str, Architecture] = {
    "cnn_baseline": Architecture(
        "edge_fer.models.cnn_baseline:cnn_baseline",
        "features.0.weight",
        "fc.weight",
        "classification",
        (48, 48),
        *_SMALL_FACES,
        paper="Santhapalli et al., baseline CNN",
        recipes=("cnn-santhapalli",),
    ),
    "compact": Architecture(
        "edge_fer.models.compact:compact",
        "stem.0.weight",
        "fc.weight",
        "classification",
        (48, 48),
        *_SMALL_FACES,
        paper="this project's default network",
        recipes=("compact", "compact-distilled"),
    ),
    "convnext_base": Architecture(
        "edge_fer.models.convnext:convnext_base", "features.0.0.weight", "classifier.2.weight", paper="Liu et al. 2022"
    ),
    "convnext_small": Architecture(
        "edge_fer.models.convnext:convnext_small", "features.0.0.weight", "classifier.2.weight", paper="Liu et al. 2022"
    ),
    "convnext_tiny": Architecture(
        "edge_fer.models.convnext:convnext_tiny",
        "features.0.0.weight",
        "classifier.2.weight",
        paper="Morisseau; Liu et al. 2022",
        recipes=("convnext-tiny-morisseau",),
    ),
    "face_pyramid": Architecture(
        "edge_fer.models.face_pyramid:face_pyramid",
        "stem.0.0.weight",
        "heads.0.2.weight",
        task="detection",
        size_hw=(320, 320),
        paper="this project's face detector",
        recipes=("detector", "detector-finish", "detector-polish", "detector-expressions"),
    ),
    "resemotenet": Architecture(
        "edge_fer.models.resemotenet:resemotenet",
        "features.0.weight",
        "fc.weight",
        "classification",
        (48, 48),
        *_SMALL_FACES,
        paper="Santhapalli et al.; Roy et al. 2024",
        recipes=("resemotenet-santhapalli",),
    ),
    "resnet18": Architecture(
        "edge_fer.models.resnet:resnet18",
        "conv1.weight",
        "fc.weight",
        paper="Sheng & Lau; He et al. 2015",
        recipes=("resnet18-sheng",),
    ),
    "resnet34": Architecture(
        "edge_fer.models.resnet:resnet34",
        "conv1.weight",
        "fc.weight",
        paper="Sheng & Lau; He et al. 2015",
        recipes=("resnet34-sheng",),
    ),
    "resnet50": Architecture(
        "edge_fer.models.resnet:resnet50",
        "conv1.weight",
        "fc.weight",
        paper="Sheng & Lau; Morisseau; He et al. 2015",
        recipes=("resnet50-sheng", "resnet50-morisseau"),
    ),
    "resnet50_fpn": Architecture(
        "edge_fer.models.fpn:resnet50_fpn",
        "backbone.conv1.weight",
        "fc.weight",
        paper="Huang, ResNet50+FPN",
        recipes=("resnet50-fpn-huang",),
    ),
    "resnet50_fpn_hu": Architecture(
        "edge_fer.models.hybrid:resnet50_fpn_hu",
        "backbone.conv1.weight",
        "fc.weight",
        paper="Hu & Kovásznai, +FPN",
        recipes=("resnet50-fpn-hu",),
    ),
    "resnet50_fpn_transformer": Architecture(
        "edge_fer.models.hybrid:resnet50_fpn_transformer",
        "backbone.conv1.weight",
        "fc.weight",
        paper="Hu & Kovásznai, +FPN+Transformer",
        recipes=("hybrid-hu",),
    ),
    "resnet50_hu": Architecture(
        "edge_fer.models.hybrid:resnet50_hu",
        "backbone.conv1.weight",
        "fc.weight",
        paper="Hu & Kovásznai, ResNet50",
        recipes=("resnet50-hu",),
    ),
    "resnet50_transformer": Architecture(
        "edge_fer.models.hybrid:resnet50_transformer",
        "backbone.conv1.weight",
        "fc.weight",
        paper="Hu & Kovásznai, +Transformer",
        recipes=("resnet50-transformer-hu",),
    ),
    "resnet50_vggface2": Architecture(
        "edge_fer.models.vggface2:resnet50_vggface2",
        "conv1.weight",
        "fc.weight",
        mean=(0.51408314, 0.40738314, 0.35880510),
        std=(0.00392157, 0.00392157, 0.00392157),
        paper="Morisseau; Cao et al. 2018",
        recipes=("resnet50-vggface2-morisseau",),
    ),
}


def classifiers() -> list[str]:
    """Names of the architectures that give a score per class, for messages."""
    return sorted(name for name, found in ARCHITECTURES.items() if found.task == "classification")


def architecture(name: str) -> Architecture:
    """Look an architecture up.

    Raises:
        UsageError: it is not registered; the message lists what is.
    """
    found = ARCHITECTURES.get(name)
    if found is None:
        raise UsageError(f"Unknown architecture {name!r}.", fix=f"Known: {', '.join(sorted(ARCHITECTURES))}.")
    return found


def build_model(spec: AnySpec, options: Mapping[str, object] | None = None) -> nn.Module:
    """Build an untrained network for a contract.

    Raises:
        UsageError: the architecture is not registered.
        CheckpointError: the options do not fit the architecture.
    """
    found = architecture(spec.arch)
    if (found.task == "detection") != isinstance(spec, DetectorSpec):
        raise UsageError(
            f"The architecture {spec.arch!r} is for {found.task}.", fix=f"For expressions: {', '.join(classifiers())}."
        )
    module, function = found.factory.split(":")
    factory: Callable[..., nn.Module] = getattr(import_module(module), function)
    try:
        if isinstance(spec, DetectorSpec):
            return factory(**dict(options or {}))
        given = dict(options or {})
        if "size_hw" in signature(factory).parameters:  # networks that learn something for every place
            given.setdefault("size_hw", spec.preprocess.size_hw)
        return factory(num_classes=len(spec.labels), in_channels=spec.preprocess.channels, **given)
    except TypeError as error:
        raise CheckpointError(f"The options of architecture {spec.arch!r} are wrong: {error}.") from None
