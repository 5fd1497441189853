"""Real video files and a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_fer.backends.registry import open_engine
from edge_fer.cli.run import DEMO
from edge_fer.core.bundle import Bundle
from edge_fer.core.engine import Engine


@pytest.fixture
def engine(shipped: Bundle) -> Iterator[Engine]:
    with open_engine(shipped, backend="onnxruntime", precision="int8") as opened:
        yield opened


@pytest.fixture(scope="session")
def demo_frames() -> list[np.ndarray]:
    """The first frames of the demo clip, BGR."""
    capture = cv2.VideoCapture(str(DEMO))
    frames = [capture.read()[1] for _ in range(12)]
    capture.release()
    return frames


@pytest.fixture(scope="session")
def short_clip(tmp_path_factory: pytest.TempPathFactory, demo_frames: list[np.ndarray]) -> Path:
    """Twelve frames with one face at 25 fps."""
    path = tmp_path_factory.mktemp("clips") / "short.mp4"
    height, width = demo_frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (width, height))
    for frame in demo_frames:
        writer.write(frame)
    writer.release()
    return path
