"""From logits to scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def softmax_into(out: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
    """Write the softmax of ``logits`` (n, classes) into ``out``; both float32, rows sum to 1, allocates one column."""
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)
