"""How the pixels of a frame reach a GPU with memory of its own: measured on the frames themselves."""

from __future__ import annotations

from statistics import median
from typing import Literal

Transfer = Literal["copy", "in place"]
"""``copy``: its copy engine moves the rows that hold faces; ``in place``: the kernel reads them through the bus."""
WAYS: tuple[Transfer, ...] = ("copy", "in place")
TRIALS = 16
"""Frames of each way before one is chosen; the first of each pays for what happens once, and does not count."""


class TransferChoice:
    """Alternates between the ways until each has its trials, then keeps the one with the smaller median.

    What is compared is the device's time from the first byte to the scores. On a GPU that shares the host's memory
    there is nothing to compare: whatever copies is slower.
    """

    def __init__(self, *, integrated: bool, fixed: Transfer | None = None) -> None:
        self.chosen: Transfer | None = fixed or ("in place" if integrated else None)
        self.times_ms: dict[Transfer, list[float]] = {way: [] for way in WAYS}
        self._asked = 0

    def next(self) -> Transfer:
        """The way for the next frame."""
        if self.chosen is not None:
            return self.chosen
        self._asked += 1
        return WAYS[self._asked % len(WAYS)]

    def add(self, way: Transfer, device_ms: float) -> None:
        """The device's time for a frame that went this way."""
        if self.chosen is not None:
            return
        self.times_ms[way].append(device_ms)
        if all(len(times) > TRIALS for times in self.times_ms.values()):
            copied, in_place = (self.median_ms(way) for way in WAYS)
            self.chosen = "copy" if copied <= in_place else "in place"

    def median_ms(self, way: Transfer) -> float:
        return median(self.times_ms[way][1:])

    def sentence(self) -> str:
        """For people: which way was taken, and why."""
        if self.chosen is None:
            return "The run was too short to choose between copying pixels and reading them in place."
        said = "The GPU read pixels in place" if self.chosen == "in place" else "Pixels were copied to the GPU"
        if not any(self.times_ms.values()):
            return f"{said}."
        listed = ", ".join(f"{way} {self.median_ms(way):.2f} ms" for way in WAYS)
        return f"{said}, the faster way here (medians of the GPU's time from the first byte to the scores: {listed})."
