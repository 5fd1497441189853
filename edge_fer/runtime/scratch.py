"""Memory for pictures whose size is known only when they come."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Scratch:
    """A uint8 picture of any size in memory that is kept."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def take(self, height: int, width: int, channels: int) -> NDArray[np.uint8]:
        """(H, W) for one channel, (H, W, C) for more; valid until the next ``take``."""
        size = height * width * channels
        if size > len(self._bytes):
            self._bytes = np.empty(size * 5 // 4, np.uint8)
        shape = (height, width) if channels == 1 else (height, width, channels)
        return self._bytes[:size].reshape(shape)
