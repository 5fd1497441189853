"""Small pictures with captions on one sheet, for a person to look through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_fer.core.files import atomic_file
from edge_fer.data.samples import Image

TILE_PX, CAPTION_PX, GAP_PX = 96, 13, 6
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.33
PAPER, INK, EMPTY = (255, 255, 255), (40, 40, 40), (225, 225, 225)


@dataclass(frozen=True)
class Tile:
    """One picture (``None`` where it could not be read) and the lines under it."""

    image: Image | None
    lines: tuple[str, ...]


def draw_sheet(path: Path, tiles: Sequence[Tile], title: str, columns: int = 10) -> None:
    """Write a PNG: the title, then the tiles row by row, each fitted into 96 x 96 pixels with its lines below.

    Text that is too wide is cut; letters outside ASCII, which OpenCV cannot draw, become ``?``.
    """
    lines = max((len(tile.lines) for tile in tiles), default=0)
    cell_h, cell_w = TILE_PX + lines * CAPTION_PX + GAP_PX, TILE_PX + GAP_PX
    rows = -(-len(tiles) // columns)
    width = GAP_PX + max(columns * cell_w, 4 * cell_w)
    sheet = np.full((2 * CAPTION_PX + rows * cell_h + GAP_PX, width, 3), PAPER, np.uint8)
    _write(sheet, title, GAP_PX, CAPTION_PX + 3, width)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        y, x = 2 * CAPTION_PX + row * cell_h, GAP_PX + column * cell_w
        sheet[y : y + TILE_PX, x : x + TILE_PX] = EMPTY
        if tile.image is not None and tile.image.size:
            small = _fitted(tile.image)
            top, left = y + (TILE_PX - small.shape[0]) // 2, x + (TILE_PX - small.shape[1]) // 2
            sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
        for line, text in enumerate(tile.lines):
            _write(sheet, text, x, y + TILE_PX + (line + 1) * CAPTION_PX - 3, TILE_PX)
    with atomic_file(path.with_suffix(".png")) as temporary:
        temporary.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())


def _fitted(image: Image) -> Image:
    colour = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    factor = TILE_PX / max(colour.shape[:2])
    size = (max(1, round(colour.shape[1] * factor)), max(1, round(colour.shape[0] * factor)))
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(colour, size, interpolation=kind), dtype=np.uint8)


def _write(sheet: Image, text: str, x: int, y: int, width: int) -> None:
    plain = text.encode("ascii", "replace").decode()
    while plain and cv2.getTextSize(plain, FONT, FONT_SCALE, 1)[0][0] > width:
        plain = plain[:-1]
    cv2.putText(sheet, plain, (x, y), FONT, FONT_SCALE, INK, 1, cv2.LINE_AA)
