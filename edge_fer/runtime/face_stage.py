"""Where the loop's faces become scores: here with the CPU and any engine; :mod:`edge_fer.runtime.cuda_face_stage` does
it on a GPU, from the picture's bytes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.engine import INPUT, OUTPUT, Engine, Slot
from edge_fer.cuda.copies import Copies
from edge_fer.cuda.raw_picture import RawPicture
from edge_fer.runtime.postprocess import softmax_into
from edge_fer.runtime.preprocess import FaceCropper

IN_FLIGHT = 2
"""Frames between source and sinks: one is searched for faces, one is labelled."""


class FaceStage(Protocol):
    """Crops and classifies. The finder prepares one frame while the labeller waits for the scores of the one before:
    each has one of the ``places``, and never touches another's."""

    @property
    def places(self) -> Sequence[Any]:
        """One for each frame in flight."""
        ...

    @property
    def copies(self) -> Copies | None:
        """What was moved between memories so far, where that is counted."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Sentences for the end of a run."""
        ...

    def prepare(
        self,
        place: Any,
        image_bgr: NDArray[np.uint8],
        boxes: Sequence[NDArray[np.float32]],
        *,
        whole: bool,
        angles_deg: Sequence[float] = (),
        raw: RawPicture | None = None,
    ) -> None:
        """Begin with up to ``max_batch`` faces of a frame, which must stay as it is until their scores are there.

        Args:
            boxes: float32 (4,) each: left, top, right, bottom in pixels.
            whole: the frame is the face, and its box is not looked at.
            angles_deg: how far each face's eyes are off level, clockwise; empty: not at all. Only a contract whose
                alignment is ``eyes`` takes them.
            raw: the same frame as its source delivered it, where that is not BGR and a GPU can read it.
        """
        ...

    def scores(self, place: Any, n: int) -> NDArray[np.float32]:
        """Wait for the ``n`` faces that were prepared here: float32 (n, classes), rows sum to 1. Valid until this
        place's next ``prepare`` or the next ``scores``. May be called again after it failed.

        Raises:
            EdgeFerError: the engine or the device failed.
        """
        ...


@dataclass(frozen=True)
class HostPlace:
    """An engine's slot and what crops into it; a cropper belongs to one thread at a time, as its place does."""

    slot: Slot
    cropper: FaceCropper


class HostFaceStage:
    """Crops with the CPU straight into the engine's slots; inference begins when its scores are asked for, in the
    labeller's thread, where an engine of the CPU does its work."""

    copies: Copies | None = None

    def __init__(self, engine: Engine) -> None:
        model = engine.manifest.classifier
        self._engine = engine
        self.places = tuple(HostPlace(slot, FaceCropper(model.preprocess)) for slot in engine.slots[:IN_FLIGHT])
        self._scores = np.zeros((engine.manifest.max_batch, len(model.labels)), np.float32)

    def notes(self) -> tuple[str, ...]:
        """See :class:`FaceStage`."""
        return ()

    def prepare(
        self,
        place: HostPlace,
        image_bgr: NDArray[np.uint8],
        boxes: Sequence[NDArray[np.float32]],
        *,
        whole: bool,
        angles_deg: Sequence[float] = (),
        raw: RawPicture | None = None,
    ) -> None:
        """See :class:`FaceStage`."""
        for index, (row, box) in enumerate(zip(place.slot.inputs[INPUT], boxes, strict=False)):
            if whole:
                place.cropper.whole_into(row, image_bgr)
            elif len(angles_deg):
                place.cropper.crop_into(row, image_bgr, box, angles_deg[index])
            else:
                place.cropper.crop_into(row, image_bgr, box)

    def scores(self, place: HostPlace, n: int) -> NDArray[np.float32]:
        """See :class:`FaceStage`."""
        self._engine.submit(place.slot, n)
        self._engine.wait(place.slot)
        scores = self._scores[:n]
        softmax_into(scores, place.slot.outputs[OUTPUT][:n])
        return scores
