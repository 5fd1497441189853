"""Optimisers, the learning-rate schedule, and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from edge_fer.core.errors import BadInputError
from edge_fer.train.recipe import OptimizerSpec, PartSpec, ScheduleSpec


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


def part_of(name: str, parts: Sequence[PartSpec]) -> PartSpec | None:
    """The first part that a parameter's name begins with."""
    return next((part for part in parts if name.startswith(part.match)), None)


def frozen_names(names: Iterable[str], parts: Sequence[PartSpec], epoch: int) -> set[str]:
    """Which of these parameters (or, with a dot at the end, modules) do not change in an epoch."""
    chosen = {name: part_of(name, parts) for name in names}
    return {
        name
        for name, part in chosen.items()
        if part is not None and part.frozen and (part.thaw_epoch is None or epoch < part.thaw_epoch)
    }


def freeze(model: nn.Module, parts: Sequence[PartSpec], epoch: int) -> None:
    """Put a network into training mode for an epoch, but for its frozen parts, which stay in evaluation mode."""
    model.train()
    if not parts:
        return
    frozen = frozen_names((name for name, _ in model.named_parameters()), parts, epoch)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    modules = {f"{name}.": module for name, module in model.named_modules() if name}
    for name in frozen_names(modules, parts, epoch):
        modules[name].training = False  # not .eval(): a part inside it may be trained


def build_optimizers(
    model: nn.Module, spec: OptimizerSpec, parts: Sequence[PartSpec] = ()
) -> list[torch.optim.Optimizer]:
    """One optimiser, or two for ``muon``. Biases and batch-norm parameters are never decayed.

    Parts that stay frozen to the end are left out; those that thaw are in, and without a gradient until then.

    Raises:
        BadInputError: a part matches nothing, or nothing is left to train.
    """
    named = dict(model.named_parameters())
    for part in parts:
        if not any(part_of(name, parts) is part for name in named):
            raise BadInputError(
                f"The recipe's part {part.match!r} matches no parameter that an earlier part has not taken.",
                fix=f"Names begin with: {', '.join(dict.fromkeys(name.split('.')[0] for name in named))}.",
            )
    rates: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named.items():
        own = part_of(name, parts)
        if own is not None and own.frozen and own.thaw_epoch is None:
            continue
        rates.setdefault(own.lr if own is not None and own.lr is not None else spec.lr, []).append(parameter)
    if not rates:
        raise BadInputError("The recipe freezes every part of the network, so there is nothing to train.")
    if spec.kind == "muon":
        if parts:
            raise BadInputError(
                "Parts with their own rates are for sgd, adam and adamw, not for muon.",
                fix="--set optimizer.kind=adamw",
            )
        return _muon(rates[spec.lr], spec)
    groups = []
    for lr, members in rates.items():
        groups.append({"params": [p for p in members if p.ndim >= 2], "weight_decay": spec.weight_decay, "lr": lr})
        groups.append({"params": [p for p in members if p.ndim < 2], "weight_decay": 0.0, "lr": lr})
    groups = [group for group in groups if group["params"]]
    if spec.kind == "adamw":
        return [torch.optim.AdamW(groups, lr=spec.lr)]
    if spec.kind == "adam":
        return [torch.optim.Adam(groups, lr=spec.lr)]
    return [torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.momentum > 0)]


def _muon(parameters: list[nn.Parameter], spec: OptimizerSpec) -> list[torch.optim.Optimizer]:
    kernels = [p for p in parameters if p.ndim == 4 and p[0].numel() > 16]
    chosen = {id(p) for p in kernels}
    rest = [p for p in parameters if id(p) not in chosen]
    other = torch.optim.SGD(rest, lr=spec.lr_other or spec.lr, momentum=spec.momentum, nesterov=spec.momentum > 0)
    return [Muon(kernels, spec.lr, spec.momentum, spec.weight_decay), other]


def set_rates(optimizers: Sequence[torch.optim.Optimizer], base: Sequence[Sequence[float]], factor: float) -> None:
    """Set every group of parameters to ``factor`` times its own learning rate; ``base`` has those by optimiser."""
    for optimizer, rates in zip(optimizers, base, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move an exponential moving average towards the network, batch-norm statistics included.

    Args:
        decay: of the average, 0 to 1; in the first steps it is no more than ``(1 + step) / (10 + step)``, so that the
            average does not remember where the network began.
        step: steps so far, this one included.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


class DivergedError(BadInputError):
    """A training whose weights are no numbers any more."""


def check_finite(loss: float, epoch: int) -> None:
    """Refuse to go on with weights that are no numbers any more.

    Args:
        loss: of the moving average on held-out samples, which one such weight is enough to spoil.
        epoch: its number, from 0.

    Raises:
        DivergedError: the loss is infinite or no number.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"The training has diverged in epoch {epoch + 1}: its loss is no number. Nothing of that epoch was kept.",
            fix="Take a smaller rate: --set optimizer.lr=...",
        )


def cosine_factor(progress: float, warmup: float) -> float:
    """Learning-rate factor in (0, 1] after the fraction ``progress`` of the training; linear during ``warmup``."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    if warmup >= 1:  # a training no longer than its warm-up ends where the warm-up does
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def rate_factor(spec: ScheduleSpec, epochs_done: float, epochs: int, warmup_epochs: float) -> float:
    """Learning-rate factor in [0, 1] after ``epochs_done`` (with a fraction) of ``epochs``; linear in the warm-up."""
    if epochs_done < warmup_epochs:
        return cosine_factor(epochs_done / epochs, warmup_epochs / epochs)
    if spec.kind == "constant":
        return 1.0
    if spec.kind == "restarts":
        length, at = float(spec.first_epochs), epochs_done - warmup_epochs
        # A period's end counts as its end, not as the next one's start: the last step of an epoch is at whole numbers.
        while at > length + 1e-9:
            at -= length
            length *= spec.multiply
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, at / length)))
    else:
        factor = cosine_factor(epochs_done / epochs, warmup_epochs / epochs)
    return spec.lowest + (1 - spec.lowest) * factor
