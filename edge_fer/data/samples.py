"""Labelled images, as every reader returns them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError

Image = NDArray[np.uint8]
"""Decoded pixels: (H, W) grey or (H, W, 3) BGR, 0..255."""


@dataclass(frozen=True)
class Samples:
    """A list of labelled images that are decoded only when asked for.

    Attributes:
        ids: names that stay the same on every machine (a path relative to the dataset, or a row number).
        labels: int64 (n,), indices into ``class_names``.
        class_names: in the order of the indices.
        read: index -> decoded pixels; raises ``BadInputError`` naming the file when it cannot be decoded.
        source: where these came from, for reports.
        left_out: folders whose names are no class, each with its number of pictures.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    read: Callable[[int], Image]
    source: str
    left_out: tuple[tuple[str, int], ...] = ()

    @property
    def left_out_note(self) -> str:
        """What was left out, as a sentence; empty when nothing was."""
        if not self.left_out:
            return ""
        told = ", ".join(f"{name} ({count})" for name, count in self.left_out)
        return f"Left out, because they are none of the seven classes: {told}."

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels):
            raise ValueError("ids and labels differ in length")
        if len(self.ids) == 0:
            raise BadInputError(f"No labelled image found in {self.source}.")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Samples:
        """A subset in the given order."""
        chosen = np.asarray(indices, dtype=np.int64)
        read = self.read
        return Samples(
            ids=tuple(self.ids[i] for i in chosen),
            labels=self.labels[chosen],
            class_names=self.class_names,
            read=lambda i: read(int(chosen[i])),
            source=self.source,
            left_out=self.left_out,
        )

    def counts(self) -> dict[str, int]:
        """Images per class, every class present even at zero."""
        per_class = np.bincount(self.labels, minlength=len(self.class_names))
        return {name: int(count) for name, count in zip(self.class_names, per_class, strict=True)}
