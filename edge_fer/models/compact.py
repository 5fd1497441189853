"""The project's own network: nine 3x3 convolutions for 48x48 grey faces.

The shape follows what a small face needs on a CPU or an MX250. Below 64 pixels such nets are bound by streaming weights
and feature maps, not by arithmetic, so the wide layers sit at 12x12 and 6x6 where the maps are small, and the
full-resolution stem has only 32 channels. Every layer is a plain convolution + batch norm + ReLU: it folds, quantises
per channel and fuses in every runtime that we target.
"""

from __future__ import annotations

from torch import Tensor, nn


class ConvBnRelu(nn.Sequential):
    """3x3 convolution, batch norm, ReLU: ``(N, in, H, W) -> (N, out, H, W)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """``x + body(x)``. The body ends in a ReLU, so the sum of two non-negative maps stays non-negative and quantises
    to unsigned 8 bits without a zero-point."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(ConvBnRelu(channels, channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class Stage(nn.Sequential):
    """Halve the map, widen it, then refine it with one residual body."""

    def __init__(self, in_channels: int, out_channels: int, depth: int) -> None:
        super().__init__(
            nn.MaxPool2d(2),
            ConvBnRelu(in_channels, out_channels),
            Residual(out_channels, depth),
        )


class CompactNet(nn.Module):
    """``(N, in_channels, H, W)`` normalised faces to ``(N, num_classes)`` logits; H and W are multiples of 8."""

    def __init__(
        self,
        num_classes: int = 7,
        in_channels: int = 1,
        widths: tuple[int, int, int, int] = (32, 64, 160, 320),
        depths: tuple[int, int, int] = (1, 2, 2),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.stem = ConvBnRelu(in_channels, widths[0])
        self.stages = nn.Sequential(*(Stage(widths[i], widths[i + 1], depths[i]) for i in range(3)))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        features = self.stages(self.stem(x)).mean(dim=(2, 3))
        logits: Tensor = self.fc(self.dropout(features))
        return logits


def compact(num_classes: int = 7, in_channels: int = 1, **options: object) -> nn.Module:
    """Build the default network; see :class:`CompactNet` for the options."""
    return CompactNet(num_classes, in_channels, **options)  # type: ignore[arg-type]


__all__ = ["CompactNet", "compact"]
