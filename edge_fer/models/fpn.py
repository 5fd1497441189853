"""ResNet-50 with a feature pyramid and a prediction at every level, after Huang.

The pyramid is RetinaNet's (Lin et al., "Focal Loss for Dense Object Detection", 2017): P3 to P5 from C3 to C5, P6, P7
by strided convolutions. The paper says that each level predicts and that the predictions are concatenated before the
softmax, not how their sizes are brought together; here each level is averaged over its places, gives one score per
class, and a linear layer weighs the 5 x classes scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_fer.models.resnet import resnet50_trunk

WIDTH = 256
"""Channels of every level of a pyramid."""


class TopDown(nn.Module):
    """Feature maps of any widths, fine to coarse, to maps of 256 channels each.

    1x1 convolutions bring the widths together, each coarser map is enlarged (nearest) and added to the next finer one,
    and 3x3 convolutions smooth the sums (Lin et al., "Feature Pyramid Networks for Object Detection", 2017).

    Args:
        widths: channels of each map.
        sizes_hw: height and width of each map. Known beforehand, they are constants of an exported graph, which would
            otherwise hold arithmetic on shapes.
    """

    def __init__(self, widths: Sequence[int], sizes_hw: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.sizes_hw = tuple(sizes_hw)
        self.lateral = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        sums = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for fine in range(len(sums) - 2, -1, -1):
            (height, width), (below, across) = self.sizes_hw[fine], self.sizes_hw[fine + 1]
            factors = (height / below, width / across)
            larger = functional.interpolate(sums[fine + 1], scale_factor=factors, mode="nearest")
            sums[fine] = sums[fine] + larger
        return [smooth(x) for smooth, x in zip(self.smooth, sums, strict=True)]

    def coarsest(self, last: Tensor) -> Tensor:
        """The last of :meth:`forward`'s maps, which needs no other map than the last one."""
        smoothed: Tensor = self.smooth[-1](self.lateral[-1](last))
        return smoothed


def level_sizes(size_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """(height, width) of a ResNet's C2 to C5: every stage halves, rounding up."""
    return [(-(-size_hw[0] // stride), -(-size_hw[1] // stride)) for stride in (4, 8, 16, 32)]


class ResNetFpn(nn.Module):
    """``(N, in_channels, *size_hw)`` normalised faces to ``(N, num_classes)`` logits."""

    def __init__(self, num_classes: int, in_channels: int, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = resnet50_trunk(in_channels)
        self.pyramid = TopDown((512, 1024, 2048), level_sizes(size_hw)[1:])
        self.p6 = nn.Conv2d(2048, WIDTH, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, num_classes) for _ in range(5))
        self.fc = nn.Linear(5 * num_classes, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        _, c3, c4, c5 = self.backbone.levels(x)
        p6 = self.p6(c5)
        levels = [*self.pyramid((c3, c4, c5)), p6, self.p7(p6.relu())]
        scores = [head(level.relu().mean(dim=(2, 3))) for head, level in zip(self.heads, levels, strict=True)]
        logits: Tensor = self.fc(torch.cat(scores, dim=1))
        return logits


def resnet50_fpn(num_classes: int = 7, in_channels: int = 3, size_hw: tuple[int, int] = (224, 224)) -> nn.Module:
    return ResNetFpn(num_classes, in_channels, size_hw)


__all__ = ["WIDTH", "ResNetFpn", "TopDown", "level_sizes", "resnet50_fpn"]
