"""``--config`` of ``edge-fer run``: a file's settings become the defaults of the other options."""

from __future__ import annotations

from pathlib import Path

import typer


def use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of an eager option, so that it runs before the other options look for their defaults."""
    if path is not None and not context.resilient_parsing:
        from edge_fer.runtime.run_config import read_run_config

        context.default_map = {**(context.default_map or {}), **read_run_config(path).given()}
    return path
