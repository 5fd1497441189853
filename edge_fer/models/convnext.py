"""ConvNeXt-Tiny/Small/Base (Liu et al., "A ConvNet for the 2020s", 2022): depthwise convolutions, LayerNorm and GELU.

Parameter names and shapes equal torchvision's, so that its published ImageNet weights load. torchvision is not needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER_SCALE = 1e-6
_EPS = 1e-6


class Permute(nn.Module):
    """Reorder axes, as a module so that the layers of a block are numbered like torchvision's."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)


class LayerNorm2d(nn.LayerNorm):
    """Normalise over the channels of each pixel: ``(N, C, H, W) -> (N, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """A 7x7 depthwise convolution, then a two-layer perceptron per pixel, added to the input: shapes stay.

    In training, the branch is left out for a random ``drop`` of the samples and scaled up for the others (Huang et al.,
    "Deep Networks with Stochastic Depth", 2016); at inference it always counts.
    """

    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise ValueError(f"a block is dropped with a probability in [0, 1), not {drop}")
        self.drop = drop
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=_EPS),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Permute(0, 3, 1, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.layer_scale * self.block(x)
        if self.training and self.drop > 0:
            kept = torch.empty((len(x), 1, 1, 1), dtype=branch.dtype, device=branch.device).bernoulli_(1 - self.drop)
            branch = branch * (kept / (1 - self.drop))
        return x + branch


class DroppingLinear(nn.Linear):
    """Dropout and a dense layer in one, so that the classifier keeps torchvision's numbering."""

    def __init__(self, in_features: int, out_features: int, dropout: float) -> None:
        super().__init__(in_features, out_features)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.dropout(x, self.dropout, self.training))


class ConvNeXt(nn.Module):
    """``(N, in_channels, H, W)`` normalised faces to ``(N, num_classes)`` logits; H and W from 32 pixels up.

    Args:
        widths: channels of the four stages.
        depths: blocks of the four stages.
        stochastic_depth: probability with which the last block is dropped in training; it grows linearly from 0.
        dropout: share of features left out before the classifier, in training.
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int],
        depths: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int,
        stochastic_depth: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        last = max(sum(depths) - 1, 1)
        drops = (stochastic_depth * index / last for index in range(sum(depths)))
        stem = nn.Sequential(nn.Conv2d(in_channels, widths[0], 4, stride=4), LayerNorm2d(widths[0], eps=_EPS))
        layers: list[nn.Module] = [stem]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                before = widths[stage - 1]
                layers.append(nn.Sequential(LayerNorm2d(before, eps=_EPS), nn.Conv2d(before, width, 2, stride=2)))
            layers.append(nn.Sequential(*(Block(width, next(drops)) for _ in range(depth))))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            LayerNorm2d(widths[3], eps=_EPS), nn.Flatten(1), DroppingLinear(widths[3], num_classes, dropout)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)))
        return logits


def convnext_tiny(
    num_classes: int = 7, in_channels: int = 3, stochastic_depth: float = 0.1, dropout: float = 0.0
) -> nn.Module:
    return ConvNeXt((96, 192, 384, 768), (3, 3, 9, 3), num_classes, in_channels, stochastic_depth, dropout)


def convnext_small(
    num_classes: int = 7, in_channels: int = 3, stochastic_depth: float = 0.4, dropout: float = 0.0
) -> nn.Module:
    return ConvNeXt((96, 192, 384, 768), (3, 3, 27, 3), num_classes, in_channels, stochastic_depth, dropout)


def convnext_base(
    num_classes: int = 7, in_channels: int = 3, stochastic_depth: float = 0.5, dropout: float = 0.0
) -> nn.Module:
    return ConvNeXt((128, 256, 512, 1024), (3, 3, 27, 3), num_classes, in_channels, stochastic_depth, dropout)


__all__ = ["ConvNeXt", "convnext_base", "convnext_small", "convnext_tiny"]
