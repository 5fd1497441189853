"""Open a face detector by name: the project's own on the fastest engine of this machine, or one that needs none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

from edge_fer.backends.choose import choose
from edge_fer.backends.fetched import fetched
from edge_fer.backends.gpu import ON_GPU_BACKENDS
from edge_fer.backends.on_gpu import loop_backend
from edge_fer.backends.registry import cache_folder, installed_backends, open_engine, open_onnx, sized
from edge_fer.core.bundle import DEFAULT_DETECTOR, find_bundle, open_bundle
from edge_fer.core.engine import Engine
from edge_fer.core.errors import UsageError
from edge_fer.core.registry import resolve
from edge_fer.core.spec import DetectorSpec, StageSpec
from edge_fer.runtime.cuda_loop import CudaLoop
from edge_fer.runtime.detectors.base import DETECTORS, FaceDetector
from edge_fer.runtime.detectors.base import open_detector as open_without_engine

PYRAMID = "edge_fer.runtime.detectors.face_pyramid:FacePyramidDetector"
NETWORKS: dict[str, str] = {
    DEFAULT_DETECTOR: PYRAMID,
    "yunet": PYRAMID,
    "mtcnn": "edge_fer.runtime.detectors.mtcnn:MtcnnDetector",
}
"""Detectors that run on engines of ours. ``edge-fer-face=BUNDLE`` takes another bundle than the shipped one,
``yunet=FILE.onnx`` and ``mtcnn=FILE.whl`` another file than the fetched one."""


def check_detector(text: str) -> None:
    """See that there is a detector of this name; whether it can be opened is not tried.

    Raises:
        UsageError: there is not.
    """
    known = sorted((*NETWORKS, *DETECTORS))
    if (name := text.partition("=")[0]) not in known:
        raise UsageError(f"Unknown detector {name!r}.", fix=f"Known: {', '.join(known)}.")


def open_face_detector(
    text: str,
    *,
    min_face_px: int | None = 60,
    score: float | None = None,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    cache: Path | None = None,
    gpu: CudaLoop | None = None,
    on_step: Callable[[str], None] | None = None,
) -> FaceDetector:
    """``edge-fer-face``, ``edge-fer-face=BUNDLE``, ``yunet`` and ``mtcnn`` (as fetched), ``yunet=FILE.onnx``,
    ``mtcnn=FILE.whl``, or what :func:`edge_fer.runtime.detectors.base.open_detector` opens.

    Args:
        min_face_px: the smallest face wanted, in pixels of the frame; ``None``: a share of each picture's height.
        score: the smallest accepted score; ``None``: the detector's own.
        backend, precision, threads: of the engines; for detectors that run on none they must be ``auto``.
        gpu: search whole frames there, ``edge-fer-face`` and ``yunet`` from the pinned frame on; of ``mtcnn`` only
            the networks run there, on windows that the CPU cuts.

    Raises:
        UsageError: unknown name, or an option that does not apply.
        EdgeFerError: the bundle is damaged, or nothing here can run it.
    """
    check_detector(text)
    name, _, path = text.partition("=")
    if name not in NETWORKS:
        if gpu is not None:
            raise UsageError(
                f"The detector {name} does not run on the GPU.",
                fix=f"--detector {', '.join(NETWORKS)}, or --detect-on cpu",
            )
        if (backend, precision) != ("auto", "auto"):
            raise UsageError(f"The detector {name} runs on no engine of ours, so it has no backend or precision.")
        return open_without_engine(text, min_face_px=min_face_px, **({} if score is None else {"score": score}))
    factory = resolve(NETWORKS, name, what="detector")
    if gpu is not None:
        backend = loop_backend() if backend == "auto" else backend
        if NETWORKS[name] == PYRAMID:
            factory = partial(factory, full_level=gpu.level)
    if name == "yunet":
        contract, opener = _yunet(path, backend, precision, threads, cache)
        return cast(FaceDetector, factory(opener, contract, min_face_px=min_face_px, score=score))
    if name == "mtcnn":
        stages = _mtcnn(path, backend, precision, threads, cache)
        return cast(FaceDetector, factory(stages, min_face_px=min_face_px, score=score))
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

    return cast(FaceDetector, factory(open_at, spec, min_face_px=min_face_px, score=score, verifies=True))


def _yunet(
    path: str, backend: str, precision: str, threads: int, cache: Path | None
) -> tuple[DetectorSpec, Callable[[tuple[int, int]], Engine]]:
    """YuNet's contract, and what opens an engine of an input size. It has no int8 form: its file carries none of our
    calibration."""
    from edge_fer.backends.yunet import SPEC, rewritten

    backend, precision = _foreign("YuNet", backend, precision)
    onnx = rewritten(Path(path) if path else fetched("yunet"), cache or cache_folder())

    def open_at(size_hw: tuple[int, int]) -> Engine:
        return open_onnx(
            onnx,
            sized(SPEC, size_hw),
            backend=backend,
            precision=precision,
            max_batch=1,
            threads=threads,
            cache=_kept(backend, cache),
        )

    return SPEC, open_at


def _mtcnn(
    path: str, backend: str, precision: str, threads: int, cache: Path | None
) -> Callable[[StageSpec, int], Engine]:
    """What opens an engine of one of MTCNN's networks for a number of windows. Nothing is quantised, as in YuNet."""
    from edge_fer.backends.mtcnn import networks

    backend, precision = _foreign("MTCNN", backend, precision)
    files = networks(Path(path) if path else fetched("mtcnn"), cache or cache_folder())

    def open_stage(spec: StageSpec, max_batch: int) -> Engine:
        onnx = files[spec.name.removeprefix("mtcnn-")]
        return open_onnx(
            onnx,
            spec,
            backend=backend,
            precision=precision,
            max_batch=max_batch,
            threads=threads,
            cache=_kept(backend, cache),
        )

    return open_stage


def _kept(backend: str, cache: Path | None) -> Path | None:
    """Where engines of another project's network are kept: TensorRT's take minutes to build on an old GPU."""
    return (cache or cache_folder()) if backend in ON_GPU_BACKENDS else None


def _foreign(what: str, backend: str, precision: str) -> tuple[str, str]:
    """Backend and precision of another project's network: ``auto`` is OpenVINO where it is installed, in fp32."""
    if precision == "int8":
        raise UsageError(f"{what}'s file has no int8 form.", fix="--detector edge-fer-face runs in int8.")
    if backend == "auto":
        installed = {status.name for status in installed_backends() if status.installed}
        backend = "openvino" if "openvino" in installed else "onnxruntime"
    return backend, "fp32" if precision == "auto" else precision
