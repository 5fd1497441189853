"""Settings of ``edge-fer run`` as a file, so that what was measured best on a machine is what runs on it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from edge_fer.core.files import atomic_file
from edge_fer.core.settings_files import read_settings
from edge_fer.core.spec import Frozen


class RunConfig(Frozen):
    """The options of ``edge-fer run`` that decide speed and accuracy, under the same names and with the same meaning.

    A key that is left out keeps the command's own default; what the user types beats the file.
    """

    engine: str | None = None
    backend: str | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] | None = None
    threads: int | None = Field(default=None, ge=1)
    detector: str | None = None
    min_face: int | None = Field(default=None, ge=16)
    detect_every: int | Literal["auto"] | None = None
    smooth: float | None = Field(default=None, ge=0.0, le=0.95)

    def given(self) -> dict[str, str | int | float]:
        """The keys that the file sets."""
        return self.model_dump(exclude_none=True)


def read_run_config(path: Path) -> RunConfig:
    """Read a config.

    Raises:
        BadInputError: no such file, empty, not YAML, or wrong keys; the message names them.
    """
    return read_settings(path, RunConfig, "run config", fix="Write one with: edge-fer plan --budget 33ms --out FILE")


def write_run_config(path: Path, config: RunConfig, why: tuple[str, ...] = ()) -> None:
    """Write a config; ``why`` becomes comments above it, a line each."""
    comments = "".join(f"# {line}\n" for line in why)
    with atomic_file(path) as temporary:
        temporary.write_text(comments + yaml.safe_dump(config.given(), sort_keys=False), encoding="utf-8")
