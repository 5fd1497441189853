"""Grad-CAM (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks", 2017): where a class is seen.

For a layer's maps ``A_k`` and the class's logit ``y``: ``weight_k = mean over places of dy/dA_k``, and the heat is
``relu(sum_k weight_k * A_k)``, enlarged to the input's size. Its scale means nothing between pictures, so it is given
relative to its own largest value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_fer.core.errors import UsageError
from edge_fer.core.spec import ModelSpec
from edge_fer.evaluate.network_graph import NetworkGraph, SpatialMap, read_graph

BATCH = 32


@dataclass(frozen=True)
class Heat:
    """What a network answers, and where it sees the explained classes.

    Attributes:
        scores: float64 (n, classes), softmax.
        classes: int64 (n,), the class that is explained in each row.
        heat: float32 (n, H, W) of the input's size, 0..1, each divided by its largest value.
        peak: float32 (n,), that largest value before; 0 where nothing in the layer speaks for the class.
    """

    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    heat: NDArray[np.float32]
    peak: NDArray[np.float32]


class Explainer:
    """A network, opened for looking into.

    Args:
        module: fp32, on the CPU; it is set to evaluation mode.
        spec: its contract.
        layer: dotted name of the module whose maps are weighed; ``None``: see :func:`default_layer`.

    Raises:
        UsageError: there is no such layer, its output is not a map, or it runs more than once.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, layer: str | None = None) -> None:
        self.module, self.spec = module.eval(), spec
        self.graph = read_graph(self.module, torch.zeros(1, *spec.input_shape))
        self.layer = self.check(layer) if layer is not None else default_layer(self.graph, spec)

    def check(self, layer: str) -> str:
        """The name itself, when the layer's output is a map.

        Raises:
            UsageError: it is not; the message names the maps that there are.
        """
        found = [m for m in self.graph.maps if m.name == layer]
        if not found:
            known = layer in dict(self.module.named_modules())
            raise UsageError(
                f"The output of layer {layer!r} is not a map with channels first."
                if known
                else f"{self.spec.name} has no layer {layer!r}.",
                fix=f"Among its maps: {', '.join(m.name for m in stages(self.graph))}.",
            )
        if found[0].calls > 1:
            raise UsageError(
                f"Layer {layer!r} runs {found[0].calls} times for one picture: its map is not one map.",
                fix=f"Choose another one with --layer: {', '.join(m.name for m in stages(self.graph))}.",
            )
        return layer

    def scores(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Softmax scores, float64 (n, classes), of float32 (n, C, H, W) inputs."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(inputs), BATCH):
                logits = self.module(torch.from_numpy(inputs[start : start + BATCH]))
                parts.append(torch.softmax(logits.double(), dim=1).numpy())
        return np.concatenate(parts)

    def heat(
        self, inputs: NDArray[np.float32], classes: NDArray[np.int64] | None = None, layer: str | None = None
    ) -> Heat:
        """Grad-CAM of every row.

        Args:
            inputs: float32 (n, C, H, W), n from 1.
            classes: int64 (n,), what to explain; ``None``: the class that each row is taken for.
            layer: another one than the explainer's own.
        """
        name = self.layer if layer is None else self.check(layer)
        parts = []
        for start in range(0, len(inputs), BATCH):
            rows = slice(start, start + BATCH)
            parts.append(self._heat(inputs[rows], None if classes is None else classes[rows], name))
        return Heat(
            *(np.concatenate([getattr(part, f) for part in parts]) for f in ("scores", "classes", "heat", "peak"))
        )

    def _heat(self, inputs: NDArray[np.float32], classes: NDArray[np.int64] | None, name: str) -> Heat:
        kept: list[Tensor] = []

        def cut(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            # The rest of the network gets a copy: an activation in place would otherwise change the maps themselves.
            kept.append(output.detach().requires_grad_())
            return kept[0].clone()

        hook = self.module.get_submodule(name).register_forward_hook(cut)
        try:
            with torch.enable_grad():
                logits = self.module(torch.from_numpy(inputs))
                chosen = logits.argmax(dim=1) if classes is None else torch.from_numpy(classes)
                picked = logits.gather(1, chosen[:, None]).sum()
                (slopes,) = torch.autograd.grad(picked, kept[0], allow_unused=True)
        finally:
            hook.remove()
        if slopes is None:
            raise UsageError(f"Layer {name!r} has no influence on the scores.", fix="Choose another one with --layer.")
        maps = kept[0].detach()
        heat = functional.relu((slopes.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1, keepdim=True))
        size = (int(inputs.shape[2]), int(inputs.shape[3]))
        heat = functional.interpolate(heat, size=size, mode="bilinear", align_corners=False)[:, 0]
        peak = heat.amax(dim=(1, 2))
        heat = heat / torch.where(peak > 0, peak, torch.ones_like(peak))[:, None, None]
        scores = torch.softmax(logits.detach().double(), dim=1)
        return Heat(scores.numpy(), chosen.numpy(), heat.numpy(), peak.numpy())

    def maps(self, inputs: NDArray[np.float32], layers: list[str]) -> dict[str, NDArray[np.float32]]:
        """Outputs of layers: float32 (n, C, H, W) each, by name."""
        found: dict[str, NDArray[np.float32]] = {}

        def keep(name: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                found[name] = output.detach().numpy().copy()

            return hook

        hooks = [self.module.get_submodule(self.check(name)).register_forward_hook(keep(name)) for name in layers]
        try:
            with torch.inference_mode():
                self.module(torch.from_numpy(inputs))
        finally:
            for handle in hooks:
                handle.remove()
        return found


FAMILY_LAYERS: Mapping[str, str] = {
    "resemotenet": "features",
    "resnet50_fpn": "backbone.layer4",
    "resnet50_fpn_hu": "backbone.layer4",
}
"""Architecture -> layer, where the last map would say little about the place. A pyramid's levels side by side all come
from the trunk's last stage (C5), the coarsest of them with 2 x 2 places; ResEmoteNet halves 48 pixels down to one
place, and what its residual blocks begin with is the last map as fine as the other networks' (6 x 6)."""


def default_layer(graph: NetworkGraph, spec: ModelSpec) -> str:
    """The family's own layer, or else the last map that the network computes, under its outermost name.

    Raises:
        UsageError: the network has no map.
    """
    if (own := FAMILY_LAYERS.get(spec.arch)) is not None:
        return own
    maps = [m for m in graph.maps if m.calls == 1]
    if not maps:
        raise UsageError(f"{spec.name} computes no map with channels first, so there is nothing to weigh.")
    last = max(m.tensor for m in maps)
    return [m.name for m in maps if m.tensor == last][-1]


def stages(graph: NetworkGraph) -> list[SpatialMap]:
    """What a network has at each resolution: the last map of that size, under its outermost name, in order.

    Maps that every path goes through come first: the inside of a block is not where a stage ends.
    """
    maps, through = [m for m in graph.maps if m.calls == 1], graph.unavoidable()
    found = []
    for size in dict.fromkeys(m.shape[1:] for m in maps):
        same = [m for m in maps if m.shape[1:] == size]
        ends = [m for m in same if m.layer in through] or same
        last = max(m.tensor for m in ends)
        found.append([m for m in ends if m.tensor == last][-1])
    return sorted(found, key=lambda m: m.tensor)


def telling_channels(maps: NDArray[np.float32], count: int = 4) -> NDArray[np.int64]:
    """Channels that say most about *where*: those of largest standard deviation over the places.

    Args:
        maps: float32 (C, H, W).

    Returns:
        int64 (min(count, C),), the most varied first; ties keep their order.
    """
    spread = maps.reshape(len(maps), -1).std(axis=1)
    return np.argsort(-spread, kind="stable")[:count].astype(np.int64)
