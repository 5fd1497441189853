"""What a classifier is told it did wrong: cross-entropy, focal loss, and the sum over a network's heads.

Targets are probabilities, not class numbers: smoothing, mixing and self-targets have then nothing special about them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from edge_fer.core.spec import Frozen
from edge_fer.models.hybrid import MAIN_SHARE

Loss = Callable[[Tensor, Tensor], Tensor]


class LossSpec(Frozen):
    """``alpha`` and ``gamma`` belong to the focal loss; ``main_share`` to networks with auxiliary heads."""

    kind: Literal["cross_entropy", "focal"] = "cross_entropy"
    alpha: float = Field(default=0.25, gt=0, le=1)
    gamma: float = Field(default=2.0, ge=0)
    main_share: float = Field(default=MAIN_SHARE, gt=0, le=1)


def focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """The mean over the batch of ``-alpha * sum_c t_c (1 - p_c)^gamma log p_c``.

    Lin et al., "Focal Loss for Dense Object Detection" (2017), eq. 5, over a softmax and for targets that may be mixed:
    with a target of a single class it is theirs, and with ``alpha`` 1 and ``gamma`` 0 the cross-entropy.

    Args:
        logits, targets: float (n, classes); the targets' rows sum to 1.
    """
    logarithms = functional.log_softmax(logits, dim=1)
    # Not quite zero: the slope of 0 ** gamma is infinite below gamma 1, and infinity times nothing is no number.
    easy = (1 - logarithms.exp()).clamp_min(1e-6)
    return -alpha * (targets * easy.pow(gamma) * logarithms).sum(dim=1).mean()


def build_loss(spec: LossSpec) -> Loss:
    """A function of logits and targets, both float (n, classes), that gives a scalar."""
    if spec.kind == "cross_entropy":
        return functional.cross_entropy
    return lambda logits, targets: focal_loss(logits, targets, spec.alpha, spec.gamma)


def over_heads(loss: Loss, main: Tensor, auxiliary: Sequence[Tensor], targets: Tensor, main_share: float) -> Tensor:
    """``main_share`` of the main head's loss, the rest shared evenly by the others; all of it without others."""
    whole = loss(main, targets)
    if not auxiliary:
        return whole
    share = (1 - main_share) / len(auxiliary)
    return main_share * whole + share * sum((loss(logits, targets) for logits in auxiliary), start=whole.new_zeros(()))
