"""Optional packages, looked for before the work that needs them."""

from __future__ import annotations

from importlib.util import find_spec

from edge_fer.core.errors import MissingDependencyError


def require_package(package: str, *, extra: str, purpose: str) -> None:
    """See that a package is there, without importing it: some take seconds.

    Raises:
        MissingDependencyError: it is not installed; arguments as there.
    """
    try:
        found = find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):  # a finder that refuses it, or a module without a specification
        found = False
    if not found:
        raise MissingDependencyError(package, extra=extra, purpose=purpose)
