"""A window through SDL2, which its wheel brings along; OpenCV's headless wheel has none."""

from __future__ import annotations

import os
import sys
import time
import warnings
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import DeviceError, MissingDependencyError
from edge_fer.runtime.annotate import annotated, cover_stale
from edge_fer.runtime.results import FrameResult, StopRun

TITLE = "edge-fer (q or Esc ends)"
STALE_S = 1.0
"""A picture that is older than this is shown as an old one, also when nobody has said what is wrong."""
REDRAW_S = 0.25


def has_display() -> bool:
    """Whether a window can be opened: always assumed on Windows and macOS, asked of the environment elsewhere."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _fitted(image: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The whole picture in the middle of another shape (H, W, 3), on black.

    SDL's own way, to give the window another size, breaks its memory (pygame-ce 2.5, with SCALED).
    """
    factor = min(shape[0] / image.shape[0], shape[1] / image.shape[1])
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    whole = np.zeros(shape, np.uint8)
    top, left = (shape[0] - size[1]) // 2, (shape[1] - size[0]) // 2
    whole[top : top + size[1], left : left + size[0]] = small
    return whole


class WindowSink:
    """Shows the newest result; a slow screen skips frames, it never holds up the loop.

    When no new picture comes (the camera is gone, the engine breaks) the last one is darkened and says why and since
    when: a picture that stands still must not be taken for a live one.

    SDL wants its window and its events in the process's main thread (macOS aborts otherwise), so this sink asks to be
    served by the thread that called ``Pipeline.run``.
    """

    name, lossless, on_caller = "window", False, True

    def __init__(self) -> None:
        if not has_display():
            raise DeviceError(
                "There is no display to open a window on (neither DISPLAY nor WAYLAND_DISPLAY is set).",
                fix="Use --no-show, and --save out.mp4 to look at the result later.",
            )
        self._screen: Any = None
        self._rgb = np.empty((0, 0, 3), np.uint8)
        self._state, self._shown_s, self._next_s = "", 0.0, 0.0

    def tell(self, state: str) -> None:
        """Something broke and is tried again, in words; "" when it works again. Called from the loop's threads."""
        self._state = state

    def _open(self, width: int, height: int) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
        except ImportError:
            raise MissingDependencyError("pygame-ce", extra="", purpose="the window (--show)") from None
        self._pygame = pygame
        try:
            pygame.display.init()
            with warnings.catch_warnings():
                # Without a GPU it scales more slowly; nobody can do anything about it.
                warnings.filterwarnings("ignore", message="no fast renderer")
                self._screen = pygame.display.set_mode((width, height), pygame.RESIZABLE | pygame.SCALED)
        except pygame.error as error:
            raise DeviceError(f"No window can be opened: {error}.", fix="Use --no-show.") from None
        pygame.display.set_caption(TITLE)

    def write(self, result: FrameResult) -> None:
        image = annotated(result)
        height, width = image.shape[:2]
        if self._screen is None:
            self._open(width, height)
            self._rgb = np.empty_like(image)
        self._shown_s = time.perf_counter()
        self._answer()
        if image.shape != self._rgb.shape:
            image = _fitted(image, self._rgb.shape)
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=self._rgb)
        self._show(self._rgb)

    def _show(self, rgb: NDArray[np.uint8]) -> None:
        height, width = rgb.shape[:2]
        self._screen.blit(self._pygame.image.frombuffer(rgb.data, (width, height), "RGB"), (0, 0))
        self._pygame.display.flip()

    def idle(self) -> None:
        """While no frame comes: answer the window's events, or it looks hung, and say how old the picture is."""
        if self._screen is None:
            return
        self._answer()
        now = time.perf_counter()
        age_s = now - self._shown_s
        if (self._state or age_s > STALE_S) and now >= self._next_s:
            self._next_s = now + REDRAW_S
            old = self._rgb.copy()
            cover_stale(old, self._state, age_s)
            self._show(old)

    def _answer(self) -> None:
        for event in self._pygame.event.get():
            key = getattr(event, "key", None)
            if event.type == self._pygame.QUIT or key in (self._pygame.K_q, self._pygame.K_ESCAPE):
                raise StopRun

    def close(self, *, complete: bool) -> None:
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None
