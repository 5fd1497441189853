"""Open a face detector by name: the project's own on the fastest engine of this machine, or one that needs none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from edge_fer.backends.choose import choose
from edge_fer.backends.registry import open_engine
from edge_fer.core.bundle import DEFAULT_DETECTOR, find_bundle, open_bundle
from edge_fer.core.engine import Engine
from edge_fer.core.errors import UsageError
from edge_fer.core.registry import resolve
from edge_fer.runtime.detectors.base import DETECTORS, FaceDetector
from edge_fer.runtime.detectors.base import open_detector as open_without_engine

NETWORKS: dict[str, str] = {DEFAULT_DETECTOR: "edge_fer.runtime.detectors.face_pyramid:FacePyramidDetector"}
"""Detectors that run on engines of ours, by the name of their shipped bundle. ``NAME=BUNDLE`` takes another bundle."""


def open_face_detector(
    text: str,
    *,
    min_face_px: int = 60,
    score: float | None = None,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    cache: Path | None = None,
    on_step: Callable[[str], None] | None = None,
) -> FaceDetector:
    """``edge-fer-face`` (or ``edge-fer-face=BUNDLE``), or what :func:`edge_fer.runtime.detectors.base.open_detector`
    opens.

    Args:
        min_face_px: the smallest face wanted, in pixels of the frame.
        score: the smallest accepted score; ``None``: the detector's own.
        backend, precision, threads: of the engines; for detectors that run on none they must be ``auto``.

    Raises:
        UsageError: unknown name, or an option that does not apply.
        EdgeFerError: the bundle is damaged, or nothing here can run it.
    """
    name, _, path = text.partition("=")
    if name not in NETWORKS:
        if name not in DETECTORS:
            raise UsageError(f"Unknown detector {name!r}.", fix=f"Known: {', '.join(sorted((*NETWORKS, *DETECTORS)))}.")
        if (backend, precision) != ("auto", "auto"):
            raise UsageError(f"The detector {name} runs on no engine of ours, so it has no backend or precision.")
        return open_without_engine(text, min_face_px=min_face_px, **({} if score is None else {"score": score}))
    bundle = open_bundle(find_bundle(path or name))
    spec = bundle.manifest.detector
    best = choose(bundle, backend=backend, precision=precision, threads=threads, cache=cache, on_step=on_step).best

    def open_at(size_hw: tuple[int, int]) -> Engine:
        return open_engine(
            bundle,
            backend=best.backend,
            precision=best.precision,
            max_batch=1,
            threads=threads,
            slots=1,
            size_hw=size_hw,
            cache=cache,
        )

    factory = resolve(NETWORKS, name, what="detector")
    return cast(FaceDetector, factory(open_at, spec, min_face_px=min_face_px, score=score))
