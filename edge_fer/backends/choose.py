"""``auto``: time what could run a bundle on this machine, keep the fastest, and remember it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from edge_fer.backends import smaller_batch
from edge_fer.backends.dialects import DIALECTS
from edge_fer.backends.registry import (
    BACKENDS,
    backend_module,
    cache_folder,
    check_cache,
    engine_key,
    open_built_engine,
    open_engine,
    require,
)
from edge_fer.core.bundle import Bundle, open_bundle
from edge_fer.core.engine import Engine
from edge_fer.core.errors import BundleError, DeviceError, DeviceMemoryError, UsageError
from edge_fer.core.files import atomic_file
from edge_fer.core.manifest import MANIFEST
from edge_fer.core.spec import Frozen
from edge_fer.core.threads import check_threads

PROBE_TIMEOUT_S = 300


class Candidate(Frozen):
    """One way to run a bundle. ``median_us`` is the warm latency of one face here; ``error`` says why there is none,
    ``full`` that it was a GPU's memory."""

    backend: str
    precision: str
    median_us: float | None = None
    error: str | None = None
    full: bool = False


class Choice(Frozen):
    """The candidates that were timed; the first one is the choice. ``decided`` is why, where it is not the fastest."""

    candidates: tuple[Candidate, ...]
    decided: str | None = None

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    def reason(self) -> str:
        """One sentence for people."""
        if self.decided is not None:
            return self.decided
        timed = [c for c in self.candidates if c.median_us is not None]
        if len(timed) <= 1:
            return "the only one that runs here"
        listed = ", ".join(f"{c.backend} {c.precision} {c.median_us:.0f} µs" for c in timed if c.median_us is not None)
        return f"fastest measured here: {listed}"


def candidates(bundle: Bundle, backend: str, precision: str) -> list[tuple[str, str]]:
    """(backend, precision) pairs that are installed, supported here, and present in the bundle; ``auto`` is any."""
    pairs = []
    for name in BACKENDS if backend == "auto" else (backend,):
        build = backend_module(name, "build")
        if build.version() is None:
            continue
        for kind in build.precisions():
            form = build.onnx_form(kind)
            present = any(
                v.precision == form and v.dialect in ("any", DIALECTS[name]) for v in bundle.manifest.variants
            )
            if present and precision in ("auto", kind):
                pairs.append((name, kind))
    return pairs


