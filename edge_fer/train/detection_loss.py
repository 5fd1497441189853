"""What a detector is taught: which place answers for which face, and what a wrong answer costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edge_fer.models.face_pyramid import STRIDES


@dataclass(frozen=True)
class Targets:
    """A batch's labels, padded to the same number of rows.

    Attributes:
        boxes: float32 (N, M, 4) xyxy in pixels.
        landmarks: float32 (N, M, 5, 2) in pixels; NaN teaches nothing.
        kind: int8 (N, M): 1 a face, 0 nothing (padding), -1 a place to ignore.
    """

    boxes: Tensor
    landmarks: Tensor
    kind: Tensor


@dataclass(frozen=True)
class Losses:
    """Scalars: their weighted sum, and its parts for the log."""

    total: Tensor
    score: float
    box: float
    landmarks: float


def places(height: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Centres (A, 2) in pixels, and strides (A,), in the network's order."""
    centres, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        grid = torch.stack([x, y], dim=-1).reshape(-1, 2).float()
        centres.append((grid + 0.5) * stride)
        strides.append(torch.full((len(grid),), float(stride)))
    return torch.cat(centres).to(device), torch.cat(strides).to(device)


def decode(raw: Tensor, centres: Tensor, strides: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 15, A) -> score logits (N, A), boxes (N, A, 4) xyxy, landmarks (N, A, 5, 2), in pixels."""
    raw = raw.transpose(1, 2)
    scale = strides.view(1, -1, 1)
    middle = centres + raw[..., 1:3] * scale
    half = raw[..., 3:5].clamp(-4, 5).exp() * scale / 2
    landmarks = centres.view(1, -1, 1, 2) + raw[..., 5:].reshape(*raw.shape[:2], 5, 2) * scale.unsqueeze(-1)
    return raw[..., 0], torch.cat([middle - half, middle + half], dim=-1), landmarks


def pair_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every pair, batched: (N, M, 4), (N, A, 4) -> (N, M, A)."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    return overlap / (area_a[:, :, None] + area_b[:, None, :] - overlap).clamp(min=1e-6)


def complete_iou_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """1 - CIoU of matching rows (Zheng et al. 2020): overlap, distance of centres, difference of aspect."""
    low, high = torch.maximum(predicted[:, :2], wanted[:, :2]), torch.minimum(predicted[:, 2:], wanted[:, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    size_p, size_w = predicted[:, 2:] - predicted[:, :2], wanted[:, 2:] - wanted[:, :2]
    iou = overlap / (size_p.prod(-1) + size_w.prod(-1) - overlap).clamp(min=1e-6)
    hull = torch.maximum(predicted[:, 2:], wanted[:, 2:]) - torch.minimum(predicted[:, :2], wanted[:, :2])
    distance = ((predicted[:, :2] + predicted[:, 2:] - wanted[:, :2] - wanted[:, 2:]) / 2).square().sum(-1)
    angle = torch.atan(size_w[:, 0] / size_w[:, 1].clamp(min=1e-6)) - torch.atan(
        size_p[:, 0] / size_p[:, 1].clamp(min=1e-6)
    )
    aspect = angle.square() * (4 / torch.pi**2)
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect).clamp(min=1e-6)
    return 1 - iou + distance / hull.square().sum(-1).clamp(min=1e-6) + weight * aspect


@torch.no_grad()
def assign(
    scores: Tensor, boxes: Tensor, centres: Tensor, strides: Tensor, targets: Targets, top: int = 9
) -> tuple[Tensor, Tensor, Tensor]:
    """Task-aligned assignment (Feng et al., TOOD, 2021).

    Each face takes the ``top`` places whose own prediction suits it best (score^0.5 * IoU^4), among those whose centre
    lies in the face, or within one stride of a face's centre that is smaller than that. A place wanted twice goes to
    the face that it overlaps more.

    Returns:
        owner (N, A) int64, row of the face or -1; quality (N, A) in 0..1, the score to learn; ignore (N, A) bool.
    """
    a = scores.shape[1]
    overlap = pair_iou(targets.boxes, boxes)
    low = centres.view(1, 1, a, 2) - targets.boxes[:, :, None, :2]
    high = targets.boxes[:, :, None, 2:] - centres.view(1, 1, a, 2)
    inside = torch.minimum(low, high).amin(-1) > 0
    middle = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    near = (centres.view(1, 1, a, 2) - middle[:, :, None]).abs().amax(-1) < strides.view(1, 1, a) * 0.75
    is_face = (targets.kind == 1).unsqueeze(-1)
    candidate = (inside | near) & is_face
    fit = scores.sigmoid().unsqueeze(1).sqrt() * overlap.pow(4)
    # A place that overlaps nothing yet still has to start somewhere: the nearest candidates win ties.
    fit = (fit + 1e-9) * candidate
    chosen = torch.zeros_like(candidate)
    chosen.scatter_(2, fit.topk(min(top, a), dim=2).indices, True)
    chosen &= candidate
    rivals = torch.where(chosen, overlap + 1e-6, torch.zeros_like(overlap))
    best, owner = rivals.max(dim=1)
    taken = best > 0
    owner = torch.where(taken, owner, torch.full_like(owner, -1))
    mine = torch.zeros_like(chosen).scatter_(1, owner.clamp(min=0).unsqueeze(1), taken.unsqueeze(1)) & chosen
    fit = torch.where(mine, fit, torch.zeros_like(fit))
    peak_iou = torch.where(mine, overlap, torch.zeros_like(overlap)).amax(dim=2, keepdim=True)
    quality = (fit / fit.amax(dim=2, keepdim=True).clamp(min=1e-9) * peak_iou).amax(dim=1)
    skip = (inside & (targets.kind == -1).unsqueeze(-1)).any(dim=1) & ~taken
    return owner, quality, skip


def detection_loss(
    raw: Tensor, targets: Targets, centres: Tensor, strides: Tensor, *, box_weight: float, landmark_weight: float
) -> Losses:
    """Varifocal-style score loss (Zhang et al. 2021), CIoU, and landmark distance over the face's size."""
    scores, boxes, landmarks = decode(raw.float(), centres, strides)
    owner, quality, skip = assign(scores.detach(), boxes.detach(), centres, strides, targets)
    positive = owner >= 0
    norm = quality.sum().clamp(min=1.0)
    probability = scores.detach().sigmoid()
    weight = torch.where(positive, quality.clamp(min=0.05), 0.75 * probability.square())
    weight = weight * (~skip)
    score_loss = (functional.binary_cross_entropy_with_logits(scores, quality, reduction="none") * weight).sum() / norm
    image, place = positive.nonzero(as_tuple=True)
    if len(image) == 0:
        return Losses(score_loss, score_loss.item(), 0.0, 0.0)
    row, share = owner[image, place], quality[image, place]
    wanted = targets.boxes[image, row]
    box_loss = (complete_iou_loss(boxes[image, place], wanted) * share).sum() / norm
    side = (wanted[:, 2:] - wanted[:, :2]).prod(-1).sqrt().clamp(min=4).view(-1, 1, 1)
    gap = (landmarks[image, place] - targets.landmarks[image, row]) / side
    gap = torch.where(gap.isfinite(), gap, torch.zeros_like(gap))
    point_loss = (
        functional.smooth_l1_loss(gap, torch.zeros_like(gap), beta=0.02, reduction="none").mean((1, 2)) * share
    ).sum() / norm
    total = score_loss + box_weight * box_loss + landmark_weight * point_loss
    return Losses(total, score_loss.item(), box_loss.item(), point_loss.item())
