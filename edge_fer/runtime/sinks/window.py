"""A window through SDL2, which its wheel brings along; OpenCV's headless wheel has none."""

from __future__ import annotations

import os
import sys
from typing import Any

import cv2
import numpy as np

from edge_fer.core.errors import DeviceError, MissingDependencyError
from edge_fer.runtime.annotate import annotated
from edge_fer.runtime.results import FrameResult, StopRun

TITLE = "edge-fer (q or Esc ends)"


def has_display() -> bool:
    """Whether a window can be opened: always assumed on Windows and macOS, asked of the environment elsewhere."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class WindowSink:
    """Shows the newest result; a slow screen skips frames, it never holds up the loop.

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

    def _open(self, width: int, height: int) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
        except ImportError:
            raise MissingDependencyError("pygame-ce", extra="", purpose="the window (--show)") from None
        self._pygame = pygame
        try:
            pygame.display.init()
            self._screen = pygame.display.set_mode((width, height), pygame.RESIZABLE | pygame.SCALED)
        except pygame.error as error:
            raise DeviceError(f"No window can be opened: {error}.", fix="Use --no-show.") from None
        pygame.display.set_caption(TITLE)

    def write(self, result: FrameResult) -> None:
        image = annotated(result)
        height, width = image.shape[:2]
        if self._screen is None:
            self._open(width, height)
        if self._rgb.shape != image.shape:
            self._rgb = np.empty_like(image)
            if self._screen.get_size() != (width, height):
                self._screen = self._pygame.display.set_mode(
                    (width, height), self._pygame.RESIZABLE | self._pygame.SCALED
                )
        self.idle()
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=self._rgb)
        surface = self._pygame.image.frombuffer(self._rgb.data, (width, height), "RGB")
        self._screen.blit(surface, (0, 0))
        self._pygame.display.flip()

    def idle(self) -> None:
        """Answer the window's events, also while no frame comes: a window that does not looks hung."""
        if self._screen is None:
            return
        for event in self._pygame.event.get():
            key = getattr(event, "key", None)
            if event.type == self._pygame.QUIT or key in (self._pygame.K_q, self._pygame.K_ESCAPE):
                raise StopRun

    def close(self, *, complete: bool) -> None:
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None
