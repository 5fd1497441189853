"""Prove that a loaded engine computes the function that the bundle was verified with."""

from __future__ import annotations

import numpy as np

from edge_fer.core.bundle import Canary
from edge_fer.core.engine import INPUT, OUTPUT, Engine
from edge_fer.core.errors import BundleError
from edge_fer.runtime.preprocess import face_pixels, normalise_into


def canary_gap(engine: Engine, canary: Canary) -> float:
    """Largest absolute difference between the engine's logits and the stored ones of its precision.

    Half precisions have no stored logits of their own and are compared with fp32's.

    Raises:
        BundleError: the canary does not belong to this contract.
    """
    spec = engine.manifest.model.preprocess
    precision = engine.manifest.precision
    expected = canary.logits.get(precision, canary.logits.get("fp32"))
    if expected is None or expected.shape[1] != len(engine.manifest.model.labels):
        raise BundleError(f"The canary has no logits for {precision} with {len(engine.manifest.model.labels)} classes.")
    slot, gap = engine.slots[0], 0.0
    step = engine.manifest.max_batch
    for start in range(0, len(canary.images_bgr), step):
        images = canary.images_bgr[start : start + step]
        for row, image in enumerate(images):
            normalise_into(slot.inputs[INPUT][row], face_pixels(image, spec), spec)
        engine.submit(slot, len(images))
        engine.wait(slot)
        got = slot.outputs[OUTPUT][: len(images)]
        difference = float(np.abs(got - expected[start : start + len(images)]).max())
        gap = max(gap, difference if np.isfinite(difference) else np.inf)
    return gap


def check_canary(engine: Engine, canary: Canary) -> float:
    """Return the gap when it is within the recorded tolerance.

    Raises:
        BundleError: the engine computes something else; the message gives the gap and the tolerance.
    """
    gap = canary_gap(engine, canary)
    manifest = engine.manifest
    tolerance = manifest.canary.tolerance.get(manifest.precision)
    if tolerance is None:
        raise BundleError(f"The bundle records no canary tolerance for {manifest.precision}, so it cannot be checked.")
    if gap > tolerance:
        raise BundleError(
            f"The {manifest.backend} {manifest.precision} engine of {manifest.model.name} gives other logits than the "
            f"verified model: they differ by {gap:.3g}, accepted is {tolerance:.3g}. It is not used.",
            fix="Compile the model again with `edge-fer compile`, or choose another --backend.",
        )
    return gap
