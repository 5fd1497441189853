"""A student learns from what larger networks say about the very pictures that it sees (Hinton et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from edge_fer.core.errors import BadInputError
from edge_fer.core.spec import Frozen, ModelSpec, PreprocessSpec
from edge_fer.models.checkpoint import load_checkpoint


class DistillSpec(Frozen):
    """``weight`` of the loss is the distance to the mean of the teachers, the rest the labels'.

    ``temperature`` flattens both sides' probabilities, and shows what a teacher thinks of the wrong classes.
    """

    teachers: tuple[str, ...] = Field(min_length=1)
    weight: float = Field(default=0.7, gt=0, le=1)
    temperature: float = Field(default=2.0, gt=0)


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(teacher || softmax(logits / T))``, the mean over the batch; the factor keeps gradients of one size.

    Args:
        logits: float (n, classes), the student's.
        teacher: float (n, classes), probabilities at the same temperature.
    """
    student = functional.log_softmax(logits / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean")


class Teachers:
    """Checkpoints that answer together, each in its own contract: colours, size, mean and deviation.

    Raises:
        BadInputError: a teacher's classes are not the student's, in the student's order.
    """

    def __init__(self, spec: DistillSpec, student: ModelSpec, device: torch.device) -> None:
        self._temperature, self._student, self._device = spec.temperature, student.preprocess, device
        self._members: list[tuple[nn.Module, PreprocessSpec]] = []
        for path in spec.teachers:
            if not Path(path).is_file():
                raise BadInputError(
                    f"There is no teacher {path}.",
                    fix="Train it first, or name others: --set 'distill.teachers=[FILE, FILE]'.",
                )
            loaded = load_checkpoint(Path(path))
            if loaded.spec.labels != student.labels:
                raise BadInputError(
                    f"The teacher {path} knows the classes {', '.join(loaded.spec.labels)}; the student's are "
                    f"{', '.join(student.labels)}."
                )
            network = loaded.model.to(device).eval().requires_grad_(False)
            self._members.append((network, loaded.spec.preprocess))

    @torch.no_grad()
    def probabilities(self, pixels: Tensor) -> Tensor:
        """The mean of the teachers' probabilities at the recipe's temperature, float32 (n, classes).

        Args:
            pixels: float (n, C, H, W) in 0 to 1, as the student sees them: turned, mixed, and perhaps a window of the
                face, which is then the same window for a teacher.
        """
        total: Tensor | None = None
        for network, contract in self._members:
            x = fitted(pixels, self._student.size_hw, contract).to(self._device)
            answer = functional.softmax(network(x).float() / self._temperature, dim=1)
            total = answer if total is None else total + answer
        assert total is not None
        return total / len(self._members)


def fitted(pixels: Tensor, size_hw: Sequence[int], contract: PreprocessSpec) -> Tensor:
    """Pixels of one contract as another one wants them, normalised.

    The scale is that of whole faces: a face of ``size_hw`` would become one of the contract's size. Grey becomes three
    equal colours, colours become grey by ITU-R BT.601.
    """
    height, width = (round(n * to / of) for n, to, of in zip(pixels.shape[2:], contract.size_hw, size_hw, strict=True))
    x = pixels
    if (height, width) != tuple(x.shape[2:]):
        x = functional.interpolate(x, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    if x.shape[1] == 1 and contract.channels == 3:
        x = x.expand(-1, 3, -1, -1)
    elif x.shape[1] == 3 and contract.channels == 1:
        x = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    mean, std = (x.new_tensor(values).view(1, -1, 1, 1) for values in (contract.mean, contract.std))
    return (x - mean) / std
