"""Backends by name, and the one way to get an engine: from the cache when it fits, built when it does not."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_fer.backends.canary import canary_for, check_canary
from edge_fer.backends.dialects import DIALECTS
from edge_fer.core.bundle import Bundle, Canary, check_files, read_canary, record_files, write_canary
from edge_fer.core.engine import Engine
from edge_fer.core.errors import BundleError, DeviceError, EdgeFerError, UsageError
from edge_fer.core.files import atomic_folder, check_writable, inside, sha256_file
from edge_fer.core.manifest import CanaryRecord, EngineManifest, read_manifest, write_manifest
from edge_fer.core.spec import AnySpec, DetectorSpec, EngineSpec
from edge_fer.core.threads import check_threads

BACKENDS: dict[str, str] = {
    "onnxruntime": "edge_fer.backends.onnxruntime",
    "openvino": "edge_fer.backends.openvino",
    "tensorrt": "edge_fer.backends.tensorrt",
    "onnxruntime-cuda": "edge_fer.backends.onnxruntime.gpu:CUDA",
    "onnxruntime-cuda-graph": "edge_fer.backends.onnxruntime.gpu:CUDA_GRAPH",
    "onnxruntime-tensorrt": "edge_fer.backends.onnxruntime.gpu:TENSORRT",
}
"""A package with the modules ``build`` and ``engine``, or ``module:object`` that has the functions of both."""


@dataclass(frozen=True)
class BackendStatus:
    """One backend on this machine. ``precisions`` is empty when it is not installed; ``detail`` says why or what."""

    name: str
    installed: bool
    version: str | None
    precisions: tuple[str, ...]
    detail: str


def backend_module(backend: str, part: str) -> Any:
    """Import ``build`` or ``engine`` of a backend; neither imports the backend's own library yet."""
    if backend not in BACKENDS:
        raise UsageError(f"Unknown backend {backend!r}.", fix=f"Known: auto, {', '.join(sorted(BACKENDS))}.")
    module, _, both = BACKENDS[backend].partition(":")
    return getattr(import_module(module), both) if both else import_module(f"{module}.{part}")


def installed_version(backend: str) -> str:
    """Version of a backend's package.

    Raises:
        DeviceError: it is not installed.
    """
    build = backend_module(backend, "build")
    version: str | None = build.version()
    if version is None:
        raise build.missing()
    return version


def require(backend: str) -> None:
    """Make sure that a backend can run something on this machine.

    Raises:
        UsageError: there is no such backend.
        DeviceError: its package, a driver or a device is missing; one sentence.
    """
    installed_version(backend)
    build = backend_module(backend, "build")
    build.device()
    build.import_library()


def installed_backends() -> list[BackendStatus]:
    """Every backend that the project knows, installed or not. Loads the installed ones."""
    found = []
    for name in BACKENDS:
        build = backend_module(name, "build")
        version = build.version()
        if version is None:
            found.append(BackendStatus(name, False, None, (), str(build.missing())))
            continue
        try:
            require(name)
            found.append(BackendStatus(name, True, version, build.precisions(), build.device()))
        except EdgeFerError as error:
            found.append(BackendStatus(name, False, version, (), str(error)))
    return found


def cache_folder() -> Path:
    """Where built engines live: ``$EDGE_FER_CACHE``, or the user's cache folder of the operating system."""
    if configured := os.environ.get("EDGE_FER_CACHE"):
        return Path(configured)
    from platformdirs import user_cache_path

    return user_cache_path("edge-fer", appauthor=False) / "engines"


def check_cache(cache: Path) -> None:
    """Say that nothing can be kept in a cache folder before anything is built for it.

    Raises:
        DeviceError: it cannot be made, or not written to.
    """
    try:
        check_writable(cache / "engine")
    except EdgeFerError:
        raise DeviceError(
            f"Built engines cannot be kept in {cache}: it cannot be made, or not written to.",
            fix="Set the environment variable EDGE_FER_CACHE to a folder that you may write to.",
        ) from None


