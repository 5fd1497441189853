"""Augmentation on whole batches of tensors: one affine warp, light, noise, erasing, and mixing of pairs.

Everything is driven by an explicit generator, so that a resumed training sees the batches that an uninterrupted one
would have seen.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from edge_fer.core.spec import Frozen


class AugmentSpec(Frozen):
    """Ranges of the random changes. Angles in degrees, shifts as a fraction of the side, scales as factors."""

    rotate_deg: float = Field(default=0.0, ge=0)
    scale: tuple[float, float] = (1.0, 1.0)
    aspect: float = Field(default=0.0, ge=0, lt=1)
    shift: float = Field(default=0.0, ge=0)
    flip: bool = True
    brightness: float = Field(default=0.0, ge=0)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    gamma: float = Field(default=0.0, ge=0, lt=1)
    noise: float = Field(default=0.0, ge=0)
    blur_probability: float = Field(default=0.0, ge=0, le=1)
    motion_blur_probability: float = Field(default=0.0, ge=0, le=1)
    motion_blur_px: int = Field(default=9, ge=3)
    erase_probability: float = Field(default=0.0, ge=0, le=1)
    erase_area: tuple[float, float] = (0.02, 0.2)
    mix_probability: float = Field(default=0.0, ge=0, le=1)
    mixup_alpha: float = Field(default=0.2, gt=0)
    cutmix_share: float = Field(default=0.0, ge=0, le=1)


def _uniform(n: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def affine_grid(
    n: int, spec: AugmentSpec, generator: Generator, size_hw: tuple[int, int], full_hw: tuple[int, int]
) -> Tensor:
    """Sampling grid (n, H, W, 2) of random rotation, scale, aspect, shift and flip, in ``grid_sample`` coordinates.

    An output smaller than the image is a window at the image's own scale, not the image made smaller: filters then see
    the same detail at every training size.
    """
    angle = _uniform(n, -spec.rotate_deg, spec.rotate_deg, generator) * (math.pi / 180)
    zoom = 1.0 / _uniform(n, *spec.scale, generator)
    stretch = torch.exp(_uniform(n, -spec.aspect, spec.aspect, generator) * 0.5)
    shift = (torch.rand(n, 2, generator=generator) * 2 - 1) * (2 * spec.shift)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0) if spec.flip else torch.ones(n)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.empty(n, 2, 3)
    theta[:, 0, 0] = cos * zoom * stretch * mirror
    theta[:, 0, 1] = -sin * zoom * stretch
    theta[:, 1, 0] = sin * zoom / stretch * mirror
    theta[:, 1, 1] = cos * zoom / stretch
    theta[:, :, 2] = shift
    theta[:, 0, :2] *= size_hw[1] / full_hw[1]
    theta[:, 1, :2] *= size_hw[0] / full_hw[0]
    return functional.affine_grid(theta, [n, 1, *size_hw], align_corners=False)


def motion_kernels(n: int, length: int, generator: Generator) -> Tensor:
    """Lines of up to ``length`` pixels at random angles, as kernels (n, side, side) that sum to 1; the side is odd."""
    side = length | 1
    angle = _uniform(n, 0.0, math.pi, generator).view(n, 1, 1)
    reach = _uniform(n, 1.0, side / 2, generator).view(n, 1, 1)
    at = torch.arange(side, dtype=torch.float32) - side // 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    along = x * torch.cos(angle) + y * torch.sin(angle)
    across = y * torch.cos(angle) - x * torch.sin(angle)
    line = (1 - across.abs()).clamp_min(0) * (reach + 0.5 - along.abs()).clamp(0, 1)
    return line / line.sum(dim=(1, 2), keepdim=True)


def _motion_blur(x: Tensor, spec: AugmentSpec, generator: Generator) -> Tensor:
    """Pictures of a moving face or camera: each chosen sample is smeared along a line of its own."""
    chosen = (torch.rand(x.shape[0], generator=generator) < spec.motion_blur_probability).nonzero().flatten()
    if not len(chosen):
        return x
    kernels = motion_kernels(len(chosen), spec.motion_blur_px, generator)
    channels, side = x.shape[1], kernels.shape[-1]
    faces = x[chosen].flatten(0, 1).unsqueeze(0)
    faces = functional.pad(faces, [side // 2] * 4, mode="replicate")
    weights = kernels.repeat_interleave(channels, dim=0).unsqueeze(1)
    x[chosen] = functional.conv2d(faces, weights, groups=len(weights)).view_as(x[chosen])
    return x


def _jitter(x: Tensor, spec: AugmentSpec, generator: Generator) -> Tensor:
    n = x.shape[0]
    if spec.gamma:
        exponent = torch.exp(_uniform(n, -spec.gamma, spec.gamma, generator))
        x = x.clamp_(1e-4, 1.0).pow_(exponent.view(n, 1, 1, 1))
    if spec.contrast or spec.brightness:
        gain = 1 + _uniform(n, -spec.contrast, spec.contrast, generator)
        offset = _uniform(n, -spec.brightness, spec.brightness, generator)
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = (x - mean).mul_(gain.view(n, 1, 1, 1)).add_(mean + offset.view(n, 1, 1, 1))
    if spec.blur_probability:
        chosen = (torch.rand(n, generator=generator) < spec.blur_probability).nonzero().flatten()
        if len(chosen):
            x[chosen] = functional.avg_pool2d(x[chosen], 3, stride=1, padding=1, count_include_pad=False)
    if spec.motion_blur_probability:
        x = _motion_blur(x, spec, generator)
    if spec.noise:
        level = torch.rand(n, 1, 1, 1, generator=generator) * spec.noise
        x = x + torch.randn(x.shape, generator=generator) * level
    return x.clamp_(0.0, 1.0)


def _erase(x: Tensor, spec: AugmentSpec, generator: Generator) -> Tensor:
    n, _, height, width = x.shape
    for i in (torch.rand(n, generator=generator) < spec.erase_probability).nonzero().flatten().tolist():
        area, ratio, at_y, at_x, value = torch.rand(5, generator=generator).tolist()
        area = (spec.erase_area[0] + area * (spec.erase_area[1] - spec.erase_area[0])) * height * width
        ratio = math.exp((ratio * 2 - 1) * math.log(3.0))
        h = min(height, max(1, round(math.sqrt(area * ratio))))
        w = min(width, max(1, round(math.sqrt(area / ratio))))
        top, left = int(at_y * (height - h + 1)), int(at_x * (width - w + 1))
        x[i, :, top : top + h, left : left + w] = value
    return x


def augment(x: Tensor, spec: AugmentSpec, generator: Generator, size_hw: tuple[int, int]) -> Tensor:
    """(n, C, H, W) float in 0..1 -> (n, C, *size_hw) float in 0..1, each image changed independently."""
    grid = affine_grid(x.shape[0], spec, generator, size_hw, (x.shape[2], x.shape[3]))
    x = functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    x = _jitter(x, spec, generator)
    return _erase(x, spec, generator) if spec.erase_probability else x


def mix(x: Tensor, targets: Tensor, spec: AugmentSpec, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix of a batch with a shuffled copy of itself; ``targets`` is (n, classes) of probabilities."""
    order = torch.randperm(x.shape[0], generator=generator)
    if torch.rand(1, generator=generator).item() < spec.cutmix_share:
        height, width = x.shape[2:]
        side = math.sqrt(torch.rand(1, generator=generator).item() * 0.5)
        h, w = max(1, round(height * side)), max(1, round(width * side))
        top = int(torch.randint(0, height - h + 1, (1,), generator=generator))
        left = int(torch.randint(0, width - w + 1, (1,), generator=generator))
        x = x.clone()
        x[:, :, top : top + h, left : left + w] = x[order, :, top : top + h, left : left + w]
        keep = 1.0 - h * w / (height * width)
    else:
        # Beta(a, a) as a ratio of two gammas: torch's own Beta takes no generator.
        a, b = torch._standard_gamma(torch.full((2,), spec.mixup_alpha), generator=generator).clamp_min(1e-9).tolist()
        keep = max(a, b) / (a + b)
        x = x * keep + x[order] * (1 - keep)
    return x, targets * keep + targets[order] * (1 - keep)
