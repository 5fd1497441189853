"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edge_fer.train.recipe import OptimizerSpec


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, by five quintic Newton-Schulz steps (Jordan et al., Muon, 2024).

    Singular values end near 1 (roughly 0.7 to 1.2), which is all that the update direction needs.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.to(torch.bfloat16)
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.T if tall else x).to(matrix.dtype)
    return result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose step is orthogonalised; for weights with at least two dimensions.

    Weights are kept at a fixed norm relative to their initial one by decoupled weight decay, as in AdamW.
    """

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                velocity = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                direction = parameter.grad.add(velocity, alpha=group["momentum"])
                update = orthogonalise(direction.flatten(1)).view_as(parameter)
                rows, columns = parameter.shape[0], parameter[0].numel()
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


def build_optimizers(model: nn.Module, spec: OptimizerSpec) -> list[torch.optim.Optimizer]:
    """One optimiser, or two for ``muon``. Biases and batch-norm parameters are never decayed."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    if spec.kind == "adamw":
        groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=spec.lr)]
    if spec.kind == "sgd":
        groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return [torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.momentum > 0)]
    kernels = [p for p in matrices if p.ndim == 4 and p[0].numel() > 16]
    chosen = {id(p) for p in kernels}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    other = torch.optim.SGD(rest, lr=spec.lr_other or spec.lr, momentum=spec.momentum, nesterov=spec.momentum > 0)
    return [Muon(kernels, spec.lr, spec.momentum, spec.weight_decay), other]


def cosine_factor(progress: float, warmup: float) -> float:
    """Learning-rate factor in (0, 1] after the fraction ``progress`` of the training; linear during ``warmup``."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
