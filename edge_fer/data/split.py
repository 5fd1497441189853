"""Splits that depend on nothing but the samples' names."""

from __future__ import annotations

import hashlib

import numpy as np

from edge_fer.data.samples import Samples


def holdout(samples: Samples, fraction: float, salt: str) -> tuple[Samples, Samples]:
    """Split into (rest, held out): a sample is held out when the hash of ``salt`` and its id falls below ``fraction``.

    Adding or removing files never moves another sample across, and no list has to be kept.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError("fraction must lie in (0, 1)")
    limit = int(fraction * 2**64)
    held = np.fromiter(
        (int.from_bytes(hashlib.sha256(f"{salt}:{name}".encode()).digest()[:8], "big") < limit for name in samples.ids),
        dtype=bool,
        count=len(samples),
    )
    return samples.select(np.flatnonzero(~held)), samples.select(np.flatnonzero(held))
