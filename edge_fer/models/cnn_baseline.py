"""The baseline CNN of Santhapalli et al.: three stages of two 3x3 convolutions, for 48x48 faces.

Widths 64, 128 and 256; batch norm and ReLU after each convolution; each stage ends in a 2x2 max-pool and dropout, which
grows from 0.25 to 0.45 with depth; global average pooling, a dense layer of 128 and the classifier. The paper gives the
two ends of the dropout's range; the middle stage takes their mean, and the dense layer the larger.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

WIDTHS = (64, 128, 256)
DROPOUTS = (0.25, 0.35, 0.45)
DENSE = 128


class CnnBaseline(nn.Module):
    """``(N, in_channels, H, W)`` normalised faces to ``(N, num_classes)`` logits; H and W are multiples of 8."""

    def __init__(self, num_classes: int = 7, in_channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (before, width), dropout in zip(pairwise((in_channels, *WIDTHS)), DROPOUTS, strict=True):
            for channels in (before, width):
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
            layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
        self.features = nn.Sequential(*layers)
        self.dense = nn.Linear(WIDTHS[-1], DENSE)
        self.dropout = nn.Dropout(DROPOUTS[-1])
        self.fc = nn.Linear(DENSE, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x).mean(dim=(2, 3))
        logits: Tensor = self.fc(self.dropout(self.dense(pooled).relu()))
        return logits


def cnn_baseline(num_classes: int = 7, in_channels: int = 1) -> nn.Module:
    """Build the baseline; it has no options."""
    return CnnBaseline(num_classes, in_channels)


__all__ = ["CnnBaseline", "cnn_baseline"]
