"""Make confidences mean what they say: temperature scaling, folded into the last layer.

Label smoothing and mixing leave a network under-confident. One factor on the logits, chosen on the held-out part, mends
that without changing a single label (Guo et al., On Calibration of Modern Neural Networks, 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LOWEST, HIGHEST, STEPS = 0.2, 5.0, 60


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The divisor of ``logits`` (n, classes) with the smallest cross-entropy to ``labels`` (n,), within 0.2 to 5.

    Golden-section search over its logarithm: the cross-entropy is convex in the inverse temperature, hence unimodal.
    """
    ratio = (5**0.5 - 1) / 2
    low, high = torch.tensor([LOWEST, HIGHEST], dtype=torch.float64).log().tolist()
    wide = logits.double()

    def loss(log_temperature: float) -> float:
        return functional.cross_entropy(wide / torch.tensor(log_temperature).exp(), labels).item()

    for _ in range(STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(torch.tensor((low + high) / 2).exp())


@torch.no_grad()
def scale_logits(layer: nn.Linear, temperature: float) -> None:
    """Divide what a network's last layer gives by ``temperature``."""
    layer.weight.div_(temperature)
    if layer.bias is not None:
        layer.bias.div_(temperature)
