"""The faces that travel in every bundle, and the logits that every engine must give for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import EdgeFerError
from edge_fer.core.manifest import CanaryRecord
from edge_fer.core.spec import PreprocessSpec
from edge_fer.runtime.preprocess import face_pixels, normalise_into

FACES = Path(__file__).parent / "assets" / "canary_faces.png"
SIDE_PX = 96
FILE = "canary.npz"

FLOOR: dict[str, float] = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 3e-2, "int8": 3e-2}
"""Smallest tolerance per precision, as a fraction of the largest canary logit.

Measured on the default network and ResNet-18, ONNX Runtime 1.32 and OpenVINO 2026.4, as the same fraction: fp32 1e-6,
fp16 8e-4, bf16 5e-3, int8 (fused integer kernels against the literal Q/DQ graph) 4e-3 and 2.2e-2. A swapped colour
order gives 0.9 on the grey default network."""
HEADROOM = 4.0
"""How many times the largest gap measured here is accepted elsewhere: other CPUs accumulate in another order."""
CEILING: dict[str, float] = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 1e-1, "int8": 2.5e-1}
"""No gap above this fraction is ever accepted: beyond it an engine computes something else, whoever measured it."""


def canary_images() -> NDArray[np.uint8]:
    """The shipped faces, uint8 (16, 96, 96, 3) BGR (``scripts/make_canary_faces.py`` makes them).

    Raises:
        EdgeFerError: the installation lacks the picture.
    """
    strip = cv2.imdecode(np.fromfile(FACES, np.uint8), cv2.IMREAD_COLOR) if FACES.is_file() else None
    if strip is None or strip.shape[1:] != (SIDE_PX, 3) or len(strip) % SIDE_PX:
        raise EdgeFerError(f"{FACES} is missing or damaged; install edge-fer again.")
    return np.asarray(strip.reshape(-1, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)


def face_batch(images_bgr: NDArray[np.uint8], preprocess: PreprocessSpec) -> NDArray[np.float32]:
    """Face crops (k, H, W, 3) BGR -> the network's input, float32 (k, C, h, w)."""
    batch = np.empty((len(images_bgr), preprocess.channels, *preprocess.size_hw), np.float32)
    for row, image in enumerate(images_bgr):
        normalise_into(batch[row], face_pixels(image, preprocess), preprocess)
    return batch


def canary_record(scale: float, gaps: Mapping[str, float]) -> CanaryRecord:
    """Tolerances for every precision that an engine may have.

    Args:
        scale: the largest magnitude among the fp32 canary logits.
        gaps: per precision, the largest gap to the stored logits that was measured here on any backend.
    """
    unit = max(scale, 1.0)
    tolerance = {
        precision: min(max(floor * unit, HEADROOM * gaps.get(precision, 0.0)), CEILING[precision] * unit)
        for precision, floor in FLOOR.items()
    }
    return CanaryRecord(file=FILE, tolerance=tolerance)