def engine_key(bundle: Bundle, spec: AnySpec, backend: str, precision: str, max_batch: int) -> str:
    """Name of an engine's folder: everything that makes a built engine unfit when it changes."""
    build = backend_module(backend, "build")
    parts: list[str] = [
        bundle.sha256,
        backend,
        installed_version(backend),
        build.device(),
        precision,
        str(max_batch),
        "4",
    ]
    parts += [str(length) for length in spec.input_shape]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return f"{bundle.manifest.model.name}-{backend}-{precision}-{digest}"


def _build_into(
    folder: Path,
    onnx: Path,
    draft: EngineManifest,
    canary: Canary | None,
    threads: int,
    on_step: Callable[[str], None] | None = None,
) -> EngineManifest:
    build = backend_module(draft.backend, "build")
    names: list[str] = build.build(
        onnx,
        folder,
        precision=draft.precision,
        max_batch=draft.max_batch,
        threads=threads,
        input_shape=draft.model.input_shape,
        on_step=on_step,
    )
    if canary is not None:
        write_canary(folder / draft.canary.file, canary)
        names.append(draft.canary.file)
    manifest = draft.model_copy(update={"files": record_files(folder, names)})
    write_manifest(folder, manifest)
    return manifest


def _draft(
    spec: EngineSpec, onnx: Path, bundle_sha256: str, backend: str, precision: str, max_batch: int, canary: CanaryRecord
) -> EngineManifest:
    return EngineManifest.model_validate(
        {
            "model": spec,
            "bundle_sha256": bundle_sha256,
            "variant_sha256": sha256_file(onnx),
            "backend": backend,
            "backend_version": installed_version(backend),
            "device": backend_module(backend, "build").device(),
            "precision": precision,
            "max_batch": max_batch,
            "files": (),
            "canary": canary,
        }
    )


def _load(folder: Path, manifest: EngineManifest, threads: int, slots: int) -> Engine:
    engine: Engine = backend_module(manifest.backend, "engine").load(folder, manifest, threads=threads, slots=slots)
    return engine


def open_engine(
    bundle: Bundle,
    *,
    backend: str,
    precision: str,
    max_batch: int = 8,
    threads: int = 1,
    slots: int = 2,
    size_hw: tuple[int, int] | None = None,
    cache: Path | None = None,
    on_build: Callable[[str], None] | None = None,
) -> Engine:
    """Open a bundle as an engine on this machine, building it on first use. ``size_hw`` is a detector's input size.

    The cached engine is used when its key, its files' hashes and its canary all fit; an engine that no longer loads is
    rebuilt once. ``on_build`` is told, in words, when a build begins and how far it is.

    Raises:
        EdgeFerError: the backend is missing, cannot run the precision, or computes something else than the bundle.
    """
    _check_bounds(max_batch, threads, slots)
    build = backend_module(backend, "build")
    form = bundle.variant(build.onnx_form(precision), DIALECTS[backend])
    spec = sized(bundle.manifest.model, size_hw)
    key = engine_key(bundle, spec, backend, precision, max_batch)
    folder = (cache or cache_folder()) / key
    if (folder / "manifest.json").exists():
        try:
            return open_built_engine(folder, threads=threads, slots=slots)
        except BundleError:
            # A half-copied or edited cache entry is not the user's doing: build it afresh, once, and let that fail.
            shutil.rmtree(folder, ignore_errors=True)
    if on_build is not None:
        on_build(f"Building {bundle.manifest.model.name} for {backend} {precision} (first use on this machine)")
    check_cache(folder.parent)
    onnx = bundle.file(form.file)
    draft = _draft(spec, onnx, bundle.sha256, backend, precision, max_batch, bundle.manifest.canary)
    canary = canary_for(bundle, form.file, spec)
    with atomic_folder(folder) as temporary:
        manifest = _build_into(temporary, onnx, draft, canary, threads, on_build)
        # An engine that fails its canary must not reach the cache.
        with _load(temporary, manifest, threads, 1) as candidate:
            check_canary(candidate, canary)
    return _load(folder, manifest, threads, slots)


