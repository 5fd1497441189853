"""Weights to begin with: torchvision's published ImageNet ones, or any checkpoint of the same trunk.

Only the trunk is taken. The classifier always starts afresh, because its classes are others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_fer.backends.fetched import download, folder
from edge_fer.core.errors import BadInputError, CheckpointError, UsageError
from edge_fer.core.files import sha256_file
from edge_fer.models.checkpoint import read_state
from edge_fer.models.registry import architecture
from edge_fer.models.vggface2 import our_names

IMAGENET = "imagenet"
ADDRESS = "https://download.pytorch.org/models/"
"""Of torchvision's weights (BSD 3-clause). The last eight letters of a name are the beginning of its SHA-256."""

PUBLISHED: dict[str, str] = {
    "convnext_base": "convnext_base-6075fbad.pth",
    "convnext_small": "convnext_small-0c510722.pth",
    "convnext_tiny": "convnext_tiny-983f1562.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet50_fpn": "resnet50-0676ba61.pth",
    "resnet50_fpn_hu": "resnet50-0676ba61.pth",
    "resnet50_fpn_transformer": "resnet50-0676ba61.pth",
    "resnet50_hu": "resnet50-0676ba61.pth",
    "resnet50_transformer": "resnet50-0676ba61.pth",
}
"""The published file of every architecture's trunk."""

_AT_MOST = 512 << 20


@dataclass(frozen=True)
class Loaded:
    """What became of the weights.

    Attributes:
        taken: how many tensors were copied.
        left_out: names in the file that the trunk does not have: its classifier.
        fresh: names in the network that the file does not have.
        grey: whether the first convolution's colours were added up for one channel.
    """

    taken: int
    left_out: tuple[str, ...]
    fresh: tuple[str, ...]
    grey: bool


def published_file(arch: str) -> Path:
    """The ImageNet weights of an architecture's trunk: those kept on this machine, or fetched now and checked.

    Raises:
        UsageError: none are published for it.
        DeviceError: they are not here, and their address cannot be reached.
        BadInputError: what came, or what is kept, is not what its name says.
    """
    architecture(arch)
    name = PUBLISHED.get(arch)
    if name is None:
        raise UsageError(
            f"There are no published ImageNet weights for {arch!r}.",
            fix=f"Known: {', '.join(sorted(PUBLISHED))}; or begin from scratch with --set init=null.",
        )
    path = folder() / IMAGENET / name
    begins = name.removesuffix(".pth").rsplit("-", 1)[1]
    if not path.is_file():
        download(
            ADDRESS + name,
            path,
            sha256=begins,
            at_most=_AT_MOST,
            instead=f"Put the file at {path}, name one with --init FILE, or begin from scratch: --set init=null.",
        )
    if not sha256_file(path).startswith(begins):
        raise BadInputError(
            f"{path} is not torchvision's {name}: its SHA-256 does not begin with {begins}.",
            fix="Remove the file, and run the same command again.",
        )
    return path


def load_trunk(network: nn.Module, arch: str, path: Path) -> Loaded:
    """Copy weights into a network's trunk: the part named ``backbone``, or everything but the classifier.

    A file of the whole network (ours) fits as well as one of the bare trunk (torchvision's). Where the network is grey
    and the file is not, the first convolution's three colours are added up: what a grey picture in three equal channels
    would have given.

    Raises:
        CheckpointError: unreadable, or a tensor of the trunk is missing, of another shape, or not finite.
    """
    state = read_state(path)
    if arch == "resnet50_vggface2":
        state = our_names(state)
    whole = network.state_dict()
    first, last = architecture(arch).input_weight, architecture(arch).output_weight.removesuffix("weight")
    prefix = "backbone." if first.startswith("backbone.") else ""
    if prefix and not any(name.startswith(prefix) for name in state):
        state = {prefix + name: tensor for name, tensor in state.items()}
    trunk = [name for name in whole if name.startswith(prefix) and not name.startswith(last)]
    missing = [name for name in trunk if name not in state and not name.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(f"{path} does not hold the trunk of a {arch}: it has no {missing[0]}.")
    taken: dict[str, Tensor] = {name: state[name] for name in trunk if name in state}
    grey = taken[first].ndim == 4 and taken[first].shape[1] == 3 and whole[first].shape[1] == 1
    if grey:
        taken[first] = taken[first].sum(dim=1, keepdim=True)
    for name, tensor in taken.items():
        if tensor.shape != whole[name].shape:
            raise CheckpointError(
                f"The weights in {path} do not fit the trunk of {arch}: {name} is {tuple(tensor.shape)} instead of "
                f"{tuple(whole[name].shape)}."
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"The weights in {path} are broken: {name} holds NaN or infinite values.")
    left_out = tuple(name for name in state if name not in taken)
    # A deeper network holds every name of a shallower one; what is left of its stages says that it is another.
    stages = tuple({f"{prefix}{name.removeprefix(prefix).split('.')[0]}." for name in trunk})
    foreign = [name for name in left_out if name.startswith(stages) and not name.startswith(last)]
    if foreign:
        raise CheckpointError(f"{path} holds another network than {arch}: it has {foreign[0]} as well.")
    network.load_state_dict(taken, strict=False)
    return Loaded(len(taken), left_out, tuple(name for name in whole if name not in taken), grey)


__all__ = ["IMAGENET", "PUBLISHED", "Loaded", "load_trunk", "published_file"]
