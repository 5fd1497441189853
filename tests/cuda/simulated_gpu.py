"""A simulated device with an engine and a face stage on it, and pictures with boxes that a network tells apart."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from simulated import MX250, SimulatedDevice
from simulated_parts import SimulatedEngine, face_kernels

from edge_fer.core.bundle import Bundle
from edge_fer.core.spec import ModelSpec
from edge_fer.cuda.copies import Copies
from edge_fer.cuda.device import DeviceInfo
from edge_fer.cuda.face_kernels import CudaFaceKernels
from edge_fer.cuda.lane import Lane
from edge_fer.cuda.pinned_pictures import PinnedPictures
from edge_fer.runtime.cuda_face_stage import CudaFaceStage
from edge_fer.runtime.transfer import Transfer

SIZE_HW = (96, 128)
WAYS: tuple[Transfer, ...] = ("copy", "in place")


class Gpu:
    """A simulated device with an engine and a stage on it."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        info: DeviceInfo = MX250,
        transfer: Transfer | None = None,
        kernels: Callable[..., CudaFaceKernels] = CudaFaceKernels,
        graphs: bool = True,
        max_batch: int = 8,
        model: ModelSpec | None = None,
        keeps_captured: bool = True,
    ) -> None:
        """``model``: the contract, where it is not the bundle's own."""
        self.device = SimulatedDevice(face_kernels(model or bundle.manifest.classifier), info=info)
        self.copies = Copies()
        self.lane = Lane(self.device)
        self.pictures = PinnedPictures(self.lane, self.copies)
        self.engine = SimulatedEngine(bundle, self.device, max_batch=max_batch, keeps_captured=keeps_captured)
        if model is not None:
            self.engine.manifest = self.engine.manifest.model_copy(update={"model": model})
        self.stage = CudaFaceStage(
            self.lane,
            self.engine,
            self.pictures,
            self.copies,
            transfer=transfer,
            graphs=graphs,
            load_kernels=kernels,
        )

    def picture(self, seed: int, size_hw: tuple[int, int] = SIZE_HW) -> NDArray[np.uint8]:
        """A random picture in pinned memory."""
        made = self.pictures.allocate((*size_hw, 3))
        made[:] = noise(seed, size_hw)
        return made


def noise(seed: int, size_hw: tuple[int, int] = SIZE_HW) -> NDArray[np.uint8]:
    """A picture with large structure: crops of it are told apart by the network."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def box(seed: int, size_hw: tuple[int, int] = SIZE_HW) -> NDArray[np.float32]:
    """Somewhere, also over the edges."""
    random = np.random.default_rng(1000 + seed)
    left, top = random.uniform(-10, size_hw[1] - 30), random.uniform(-10, size_hw[0] - 30)
    return np.array([left, top, left + random.uniform(20, 60), top + random.uniform(20, 60)], np.float32)
