"""Engines for fewer faces at a time where a GPU's memory is too small, and only if that was asked for.

On an old card an attempt at an engine that does not fit can take minutes before it fails, so what failed is remembered
beside the engines, and not tried again while something smaller works.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge_fer.core.errors import DeviceMemoryError
from edge_fer.core.files import atomic_file

T = TypeVar("T")

FOLDER = "too-large"
"""Of the engine cache: a file for each number of faces that did not fit, with what was said then."""


def first_that_fits(
    open_for: Callable[[int], T],
    max_batch: int,
    marker: Callable[[int], Path],
    on_step: Callable[[str], None] | None = None,
) -> tuple[T, int]:
    """Open for ``max_batch`` faces at a time, or else for half as many, and so on down to one.

    Args:
        marker: the file that remembers that so many did not fit.
        on_step: told in words what is tried next.

    Returns:
        what ``open_for`` gave, and for how many faces.

    Raises:
        DeviceMemoryError: not even one face fits.
        EdgeFerError: anything else that ``open_for`` raises.
    """
    batches = [max_batch >> step for step in range(max_batch.bit_length())]
    untried = [batch for batch in batches if not marker(batch).exists()]
    failure: DeviceMemoryError | None = None
    for batch in untried or batches:
        try:
            opened = open_for(batch)
        except DeviceMemoryError as error:
            failure = error
            with atomic_file(marker(batch)) as temporary:
                temporary.write_text(f"{error}\n", encoding="utf-8")
            if on_step is not None:
                on_step(f"The GPU's memory is too small for {batch} faces at a time; trying fewer")
            continue
        marker(batch).unlink(missing_ok=True)
        return opened, batch
    assert failure is not None
    raise failure
