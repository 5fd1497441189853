"""A newest item for many readers: each takes what is newest when it is ready, and counts what it missed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """One writer, many readers, one item. Writing never waits for a reader."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: T | None = None
        self._number = 0
        self._closed = False
        self._readers: set[Reader[T]] = set()
        self._missed = 0

    def put(self, item: T) -> None:
        with self._condition:
            self._item = item
            self._number += 1
            self._condition.notify_all()

    def close(self) -> None:
        """Nothing more comes; readers still get the newest item that they have not seen."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    @property
    def readers(self) -> int:
        return len(self._readers)

    @property
    def missed(self) -> int:
        """Items that were replaced before a reader took them, over all readers that there ever were."""
        with self._condition:
            return self._missed + sum(reader.missed for reader in self._readers)

    @contextlib.contextmanager
    def reader(self) -> Iterator[Reader[T]]:
        """A reader of what is written from now on."""
        with self._condition:
            reader = Reader(self, self._number)
            self._readers.add(reader)
        try:
            yield reader
        finally:
            with self._condition:
                self._readers.remove(reader)
                self._missed += reader.missed


class Reader(Generic[T]):
    """For one thread."""

    def __init__(self, latest: Latest[T], number: int) -> None:
        self._latest, self._number = latest, number
        self._missed = 0

    @property
    def missed(self) -> int:
        """Items that were replaced before they were taken; the newest may still be."""
        return self._missed + max(0, self._latest._number - self._number - 1)

    def take(self, timeout_s: float) -> T | None:
        """The newest item that was not taken yet; ``None`` when none came in time, or none comes any more."""
        latest = self._latest
        with latest._condition:
            latest._condition.wait_for(lambda: latest._number > self._number or latest._closed, timeout_s)
            if latest._number == self._number:
                return None
            self._missed += latest._number - self._number - 1
            self._number = latest._number
            return latest._item

    @property
    def ended(self) -> bool:
        """Nothing more comes, and the last item was taken."""
        latest = self._latest
        with latest._condition:
            return latest._closed and latest._number == self._number
