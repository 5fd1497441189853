"""What ``run --device cuda`` puts under the loop: a device, pinned frames, and a face stage that lives on it."""

from __future__ import annotations

import os
import re

from edge_fer.core.engine import DeviceEngine, Engine
from edge_fer.core.errors import DeviceError, UsageError
from edge_fer.cuda.copies import Copies
from edge_fer.cuda.device import CudaDevice
from edge_fer.cuda.failures import NoSuchDevice, no_such_device
from edge_fer.cuda.lane import Lane
from edge_fer.cuda.open import DEFAULT_ADAPTER, open_device
from edge_fer.cuda.pinned_pictures import PinnedPictures
from edge_fer.runtime.cuda_detector import CudaLevel
from edge_fer.runtime.cuda_face_stage import ENGINES_ON_GPU, CudaFaceStage

VISIBLE = "CUDA_VISIBLE_DEVICES"


def parse_device(text: str) -> tuple[str, int] | None:
    """``cpu`` -> ``None``; ``cuda``, ``cuda:1`` or ``pycuda:0`` -> (adapter, index).

    Raises:
        UsageError: it is none of these.
    """
    if text == "cpu":
        return None
    match = re.fullmatch(r"(cuda|pycuda)(?::(\d{1,3}))?", text)
    if match is None:
        raise UsageError(f"--device is cpu, cuda or cuda:N, not {text!r}.", fix="--device cuda:0")
    return ("pycuda" if match[1] == "pycuda" else DEFAULT_ADAPTER), int(match[2] or 0)


class CudaLoop:
    """A device for the loop: ``pictures`` is the memory that its frames lie in, ``lane`` how its threads take turns."""

    def __init__(self, device: CudaDevice) -> None:
        self.device = device
        self.copies = Copies()
        self.lane = Lane(device)
        self.pictures = PinnedPictures(self.lane, self.copies)

    def stage(self, engine: Engine) -> CudaFaceStage:
        """The face stage for an engine on this device. A context manager, to be left before the engine is closed.

        Raises:
            DeviceError: the engine cannot work where the data lies.
        """
        graphs = self.device.has_graphs
        return CudaFaceStage(self.lane, _on_device(engine), self.pictures, self.copies, graphs=graphs)

    def level(self, engine: Engine) -> CudaLevel:
        """What searches whole frames on this device with a detector's engine.

        Raises:
            DeviceError: the engine cannot work where the data lies, or there is no memory.
        """
        return CudaLevel(self.lane, _on_device(engine), self.pictures, self.copies)

    def close(self) -> None:
        """Frames that are still held stay valid."""
        self.device.close()


def _on_device(engine: Engine) -> DeviceEngine:
    if not isinstance(engine, DeviceEngine):
        raise DeviceError(
            f"An engine of {engine.manifest.backend} takes no addresses on the GPU.",
            fix=f"Use --backend {ENGINES_ON_GPU}, or leave --device out.",
        )
    return engine


def open_cuda_loop(adapter: str, index: int) -> CudaLoop:
    """Open the device and make it the only one that this process sees, so that every library takes the same.

    Raises:
        DeviceError: no package, driver or device; one sentence each.
    """
    _show_only(index)
    try:
        return CudaLoop(open_device(0, adapter))
    except NoSuchDevice:
        # It was looked for as the first of the visible ones.
        raise no_such_device(index, None if index else 0) from None


def _show_only(index: int) -> None:
    """CUDA reads this variable once, at its first call."""
    listed = os.environ.get(VISIBLE)
    if listed is None:
        os.environ[VISIBLE] = str(index)
        return
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if index >= len(names):
        raise no_such_device(index, len(names))
    os.environ[VISIBLE] = names[index]


__all__ = ["CudaLoop", "open_cuda_loop", "parse_device"]