def choose(
    bundle: Bundle,
    *,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    max_batch: int = 8,
    cache: Path | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Choice:
    """Pick backend and precision. Nothing is timed when only one pair is possible, or when this was asked before.

    The remembered choice is keyed by bundle, backend versions, device and threads.

    Raises:
        UsageError: no installed backend can run the bundle in the precision that was asked for.
        DeviceError: the backend that was asked for has no package, driver or device here, or every candidate failed;
            the message gives each reason. A ``DeviceMemoryError`` where all of them are that.
    """
    check_threads(threads)
    if precision not in (known := ("auto", "fp32", "bf16", "fp16", "int8")):
        raise UsageError(f"Unknown precision {precision!r}.", fix=f"Known: {', '.join(known)}.")
    if backend != "auto":
        require(backend)
    pairs = candidates(bundle, backend, precision)
    if not pairs:
        installed = [n for n in BACKENDS if backend_module(n, "build").version() is not None]
        raise UsageError(
            f"Nothing here can run {bundle.manifest.model.name} with backend {backend} and precision {precision}.",
            fix=f"Installed backends: {', '.join(installed) or 'none'}; forms in the bundle: "
            f"{', '.join(dict.fromkeys(v.precision for v in bundle.manifest.variants))}. `edge-fer doctor` says more.",
        )
    if len(pairs) == 1:
        return Choice(candidates=(Candidate(backend=pairs[0][0], precision=pairs[0][1]),))
    path = _remembered(bundle, pairs, threads, cache)
    if (remembered := _read(path)) is not None:
        return remembered
    check_cache(cache or cache_folder())
    timed = []
    for name, kind in pairs:
        if on_step is not None:
            on_step(f"Building and timing {name} {kind}")
        timed.append(_probe(bundle, name, kind, threads, max_batch, cache))
    usable = sorted((c for c in timed if c.median_us is not None), key=lambda c: c.median_us or 0.0)
    if not usable:
        reasons = "; ".join(f"{c.backend} {c.precision}: {c.error}" for c in timed)
        failure = DeviceMemoryError if all(c.full for c in timed) else DeviceError
        raise failure(f"No backend could run {bundle.manifest.model.name}: {reasons}.")
    choice = Choice(candidates=(*usable, *(c for c in timed if c.median_us is None)))
    _write(path, choice)
    return choice


def remember(bundle: Bundle, choice: Choice, *, backend: str, threads: int, cache: Path | None = None) -> None:
    """Let :func:`choose` give this choice from now on, instead of timing for itself what was timed already.

    Args:
        choice: of a bundle that has just been made; its candidates are all that ``choose`` would time.
    """
    _write(_remembered(bundle, candidates(bundle, backend, "auto"), threads, cache), choice)


def _remembered(bundle: Bundle, pairs: Sequence[tuple[str, str]], threads: int, cache: Path | None) -> Path:
    return (cache or cache_folder()) / "choices" / f"{_key(bundle, pairs, threads)}.json"


def _write(path: Path, choice: Choice) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(choice.model_dump_json(indent=2), encoding="utf-8")


def open_best(
    path: Path,
    *,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    max_batch: int = 8,
    allow_smaller_batch: bool = False,
    on_step: Callable[[str], None] | None = None,
) -> tuple[Engine, str]:
    """Open a bundle with the best backend and precision that fit, or an engine folder as it is.

    Args:
        max_batch: faces at a time.
        allow_smaller_batch: where a GPU's memory is full, try half as many, down to one. What did not fit is not tried
            again, until an opening without this succeeds (:mod:`edge_fer.backends.smaller_batch`).

    Returns:
        the engine, and why it is this one, as a phrase for people.

    Raises:
        BundleError: an engine folder of another backend or precision than asked for, or a damaged folder.
        EdgeFerError: see :func:`choose` and :func:`edge_fer.backends.registry.open_engine`.
    """
    if is_engine(path):
        engine = open_built_engine(path, threads=threads)
        manifest = engine.manifest
        if backend not in ("auto", manifest.backend) or precision not in ("auto", manifest.precision):
            engine.close()
            raise BundleError(
                f"{path} is of {manifest.backend} {manifest.precision}; --backend or --precision ask for another.",
                fix="Leave them out, or name the bundle that it was built from.",
            )
        return engine, "the engine that was named"
    bundle = open_bundle(path)

    def opened(batch: int) -> tuple[Engine, str]:
        choice = choose(bundle, backend=backend, precision=precision, threads=threads, max_batch=batch, on_step=on_step)
        best = choice.best
        engine = open_engine(
            bundle,
            backend=best.backend,
            precision=best.precision,
            max_batch=batch,
            threads=threads,
            on_build=on_step,
        )
        return engine, choice.reason()

    def marker(batch: int) -> Path:
        parts = [bundle.sha256, str(batch)]
        for name, kind in candidates(bundle, backend, precision):
            parts.append(engine_key(bundle, bundle.manifest.model, name, kind, batch))
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        return cache_folder() / smaller_batch.FOLDER / f"{digest}.txt"

    if not allow_smaller_batch:
        found = opened(max_batch)
        if (cache_folder() / smaller_batch.FOLDER).is_dir():
            marker(max_batch).unlink(missing_ok=True)
        return found
    (engine, reason), batch = smaller_batch.first_that_fits(opened, max_batch, marker, on_step)
    if batch < max_batch:
        reason += f"; {batch} face{'s' * (batch > 1)} at a time, because the GPU's memory is too small for {max_batch}"
    return engine, reason


def is_engine(path: Path) -> bool:
    """Whether a folder says of itself that it is a built engine; anything unreadable is not."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == "edge-fer-engine"


def _key(bundle: Bundle, pairs: Sequence[tuple[str, str]], threads: int) -> str:
    parts = [bundle.sha256, str(threads)]
    for name, kind in pairs:
        build = backend_module(name, "build")
        parts.append(f"{name} {kind} {build.version()} {build.device()}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _read(path: Path) -> Choice | None:
    try:
        return Choice.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _probe(bundle: Bundle, backend: str, precision: str, threads: int, max_batch: int, cache: Path | None) -> Candidate:
    command = [sys.executable, "-m", "edge_fer.backends.probe", str(bundle.path), backend, precision]
    command += [str(threads), str(max_batch)]
    environment = os.environ if cache is None else {**os.environ, "EDGE_FER_CACHE": str(cache)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, env=environment)
        answer = json.loads(done.stdout.splitlines()[-1])
        return Candidate(
            backend=backend,
            precision=precision,
            median_us=answer.get("median_us"),
            error=answer.get("error"),
            full=answer.get("full", False),
        )
    except subprocess.TimeoutExpired:
        return Candidate(backend=backend, precision=precision, error=f"no answer within {PROBE_TIMEOUT_S} s")
    except (IndexError, json.JSONDecodeError):
        tail = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return Candidate(backend=backend, precision=precision, error=f"crashed: {tail[0]}")
