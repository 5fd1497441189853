"""ResNet-18/34/50 (He et al., "Deep Residual Learning for Image Recognition", 2015), as the seed papers train them.

Parameter names and shapes equal torchvision's, so that published and home-trained weights load; like torchvision's, the
bottleneck carries its stride in the 3x3 convolution ("v1.5"). torchvision itself is not needed.
"""

from __future__ import annotations

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ``(N, in, H, W) -> (N, width, H / stride, W / stride)``."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        activated: Tensor = self.relu(out + identity)
        return activated


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut: ``(N, in, H, W) -> (N, 4 * width, H / stride, W / stride)``."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        activated: Tensor = self.relu(out + identity)
        return activated


class ResNet(nn.Module):
    """``(N, in_channels, H, W)`` normalised faces to ``(N, num_classes)`` logits; H and W from 32 pixels up.

    ``dropout`` is the share of features left out before the classifier, in training.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self._channels = 64
        self.layer1 = self._layer(block, 64, depths[0], stride=1)
        self.layer2 = self._layer(block, 128, depths[1], stride=2)
        self.layer3 = self._layer(block, 256, depths[2], stride=2)
        self.layer4 = self._layer(block, 512, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _layer(self, block: type[BasicBlock] | type[Bottleneck], width: int, depth: int, stride: int) -> nn.Sequential:
        out_channels = width * block.expansion
        downsample: nn.Module | None = None
        if stride != 1 or self._channels != out_channels:
            downsample = nn.Sequential(
                nn.Conv2d(self._channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        first = block(self._channels, width, stride, downsample)
        self._channels = out_channels
        return nn.Sequential(first, *(block(out_channels, width, 1, None) for _ in range(depth - 1)))

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """C2 to C5 of the literature: the maps that the four stages leave, at 1/4, 1/8, 1/16 and 1/32 of the input."""
        c2 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(self.avgpool(self.levels(x)[3]).flatten(1)))
        return logits


def resnet50_trunk(in_channels: int) -> ResNet:
    """ResNet-50 without its classifier, for networks that look at its :meth:`ResNet.levels`."""
    trunk = ResNet(Bottleneck, (3, 4, 6, 3), 1, in_channels)
    trunk.fc = nn.Identity()  # type: ignore[assignment]
    return trunk


def resnet18(num_classes: int = 7, in_channels: int = 3, dropout: float = 0.0) -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, dropout)


def resnet34(num_classes: int = 7, in_channels: int = 3, dropout: float = 0.0) -> nn.Module:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, dropout)


def resnet50(num_classes: int = 7, in_channels: int = 3, dropout: float = 0.0) -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, dropout)


__all__ = ["ResNet", "resnet18", "resnet34", "resnet50", "resnet50_trunk"]
