"""The project's face detector: an anchor-free, three-level network for grey pictures of any size.

Its shape follows from what was measured on CPUs with wide dot-product units (AVX512-VNNI, AMX): a dense 3x3 convolution
of 32 channels costs no more than a depthwise one with its pointwise partner, because the latter moves as many bytes
and multiplies far less per byte. So the body is dense where maps are large and channels few, and depthwise only at
strides 16 and 32, where kernels of 5x5 widen the view cheaply. All sums add two non-negative maps, so they quantise to
unsigned 8 bits without a zero-point.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)
CHANNELS = 15
"""Per place: one score logit, centre x and y, log width and height, five landmarks x and y."""
PRIOR_SCORE = 0.01
PRIOR_SIDE = 3.0
"""Side of the face, in strides, that an untrained place predicts."""


class ConvBnRelu(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Separable(nn.Sequential):
    """Depthwise then pointwise convolution, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            ConvBnRelu(inputs, inputs, kernel, stride, groups=inputs), ConvBnRelu(inputs, outputs, kernel=1)
        )


class Residual(nn.Module):
    """``x + body(x)``; the body ends in a ReLU, so nothing becomes negative."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class FacePyramid(nn.Module):
    """``(N, 1, H, W)`` normalised grey pictures to ``(N, 15, places)``; H and W are multiples of 32.

    Places run over stride 8 row by row, then 16, then 32. Row 0 is the score's logit; rows 1 to 4 are centre and log
    size of the box and rows 5 to 14 the landmarks, all relative to the place and in units of its stride.
    """

    def __init__(self, in_channels: int = 1, widths: tuple[int, int, int, int] = (24, 32, 48, 64), neck: int = 40):
        super().__init__()
        stem, w8, w16, w32 = widths
        self.stem = nn.Sequential(ConvBnRelu(in_channels, 16, stride=2), ConvBnRelu(16, stem, stride=2))
        self.stage8 = nn.Sequential(
            ConvBnRelu(stem, w8, stride=2), Residual(ConvBnRelu(w8, w8)), Residual(ConvBnRelu(w8, w8))
        )
        self.stage16 = nn.Sequential(
            ConvBnRelu(w8, w16, stride=2), Residual(ConvBnRelu(w16, w16)), Residual(Separable(w16, w16, kernel=5))
        )
        self.stage32 = nn.Sequential(
            Separable(w16, w32, kernel=5, stride=2),
            Residual(Separable(w32, w32, kernel=5)),
            Residual(Separable(w32, w32, kernel=5)),
        )
        self.lateral = nn.ModuleList(ConvBnRelu(width, neck, kernel=1) for width in (w8, w16, w32))
        self.fuse = nn.ModuleList(Separable(neck, neck) for _ in range(2))
        self.heads = nn.ModuleList(
            nn.Sequential(Separable(neck, neck), Separable(neck, neck), nn.Conv2d(neck, CHANNELS, 1)) for _ in STRIDES
        )
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for head in self.heads:
            last = head.get_submodule("2")
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            nn.init.normal_(last.weight, std=0.01)
            with torch.no_grad():
                last.bias.zero_()
                last.bias[0] = -math.log((1 - PRIOR_SCORE) / PRIOR_SCORE)
                last.bias[3:5] = math.log(PRIOR_SIDE)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stage8(self.stem(x))
        middle = self.stage16(fine)
        coarse = self.lateral[2](self.stage32(middle))
        middle = self.fuse[0](self.lateral[1](middle) + self.upsample(coarse))
        fine = self.fuse[1](self.lateral[0](fine) + self.upsample(middle))
        levels = [head(level).flatten(2) for head, level in zip(self.heads, (fine, middle, coarse), strict=True)]
        return torch.cat(levels, dim=2)


def face_pyramid(in_channels: int = 1, **options: object) -> nn.Module:
    """Build the detector; see :class:`FacePyramid` for the options."""
    return FacePyramid(in_channels, **options)  # type: ignore[arg-type]
