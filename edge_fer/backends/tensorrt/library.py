"""Find and load TensorRT: the ``tensorrt`` package of any version from 8.5 on, or TensorRT for RTX.

Both offer the same names, except those that a version has not yet or no longer. What may be missing is asked for with
``hasattr``; no decision is taken by a version number, which only goes into keys and reports.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from functools import cache
from importlib import import_module, metadata
from typing import Any

from edge_fer.core.errors import DeviceError

MODULES: dict[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
"""Modules in the order of preference, and the distributions that may bring each."""


def installed() -> tuple[str, str] | None:
    """(module, version) of the library that would be used, from the metadata alone; ``None``: there is none."""
    for module, distributions in MODULES.items():
        for distribution in distributions:
            with contextlib.suppress(metadata.PackageNotFoundError):
                return module, metadata.version(distribution)
    return None


def missing() -> DeviceError:
    """Which TensorRT fits depends on the GPU, so that no one line of pip is right for everybody."""
    return DeviceError(
        "TensorRT is not installed; it is needed for the TensorRT backend.",
        fix="`edge-fer doctor` prints the line that installs the version for this GPU.",
    )


def import_tensorrt() -> Any:
    """The module ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        DeviceError: neither is installed, or it does not load (a library of CUDA is missing, or it is for another
            Python).
    """
    found = installed()
    if found is None:
        raise missing()
    module, version = found
    try:
        return import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise DeviceError(
            f"{module} {version} is installed but does not load: {said}.",
            fix=_DOCTOR,
        ) from None


def contexts_share_profiles(trt: Any) -> bool:
    """Whether the execution contexts of one engine may use the same optimisation profile.

    Before 8.6 each needs one of its own as soon as a shape is dynamic, and a second context refuses every shape
    ("Profile 0 has been chosen by another IExecutionContext"). 8.6 shares them where a plan was built with its preview
    feature, 10 and later always.
    """
    return hasattr(trt.PreviewFeature, "PROFILE_SHARING_0806") or hasattr(trt, "ExecutionContextAllocationStrategy")


_DOCTOR = "`edge-fer doctor` prints what to install for this GPU."


class Said:
    """What TensorRT said: warnings and errors, oldest first."""

    def __init__(self) -> None:
        self.warnings: deque[str] = deque(maxlen=200)
        self.errors: deque[str] = deque(maxlen=200)

    def last(self) -> str:
        """The last error, or what to say when there was none."""
        return self.errors[-1].strip() if self.errors else "it gives no reason"

    def mentions(self, *words: str) -> bool:
        """Whether any error holds one of these, ignoring case."""
        return any(word.lower() in line.lower() for line in self.errors for word in words)


@cache
def listener(trt: Any) -> Any:
    """The one logger of this process for a TensorRT module: a second one would earn a warning and be ignored.

    It is an ``ILogger`` with ``.said``, the :class:`Said` that is written to now.
    """
    severity = trt.ILogger.Severity
    errors = (severity.ERROR, severity.INTERNAL_ERROR)

    class Listener(trt.ILogger):  # type: ignore[misc]  # the base class exists only where TensorRT does
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said = Said()

        def log(self, level: Any, message: str) -> None:
            if level in errors:
                self.said.errors.append(message)
            elif level == severity.WARNING:
                self.said.warnings.append(message)

    return Listener()


def start_runtime(trt: Any, said: Said) -> Any:
    """What plans are loaded with.

    Args:
        said: what TensorRT says in this block (:func:`listening`).

    Raises:
        DeviceError: the driver is too old for this version, or the GPU is not one of its own.
    """
    try:
        runtime = trt.Runtime(listener(trt))
    except Exception as error:  # its bindings raise TypeError where the library gives them nothing
        if not said.errors:
            said.errors.append(str(error).splitlines()[0])
        runtime = None
    if runtime is None:
        raise DeviceError(f"{trt.__name__} {trt.__version__} does not start on this GPU: {said.last()}.", fix=_DOCTOR)
    return runtime


@contextlib.contextmanager
def listening(trt: Any) -> Iterator[Said]:
    """Collect what TensorRT says within the block."""
    ear, said = listener(trt), Said()
    before, ear.said = ear.said, said
    try:
        yield said
    finally:
        ear.said = before