def open_built_engine(folder: Path, *, threads: int = 1, slots: int = 2) -> Engine:
    """Open an engine folder: its files must be unchanged, and built for this backend version and this device.

    Raises:
        BundleError: damaged, edited, or built for another machine or version; or it fails its canary.
    """
    _check_bounds(1, threads, slots)
    manifest = _fitting(folder)
    engine = _load(folder, manifest, threads, slots)
    try:
        check_canary(engine, read_canary(inside(folder, manifest.canary.file)))
    except BaseException:
        engine.close()
        raise
    return engine


def _fitting(folder: Path) -> EngineManifest:
    """The manifest of an engine folder, whose files are unchanged, and built for this backend version and device."""
    manifest = read_manifest(folder, EngineManifest)
    check_files(folder, manifest.files)
    version, device = installed_version(manifest.backend), backend_module(manifest.backend, "build").device()
    if manifest.backend_version != version:
        raise BundleError(
            f"The engine {folder} is of {manifest.backend} {manifest.backend_version}, but {version} is installed.",
            fix="Run the bundle instead of the engine, and it is rebuilt: edge-fer run --engine BUNDLE",
        )
    if manifest.device != device:
        raise BundleError(
            f"The engine {folder} was built for {manifest.device}; this machine is {device}.",
            fix="Run the bundle instead of the engine, and it is rebuilt: edge-fer run --engine BUNDLE",
        )
    return manifest


def open_onnx(
    path: Path,
    spec: EngineSpec,
    *,
    backend: str,
    precision: str,
    max_batch: int = 8,
    threads: int = 1,
    slots: int = 1,
    cache: Path | None = None,
) -> Engine:
    """Open one ONNX file that follows our names (``input``, ``logits``) directly: no bundle, no canary.

    Args:
        cache: where the engine is kept once it is built, for backends that take long to build; ``None``: nowhere.
    """
    _check_bounds(max_batch, threads, slots)
    backend_module(backend, "build").onnx_form(precision)
    canary = CanaryRecord(file="none", tolerance={})
    draft = _draft(spec, path, "0" * 64, backend, precision, max_batch, canary)
    if cache is not None:
        parts = (draft.variant_sha256, backend, draft.backend_version, draft.device, precision, max_batch)
        digest = hashlib.sha256(repr((*parts, spec.input_shape)).encode()).hexdigest()[:16]
        folder = cache / f"{spec.name}-{backend}-{precision}-{digest}"
        try:
            return _load(folder, _fitting(folder), threads, slots)
        except BundleError:
            # There is none yet, or a damaged one.
            shutil.rmtree(folder, ignore_errors=True)
        with atomic_folder(folder) as temporary:
            manifest = _build_into(temporary, path, draft, None, threads)
        return _load(folder, manifest, threads, slots)
    with tempfile.TemporaryDirectory(prefix="edge-fer-", ignore_cleanup_errors=True) as name:
        manifest = _build_into(Path(name), path, draft, None, threads)
        return _load(Path(name), manifest, threads, slots)


def sized(spec: AnySpec, size_hw: tuple[int, int] | None) -> AnySpec:
    """A detector's contract at another input size; an expression network has only its own.

    Raises:
        UsageError: the size is not one that the network takes.
    """
    if size_hw is None:
        return spec
    if not isinstance(spec, DetectorSpec):
        raise UsageError(f"{spec.name} takes faces of {spec.input_shape} only.")
    try:
        return DetectorSpec.model_validate({**spec.model_dump(), "size_hw": size_hw})
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"{spec.name} cannot work at {size_hw[1]}x{size_hw[0]}: {why}.") from None


def _check_bounds(max_batch: int, threads: int, slots: int) -> None:
    if max_batch < 1 or threads < 1 or slots < 1:
        raise UsageError("The batch size, the number of threads and the number of slots must be at least 1.")
    check_threads(threads)
