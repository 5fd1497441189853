"""What all engines share: the slots, the bounds check and the context manager."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Generic, TypeVar

from edge_fer.core.engine import Slot
from edge_fer.core.errors import DeviceError
from edge_fer.core.manifest import EngineManifest

S = TypeVar("S", bound=Slot)


class HostEngine(ABC, Generic[S]):
    """Base of all engines. Subclasses make their slots and run one of them."""

    def __init__(self, manifest: EngineManifest, slots: Sequence[S]) -> None:
        self._manifest = manifest
        self._slots = tuple(slots)

    @property
    def manifest(self) -> EngineManifest:
        return self._manifest

    @property
    def slots(self) -> Sequence[Slot]:
        return self._slots

    def submit(self, slot: Slot, n: int) -> None:
        if not 1 <= n <= self._manifest.max_batch:
            raise ValueError(f"n must lie in 1..{self._manifest.max_batch}, not {n}")
        self._start(slot, n)  # type: ignore[arg-type]

    def wait(self, slot: Slot) -> None:
        self._finish(slot)  # type: ignore[arg-type]

    @abstractmethod
    def _start(self, slot: S, n: int) -> None: ...

    @abstractmethod
    def _finish(self, slot: S) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> HostEngine[S]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DeviceError):
            # A lost GPU answers every call with the same error; the first one is what people are told.
            with contextlib.suppress(DeviceError):
                self.close()
        else:
            self.close()
