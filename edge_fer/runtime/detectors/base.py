"""What finds faces, by name."""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import UsageError
from edge_fer.core.faces import Faces
from edge_fer.core.registry import resolve
from edge_fer.core.spec import ModelSpec

DETECTORS: dict[str, str] = {
    "haar": "edge_fer.runtime.detectors.haar:HaarDetector",
    "yunet-opencv": "edge_fer.runtime.detectors.yunet:YunetDetector",
    "none": "edge_fer.runtime.detectors.whole_frame:WholeFrame",
}


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces in one picture. ``name`` tells people what ran; ``whole_frame``: it takes the frame for a crop;
    ``landmarks``: its faces have them."""

    name: str
    whole_frame: bool
    landmarks: bool

    def detect(self, image_bgr: NDArray[np.uint8]) -> Faces:
        """uint8 (H, W, 3) BGR -> faces in that picture's pixels; no face gives an empty ``Faces``."""
        ...


@runtime_checkable
class Sharpens(Protocol):
    """A detector whose landmarks become sharper for more time, if it is told that somebody needs them."""

    def sharpen(self) -> None: ...


@runtime_checkable
class DetectsAgain(Protocol):
    """A detector that spends less on faces that are known already."""

    def detect_again(self, image_bgr: NDArray[np.uint8], known_xyxy: NDArray[np.float32]) -> Faces:
        """:meth:`FaceDetector.detect`, with the boxes of known faces, float32 (k, 4), in the picture's pixels."""
        ...


def open_detector(text: str, *, min_face_px: int | None = 60, score: float = 0.6) -> FaceDetector:
    """``haar``, ``none``, or ``yunet-opencv=FILE.onnx``.

    Args:
        min_face_px: the smallest face wanted, in pixels of the frame; sets the working size. ``None``: a share of each
            picture's height (:mod:`edge_fer.runtime.detectors.smallest_face`), for pictures of many sizes.
        score: smallest accepted score of detectors that give one, 0..1.

    Raises:
        UsageError: unknown name, or a file given to one that takes none.
        BadInputError: the file is not a detector's model.
    """
    name, _, path = text.partition("=")
    factory = resolve(DETECTORS, name, what="detector")
    if name == "yunet-opencv":
        if not path:
            raise UsageError(
                "The detector yunet-opencv needs its model file.",
                fix="--detector yunet-opencv=FILE.onnx; `edge-fer fetch yunet` gets one.",
            )
        return cast(FaceDetector, factory(path, min_face_px=min_face_px, score=score))
    if path:
        raise UsageError(f"The detector {name} takes no file.", fix=f"--detector {name}")
    return cast(FaceDetector, factory() if name == "none" else factory(min_face_px=min_face_px))


def require_eyes(detector: FaceDetector, spec: ModelSpec) -> None:
    """Make sure that a detector tells the eyes that a network wants level, as well as it can. One that takes frames for
    faces need not: they are taken as they are.

    Raises:
        UsageError: it does not.
    """
    if spec.preprocess.alignment != "eyes" or detector.whole_frame:
        return
    if not detector.landmarks:
        raise UsageError(
            f"{spec.name} wants faces with level eyes, and the detector {detector.name} tells no eyes.",
            fix="--detector edge-fer-face, yunet or mtcnn",
        )
    if isinstance(detector, Sharpens):
        detector.sharpen()
