"""Logits of a model over a dataset: the same pixels for an engine and for torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.engine import INPUT, OUTPUT, Engine, Slot
from edge_fer.core.errors import BadInputError, EdgeFerError, MissingDependencyError, UsageError
from edge_fer.core.labels import canonical
from edge_fer.core.spec import PreprocessSpec
from edge_fer.data.samples import Samples
from edge_fer.runtime.preprocess import face_pixels, normalise_into

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""


def predict(
    engine: Engine, samples: Samples, preprocess: PreprocessSpec, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Run every sample through an engine, keeping all its slots busy.

    Returns:
        float32 (n, classes) logits, in the order of ``samples``.

    Raises:
        BadInputError: an image cannot be decoded, or the model gives NaN or infinity.
        EdgeFerError: what the engine raises.
    """
    classes = engine.slots[0].outputs[OUTPUT].shape[1]
    logits = np.empty((len(samples), classes), dtype=np.float32)
    in_flight: list[tuple[Slot, int, int]] = []

    def collect() -> None:
        slot, start, count = in_flight.pop(0)
        engine.wait(slot)
        logits[start : start + count] = slot.outputs[OUTPUT][:count]
        if progress is not None:
            progress(start + count, len(samples))

    max_batch = engine.slots[0].inputs[INPUT].shape[0]
    try:
        for turn, start in enumerate(range(0, len(samples), max_batch)):
            slot = engine.slots[turn % len(engine.slots)]
            if len(in_flight) == len(engine.slots):
                collect()
            count = min(max_batch, len(samples) - start)
            fill(slot.inputs[INPUT], samples, start, count, preprocess)
            engine.submit(slot, count)
            in_flight.append((slot, start, count))
        while in_flight:
            collect()
    finally:
        # After an error the engine stays good for others only when no request is left running on its slots.
        for slot, _, _ in in_flight:
            with contextlib.suppress(EdgeFerError):
                engine.wait(slot)
    return _finite(logits)


def predict_module(
    module: nn.Module,
    samples: Samples,
    preprocess: PreprocessSpec,
    *,
    batch_size: int = 64,
    threads: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Run every sample through a torch network on the CPU in fp32, single crop, evaluation mode.

    Args:
        threads: of torch; ``None`` leaves its setting alone.

    Returns:
        float32 (n, classes) logits, in the order of ``samples``.

    Raises:
        MissingDependencyError: torch is not installed.
        BadInputError: an image cannot be decoded, or the network gives NaN or infinity.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingDependencyError("torch", extra="compile", purpose="evaluating a checkpoint") from None
    if threads is not None:
        torch.set_num_threads(threads)
    module = module.eval().float().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    height, width = preprocess.size_hw
    batch = np.empty((batch_size, preprocess.channels, height, width), dtype=np.float32)
    parts: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for start in range(0, len(samples), batch_size):
            count = min(batch_size, len(samples) - start)
            fill(batch, samples, start, count, preprocess)
            inputs = torch.from_numpy(batch[:count]).contiguous(memory_format=torch.channels_last)
            parts.append(module(inputs).float().numpy())
            if progress is not None:
                progress(start + count, len(samples))
    return _finite(np.concatenate(parts).astype(np.float32, copy=False))


def fill(batch: NDArray[np.float32], samples: Samples, start: int, count: int, preprocess: PreprocessSpec) -> None:
    """Write samples ``start .. start + count`` into the first rows of ``batch`` (N, C, H, W)."""
    for row in range(count):
        normalise_into(batch[row], face_pixels(samples.read(start + row), preprocess), preprocess)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities (n, classes) that sum to 1, from logits of any finite size."""
    shifted = np.asarray(logits, dtype=np.float64)
    powers = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def match_labels(samples: Samples, model_labels: tuple[str, ...]) -> NDArray[np.int64]:
    """Express the dataset's labels as indices into the model's, by name and never by position.

    Names are equal when they are the same class under :func:`edge_fer.core.labels.canonical`, or the same string.

    Returns:
        int64 (n,), indices into ``model_labels``.

    Raises:
        UsageError: the dataset has samples of a class that the model does not know, or two names of one side mean the
            same class.
    """
    known = _by_key(model_labels, "The model")
    _by_key(samples.class_names, "The dataset")
    table = np.array([known.get(_key(name), -1) for name in samples.class_names], dtype=np.int64)
    labels = table[samples.labels]
    if (labels < 0).any():
        counts = samples.counts()
        foreign = ", ".join(
            f"{name} ({counts[name]})" for k, name in enumerate(samples.class_names) if table[k] < 0 and counts[name]
        )
        raise UsageError(
            f"The dataset has classes that the model does not know: {foreign}.",
            fix=f"The model's classes are: {', '.join(model_labels)}.",
        )
    return labels


def _key(name: str) -> str:
    return canonical(name) or name.strip().lower()


def _by_key(names: tuple[str, ...], whose: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for index, name in enumerate(names):
        if _key(name) in found:
            raise UsageError(f"{whose} names the class {_key(name)!r} twice: {', '.join(names)}.")
        found[_key(name)] = index
    return found


def _finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
        raise BadInputError(f"The model gave NaN or infinite logits for {int(broken.sum())} of {len(logits)} samples.")
    return logits
