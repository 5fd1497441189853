"""Names that resolve to code only when used, so that listing what exists imports nothing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from edge_fer.core.errors import UsageError


def resolve(registry: Mapping[str, str], name: str, *, what: str) -> Any:
    """Import ``module:attribute`` that ``registry`` holds under ``name``.

    Raises:
        UsageError: no such name; the message lists the known ones. ``what`` is a noun, such as "detector".
    """
    target = registry.get(name)
    if target is None:
        raise UsageError(f"Unknown {what} {name!r}.", fix=f"Known: {', '.join(sorted(registry))}.")
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
