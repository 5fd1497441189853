"""Which pictures of a collection are the same picture, or nearly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edge_fer.core.spec import Frozen
from edge_fer.data.perceptual_hash import (
    LARGEST_RADIUS,
    SLACK,
    Hashes,
    correlation,
    hamming,
    mini_correlations,
    mirrored,
    near_pairs,
)
from edge_fer.data.samples import Image

Kind = Literal["copy", "near", "mirrored"]
Progress = Callable[[str, int, int], None]
"""Called with (what is done, how many are, of how many)."""


class TwinSpec(Frozen):
    """When two pictures count as the same.

    Attributes:
        radius: hashes that differ in at most so many of 64 bits are candidates.
        correlation: a candidate's pixels must correlate this much.
        mirrored: whether a picture is also compared with the others' mirror images.
    """

    radius: int = Field(default=10, ge=0, le=LARGEST_RADIUS)
    correlation: float = Field(default=0.9, gt=0, le=1)
    mirrored: bool = True


@dataclass(frozen=True)
class Pair:
    """Numbers of two pictures, ``i < j``; the bits in which their hashes differ, and the correlation.

    ``copy``: their thumbnails are equal pixel by pixel.
    """

    i: int
    j: int
    distance: int
    correlation: float
    kind: Kind


def find_twins(
    hashes: Hashes,
    minis: Image,
    thumb_of: Callable[[int], Image],
    spec: TwinSpec,
    progress: Progress | None = None,
) -> list[Pair]:
    """Every pair that counts as the same picture, in the order of their numbers.

    A pair that is near both ways is called ``near``, not ``mirrored``.

    Args:
        hashes: uint64 (n,), :func:`edge_fer.data.perceptual_hash.difference_hash` of each picture.
        minis: uint8 (n, 16, 16), their :func:`edge_fer.data.perceptual_hash.miniature`.
        thumb_of: number -> :func:`edge_fer.data.perceptual_hash.thumbnail`; asked only for what is close already.
    """
    found: dict[tuple[int, int], Pair] = {}
    for i, j, distance in _candidates(hashes, hashes, minis, minis, spec, "Comparing", progress):
        a, b = thumb_of(i), thumb_of(j)
        value = correlation(a, b)
        if value >= spec.correlation:
            found[i, j] = Pair(i, j, distance, value, "copy" if np.array_equal(a, b) else "near")
    if spec.mirrored:
        turned = np.ascontiguousarray(minis[:, :, ::-1])
        told = "Comparing mirrored"
        for i, j, distance in _candidates(hashes, mirrored(hashes), minis, turned, spec, told, progress):
            if (i, j) not in found:
                value = correlation(thumb_of(i), np.ascontiguousarray(thumb_of(j)[:, ::-1]))
                if value >= spec.correlation:
                    found[i, j] = Pair(i, j, distance, value, "mirrored")
    return [found[key] for key in sorted(found)]


BATCH = 8192


def _candidates(
    a: Hashes, b: Hashes, minis_a: Image, minis_b: Image, spec: TwinSpec, told: str, progress: Progress | None
) -> Iterator[tuple[int, int, int]]:
    """Distinct (i, j, bits) with i < j whose hashes are near and whose miniatures correlate nearly enough, sorted."""
    keys = [np.empty(0, np.int64)]
    for i, j in near_pairs(a, b, spec.radius):
        low, high = np.minimum(i, j), np.maximum(i, j)
        keys.append(np.unique((low * len(a) + high)[low < high]))
    near = np.unique(np.concatenate(keys))
    for start in range(0, len(near), BATCH):
        i, j = np.divmod(near[start : start + BATCH], len(a))
        good = mini_correlations(minis_a[i], minis_b[j]) >= spec.correlation - SLACK
        yield from zip(i[good].tolist(), j[good].tolist(), hamming(a[i[good]], b[j[good]]).tolist(), strict=True)
        if progress is not None:
            progress(told, min(start + BATCH, len(near)), len(near))


def groups_of(count: int, pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """The smallest number of each picture's group, int64 (count,): pictures that pairs connect have the same."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for pair in pairs:
        a, b = sorted((root(pair.i), root(pair.j)))
        parent[b] = a
    return np.array([root(i) for i in range(count)], dtype=np.int64)
