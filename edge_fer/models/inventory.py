"""What every registered network costs: counted on torch's meta device, so nothing is allocated and nothing runs."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib import import_module

import torch
from torch.utils.flop_counter import FlopCounterMode

from edge_fer.models.registry import ARCHITECTURES, architecture

CLASSES = 7


@dataclass(frozen=True)
class NetworkRow:
    """One network of the table.

    Attributes:
        name: of the architecture, as a recipe's ``model.arch`` and ``--arch`` take it.
        task: ``classification`` or ``detection``.
        paper: short reference.
        input_shape: (channels, height, width) that the numbers are counted at.
        parameters: trainable numbers, for seven classes.
        macs: multiply-accumulates of one sample in convolutions, dense layers and matrix products.
        recipes: names of shipped recipes.
    """

    name: str
    task: str
    paper: str
    input_shape: tuple[int, int, int]
    parameters: int
    macs: int
    recipes: tuple[str, ...]


def count(name: str) -> NetworkRow:
    """Count one registered network at its published input, with the colours that its factory takes by default.

    Raises:
        UsageError: it is not registered.
    """
    found = architecture(name)
    module, function = found.factory.split(":")
    factory = getattr(import_module(module), function)
    channels = int(inspect.signature(factory).parameters["in_channels"].default)
    shape = (channels, *found.size_hw)
    options = {} if found.task == "detection" else {"num_classes": CLASSES}
    with torch.device("meta"):
        network = factory(in_channels=channels, **options).eval()
        sample = torch.empty(1, *shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(sample)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # torch counts a multiplication and an addition as two.
    return NetworkRow(name, found.task, found.paper, shape, parameters, counter.get_total_flops() // 2, found.recipes)


def inventory() -> list[NetworkRow]:
    """All registered networks, by name."""
    return [count(name) for name in sorted(ARCHITECTURES)]
