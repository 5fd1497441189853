"""ResEmoteNet (Roy et al., "ResEmoteNet: Bridging Accuracy and Loss Reduction in Facial Emotion Recognition", 2024), as
Santhapalli et al. train it on 48x48 faces.

Three convolutions with max-pooling, a squeeze-and-excitation block, three residual blocks that halve the map and double
its width, global average pooling, and dense layers of 1024, 512 and 256. Nearly all of its 80 M parameters lie in the
last two residual blocks.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

WIDTHS = (64, 128, 256)
RESIDUAL_WIDTHS = (512, 1024, 2048)
DENSE = (1024, 512, 256)
REDUCTION = 16


class SqueezeExcitation(nn.Module):
    """Weigh channels by what they hold on average (Hu et al., 2018): ``(N, C, H, W)`` to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # 1x1 convolutions of a 1x1 map are the dense layers of the paper, and keep the shape that engines like.
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // REDUCTION, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // REDUCTION, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        weighed: Tensor = x * self.excite(x)
        return weighed


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a projected shortcut: ``(N, in, H, W) -> (N, out, H / 2, W / 2)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False), nn.BatchNorm2d(out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.body(x) + self.shortcut(x)).relu()
        return out


class ResEmoteNet(nn.Module):
    """``(N, in_channels, H, W)`` normalised faces to ``(N, num_classes)`` logits; H and W from 16 pixels up."""

    def __init__(self, num_classes: int, in_channels: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in pairwise((in_channels, *WIDTHS)):
            layers += [
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        self.features = nn.Sequential(*layers, SqueezeExcitation(WIDTHS[-1]))
        self.residual = nn.Sequential(
            *(ResidualBlock(before, width) for before, width in pairwise((WIDTHS[-1], *RESIDUAL_WIDTHS)))
        )
        dense: list[nn.Module] = []
        for before, width in pairwise((RESIDUAL_WIDTHS[-1], *DENSE)):
            dense += [nn.Linear(before, width), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.dense = nn.Sequential(*dense)
        self.fc = nn.Linear(DENSE[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dense(self.residual(self.features(x)).mean(dim=(2, 3))))
        return logits


def resemotenet(num_classes: int = 7, in_channels: int = 1, dropout: float = 0.5) -> nn.Module:
    return ResEmoteNet(num_classes, in_channels, dropout)


__all__ = ["ResEmoteNet", "resemotenet"]
