"""An annotated MP4."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from edge_fer.core.errors import DeviceError, UsageError
from edge_fer.core.files import describe_os_error
from edge_fer.runtime.annotate import annotate
from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sinks.text_file import publish
from edge_fer.runtime.sources.capture import silent_stderr

DEFAULT_FPS = 30.0
SPARE_BYTES = 16 << 20
"""OpenCV's writer does not say when the disk is full, so the run ends while this much is left."""
CHECK_EVERY = 30


class VideoSink:
    """Writes under a temporary name; the file gets its own when it is finished, also after Ctrl-C.

    A frame of another size than the first (a camera that changes its mode) is fitted into the video's size.
    """

    lossless = True

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() not in (".mp4", ".m4v"):
            raise UsageError(
                f"--save writes MP4 files, not {path.suffix or 'files without an ending'}.", fix="--save out.mp4"
            )
        self.name, self._path = f"video {path}", path
        self._fps = fps or DEFAULT_FPS
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".mp4", dir=path.parent)
        except OSError as error:
            raise describe_os_error(error, path) from None
        os.close(handle)
        self._temporary = Path(name)
        self._writer: cv2.VideoWriter | None = None
        self._canvas = np.empty((0, 0, 3), np.uint8)
        self._count = 0

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        with silent_stderr():
            writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter.fourcc(*"mp4v"), self._fps, (width, height))
        if not writer.isOpened():
            raise DeviceError(f"OpenCV cannot write the video {self._path} ({width}x{height}, mp4v).")
        return writer

    def write(self, result: FrameResult) -> None:
        image = result.frame.image_bgr
        if self._writer is None:
            self._canvas = np.empty_like(image)
            self._writer = self._open(image.shape[1], image.shape[0])
        if self._count % CHECK_EVERY == 0 and shutil.disk_usage(self._path.parent).free < SPARE_BYTES:
            raise DeviceError(f"No space left while writing {self._path}.", fix="Free some space.")
        if image.shape == self._canvas.shape:
            np.copyto(self._canvas, image)
            annotate(self._canvas, result)
        else:
            fitted = image.copy()
            annotate(fitted, result)
            cv2.resize(fitted, self._canvas.shape[1::-1], dst=self._canvas, interpolation=cv2.INTER_AREA)
        self._writer.write(self._canvas)
        self._count += 1

    def close(self, *, complete: bool) -> None:
        if self._writer is not None:
            self._writer.release()
        if self._count and self._temporary.stat().st_size:
            publish(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)
