"""Every error that a user of edge-fer can meet.

    EdgeFerError              exit 1   a bug of ours, or the base class
    ├── UsageError            exit 2   the command line asks for something contradictory or unknown
    │   └── SeveralSplitsError         a dataset has several splits, and none was named
    ├── BadInputError         exit 3   a file, folder, frame or value is not what it must be
    │   ├── CheckpointError            weights that cannot be read, or do not fit the architecture
    │   ├── BundleError                a bundle or engine folder that is damaged, edited or foreign
    │   ├── CalibrationError           a calibration set that would give wrong ranges
    │   └── SourceError                a video, camera, folder or stream that gives no frames
    └── DeviceError           exit 4   the machine lacks a device, driver, library or disk space
        ├── DeviceMemoryError          a GPU's memory is full
        ├── DeviceLostError            a GPU that answers this process no more, whatever is tried
        ├── MissingDependencyError     an optional package is not installed
        └── ProviderError              a backend would run somewhere else than where it was asked to

A message says what is wrong and where; ``fix`` is the command or the step that mends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "BadInputError",
    "BundleError",
    "CalibrationError",
    "CheckpointError",
    "DeviceError",
    "DeviceLostError",
    "DeviceMemoryError",
    "EdgeFerError",
    "MissingDependencyError",
    "ProviderError",
    "SeveralSplitsError",
    "SourceError",
    "UsageError",
]


class EdgeFerError(Exception):
    """Base of the tree. ``str(error)`` is the sentence for the user; ``fix`` may be empty."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


class UsageError(EdgeFerError):
    exit_code = 2


class SeveralSplitsError(UsageError):
    """``splits`` are the names to choose from."""

    def __init__(self, path: Path, splits: Iterable[str]) -> None:
        self.splits = tuple(splits)
        super().__init__(f"{path} has several splits.", fix=f"Name one with --split: {', '.join(self.splits)}.")


class BadInputError(EdgeFerError):
    exit_code = 3


class CheckpointError(BadInputError):
    pass


class BundleError(BadInputError):
    pass


class CalibrationError(BadInputError):
    pass


class SourceError(BadInputError):
    pass


class DeviceError(EdgeFerError):
    exit_code = 4


class DeviceMemoryError(DeviceError):
    pass


class DeviceLostError(DeviceError):
    pass


class MissingDependencyError(DeviceError):
    """An optional package is absent.

    Args:
        package: the name that ``pip install`` takes.
        extra: the extra of edge-fer that brings it; empty for what belongs to the base installation.
        purpose: what it is needed for, as a noun phrase.
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{package} is not installed; it is needed for {purpose}.",
            fix=f"Install it with: pip install 'edge-fer[{extra}]'"
            if extra
            else "Install it with: pip install edge-fer",
        )
        self.package = package
        self.extra = extra


class ProviderError(DeviceError):
    pass
