"""Prove that a loaded engine computes the function that the bundle was verified with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_fer.backends.dialects import canary_key, form_key
from edge_fer.core.bundle import Bundle, Canary
from edge_fer.core.engine import INPUT, OUTPUT, Engine
from edge_fer.core.errors import BundleError
from edge_fer.core.spec import AnySpec, DetectorSpec, StageSpec
from edge_fer.runtime.detectors.pyramid_input import picture_into
from edge_fer.runtime.preprocess import face_pixels, normalise_into


def prepare(row: NDArray[np.float32], image_bgr: NDArray[np.uint8], spec: AnySpec) -> None:
    """Write a canary picture into a network's input row (C, H, W), as the loop would write a face or a frame."""
    if isinstance(spec, DetectorSpec):
        picture_into(row, image_bgr, spec)
    else:
        normalise_into(row, face_pixels(image_bgr, spec.preprocess), spec.preprocess)


def canary_for(bundle: Bundle, form: str, spec: AnySpec) -> Canary:
    """The canary of an engine of ``bundle`` whose contract is ``spec``, built from the ONNX file of ``form``.

    A detector's engine may have another input size than the one that the stored outputs are of. Then the graph is
    executed literally at both sizes: at the stored one it must give what is stored, and what it gives at the wanted
    one is what the engine will be held to.

    Raises:
        BundleError: the graph does not give what is stored.
    """
    stored, native = bundle.canary(), bundle.manifest.model
    if not isinstance(native, DetectorSpec) or not isinstance(spec, DetectorSpec) or spec.size_hw == native.size_hw:
        return stored
    from edge_fer.backends.onnxruntime.literal import literal_outputs

    path = bundle.file(form)
    variant = next(v for v in bundle.manifest.variants if v.file == form)
    precision, key = variant.precision, form_key(variant)
    at_home = literal_outputs(path, _inputs(stored.images_bgr, native))
    gap = float(np.abs(at_home - stored.logits[key]).max()) if key in stored.logits else np.inf
    if not gap <= bundle.manifest.canary.tolerance[precision]:
        raise BundleError(
            f"The {precision} graph of {native.name} gives other outputs than the verified ones: they differ by "
            f"{gap:.3g}. It is not used.",
            fix="Compile the detector again with `edge-fer compile`.",
        )
    height, width = spec.size_hw
    repeats = (1, -(-height // stored.images_bgr.shape[1]), -(-width // stored.images_bgr.shape[2]), 1)
    images = np.ascontiguousarray(np.tile(stored.images_bgr, repeats)[:, :height, :width])
    return Canary(images, {key: literal_outputs(path, _inputs(images, spec))})


def _inputs(images_bgr: NDArray[np.uint8], spec: AnySpec) -> NDArray[np.float32]:
    batch = np.empty((len(images_bgr), *spec.input_shape), np.float32)
    for row, image in zip(batch, images_bgr, strict=True):
        prepare(row, image, spec)
    return batch


def canary_gap(engine: Engine, canary: Canary) -> float:
    """Largest absolute difference between the engine's logits and the stored ones that it is held to
    (:func:`edge_fer.backends.dialects.canary_key`).

    Raises:
        BundleError: the canary has none for such an engine, or does not belong to this contract.
    """
    spec = engine.manifest.model
    key = canary_key(engine.manifest.backend, engine.manifest.precision)
    expected = canary.logits.get(key)
    if isinstance(spec, StageSpec) or expected is None or expected.shape[1:] != spec.output_shape:
        raise BundleError(
            f"The canary of {spec.name} has no logits {key} of shape {spec.output_shape}, so an engine of "
            f"{engine.manifest.backend} {engine.manifest.precision} cannot be checked.",
            fix="Compile the bundle again with `edge-fer compile`.",
        )
    slot, gap, count = engine.slots[0], 0.0, len(canary.images_bgr)
    step = engine.manifest.max_batch
    batches = [range(start, min(start + step, count)) for start in range(0, count, step)]
    # Backends may keep another program for a single face, which is what a loop runs most of the time.
    for batch in (*batches, range(1)):
        for row, index in enumerate(batch):
            prepare(slot.inputs[INPUT][row], canary.images_bgr[index], spec)
        engine.submit(slot, len(batch))
        engine.wait(slot)
        difference = float(np.abs(slot.outputs[OUTPUT][: len(batch)] - expected[batch.start : batch.stop]).max())
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
        raise BundleError(
            f"The bundle records no canary tolerance for {manifest.precision}, so it cannot be checked.",
            fix="Compile it again.",
        )
    if gap > tolerance:
        raise BundleError(
            f"The {manifest.backend} {manifest.precision} engine of {manifest.model.name} gives other logits than the "
            f"verified model: they differ by {gap:.3g}, accepted is {tolerance:.3g}. It is not used.",
            fix="Compile the model again with `edge-fer compile`, or choose another --backend.",
        )
    return gap
