"""One device for several threads that use it in turn."""

from __future__ import annotations

import threading
from types import TracebackType

from edge_fer.cuda.device import CudaDevice


class Lane:
    """``with lane as device:`` makes the device this thread's until the block ends; other threads queue up before it.

    Inside, work is queued and memory allocated. Waiting for the device belongs outside: it needs no ownership, and the
    others would wait too.
    """

    def __init__(self, device: CudaDevice) -> None:
        self.info = device.info
        self._device = device
        self._lock = threading.RLock()

    def __enter__(self) -> CudaDevice:
        self._lock.acquire()
        try:
            self._device.take_over()
        except BaseException:
            self._lock.release()
            raise
        return self._device

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


__all__ = ["Lane"]
