"""A picture's bytes as a camera or decoder delivered them, and which of them hold its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pixels = Literal["bgr24", "nv12", "yuyv422"]
"""FFmpeg's names."""


@dataclass(frozen=True)
class RawPicture:
    """Colours of YUV are those of ITU-R BT.601 in video range, as OpenCV's ``cvtColor`` takes them.

    Attributes:
        memory: uint8, C-contiguous: (H, W, 3) of bgr24; (H * 3 / 2, W) of nv12, whose luma lies above U and V in turn;
            (H, W, 2) of yuyv422.
        pixels: which of these it is.
    """

    memory: NDArray[np.uint8]
    pixels: Pixels = "bgr24"

    @property
    def size_hw(self) -> tuple[int, int]:
        """The picture's (height, width) in pixels."""
        height, width = self.memory.shape[:2]
        return (height * 2 // 3, width) if self.pixels == "nv12" else (height, width)

    @property
    def chroma_offset(self) -> int:
        """Where U and V begin, in bytes; 0 where they lie between the luma."""
        height, width = self.size_hw
        return height * width if self.pixels == "nv12" else 0

    def parts(self, top: int, bottom: int) -> tuple[tuple[int, int], ...]:
        """(offset, length) in bytes of what the rows [top, bottom) are made of: one range, of nv12 two."""
        row = self.memory[0].nbytes
        rows = (top * row, (bottom - top) * row)
        if self.pixels != "nv12":
            return (rows,)
        # Two rows share one of chroma.
        first, last = top // 2, (bottom + 1) // 2
        return rows, (self.chroma_offset + first * row, (last - first) * row)


__all__ = ["Pixels", "RawPicture"]
