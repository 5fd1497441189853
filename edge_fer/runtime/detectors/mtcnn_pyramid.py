"""A picture in all its sizes side by side: one run of the proposal network instead of one for each size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

STRIDE, CELL = 2, 12
"""A cell of the network's output sees a square of 12 pixels of its input; cells are two pixels apart."""
ROUNDING = 1e-6
FACTOR = 0.709
"""From one size to the next: about the root of a half, so that each has half of the area of the one before."""


@dataclass(frozen=True)
class Level:
    """One size of the picture and where it lies in the sheet; all in pixels, ``left`` and ``top`` are even."""

    height: int
    width: int
    scale: float
    left: int = 0
    top: int = 0

    @property
    def footprint(self) -> tuple[int, int]:
        """(height, width) that it takes: a level of an odd side needs one more row or column."""
        return self.height + self.height % STRIDE, self.width + self.width % STRIDE

    @property
    def cells(self) -> tuple[int, int]:
        """(rows, columns) of cells that look at nothing else than this level."""
        return (self.footprint[0] - CELL) // STRIDE + 1, (self.footprint[1] - CELL) // STRIDE + 1


def levels_of(height: int, width: int, min_face_px: int) -> list[Level]:
    """The sizes in which a picture is searched, largest first; none where it is smaller than the smallest face.

    The largest brings the smallest wanted face to a cell's 12 pixels, the smallest just holds a cell.
    """
    scale = CELL / min_face_px
    found = []
    while min(height, width) * scale > CELL - ROUNDING:
        found.append(Level(int(height * scale + 1), int(width * scale + 1), scale))
        scale *= FACTOR
    return found


def packed(levels: list[Level]) -> tuple[list[Level], tuple[int, int]]:
    """The same levels with places in a sheet as wide as the largest, and the sheet's (height, width).

    First fit by decreasing height: each goes to the first row that has room for it. The sheet is about a fifth
    larger than what lies in it.
    """
    width, height = levels[0].footprint[1], 0
    rows: list[list[int]] = []  # top, height, used width
    placed = []
    for level in levels:
        need_h, need_w = level.footprint
        row = next((row for row in rows if row[1] >= need_h and row[2] + need_w <= width), None)
        if row is None:
            row = [height, need_h, 0]
            rows.append(row)
            height += need_h
        placed.append(Level(level.height, level.width, level.scale, row[2], row[0]))
        row[2] += need_w
    return placed, (height, width)


class Pyramid:
    """The levels of pictures of one size, their cells, and the square of the picture that each cell looks at.

    Attributes:
        size_hw: of the sheet; even.
        grid_hw: of the network's output for it.
        cells: intp (n,), where each level's cells lie in that output, counted row by row.
        boxes_xyxy: float32 (n, 4), their squares in the picture's pixels, whole numbers.
        level: int32 (n,), which level a cell belongs to.
    """

    def __init__(self, height: int, width: int, min_face_px: int) -> None:
        """Raises ``ValueError`` where :func:`levels_of` gives none."""
        levels = levels_of(height, width, min_face_px)
        if not levels:
            raise ValueError("the picture is smaller than the smallest face")
        self._levels, self.size_hw = packed(levels)
        self.grid_hw = ((self.size_hw[0] - CELL) // STRIDE + 1, (self.size_hw[1] - CELL) // STRIDE + 1)
        cells, boxes, numbers = [], [], []
        for number, level in enumerate(self._levels):
            y, x = (axis.ravel() for axis in np.mgrid[: level.cells[0], : level.cells[1]])
            cells.append((y + level.top // STRIDE) * self.grid_hw[1] + x + level.left // STRIDE)
            first = np.stack([x, y], axis=1) * STRIDE
            boxes.append(np.floor(np.concatenate([first + 1, first + CELL], axis=1) / level.scale))
            numbers.append(np.full(len(x), number, np.int32))
        self.cells = np.concatenate(cells).astype(np.intp)
        self.boxes_xyxy = np.concatenate(boxes).astype(np.float32)
        self.level = np.concatenate(numbers)
        self._pictures = [np.empty((level.height, level.width, 3), np.uint8) for level in self._levels]

    def write_into(self, sheet: NDArray[np.float32], image_bgr: NDArray[np.uint8]) -> None:
        """Write a picture's levels, 0..255, into float32 (3, H, W) of ``size_hw``; what lies between them stays.

        The largest is made from the picture, the others from it: reading all of a large picture once for each level
        would cost more than the network.
        """
        source = image_bgr
        for level, picture in zip(self._levels, self._pictures, strict=True):
            cv2.resize(source, (level.width, level.height), dst=picture, interpolation=cv2.INTER_AREA)
            source = self._pictures[0]
            rows, columns = slice(level.top, level.top + level.height), slice(level.left, level.left + level.width)
            for channel, plane in enumerate(sheet):
                plane[rows, columns] = picture[..., channel]
            # The last cells of an odd side look one pixel further than the level goes: it sees the last one again.
            if level.height % STRIDE:
                sheet[:, rows.stop, columns] = sheet[:, rows.stop - 1, columns]
                rows = slice(rows.start, rows.stop + 1)
            if level.width % STRIDE:
                sheet[:, rows, columns.stop] = sheet[:, rows, columns.stop - 1]


def logit(probability: float) -> float:
    """What the sigmoid makes ``probability``, above 0 and below 1."""
    return math.log(probability / (1 - probability))
