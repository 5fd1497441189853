"""NVIDIA GPUs of this machine, and what is known about their architecture (``gpus.yaml``)."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, model_validator

from edge_fer.core.spec import Frozen

How = Literal["measured", "read", "derived"]
Grade = Literal["best", "works", "pointless", "impossible", "unknown"]
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
NVIDIA_SMI_TIMEOUT_S = 20.0


class Fact(Frozen):
    """A statement with its origin: how it is known, and the key of its source in :attr:`Knowledge.sources`."""

    how: How
    source: str


class PrecisionFact(Fact):
    """What a precision is worth on an architecture."""

    grade: Grade
    reason: str


class LastVersion(Fact):
    """The last version of a library that runs on an architecture."""

    version: str


class Install(Fact):
    """A line that installs what fits an architecture.

    Attributes:
        what: names it as a noun phrase.
        backend: ours that uses it, as ``--backend`` takes it; empty for what only compiles or trains.
        python: versions of Python that there are wheels for; empty for any.
        systems: ``platform.system()`` and ``platform.machine()`` that there are wheels for.
        driver: the oldest driver branch that it works with.
    """

    what: str
    command: str
    backend: str = ""
    python: tuple[str, ...] = ()
    systems: tuple[str, ...] = ("Linux x86_64",)
    driver: int = 0

    def misfits(self, python: str, system: str, driver: str) -> tuple[str, ...]:
        """Why the line does not work on a machine as it is, as phrases; empty when it does.

        Args:
            python: version, as ``3.11``.
            system: as ``Linux x86_64``.
            driver: version that nvidia-smi prints, as ``470.223.02``.
        """
        found = []
        if self.python and python not in self.python:
            found.append(f"it needs Python {' or '.join(self.python)}, and this is {python}")
        if system not in self.systems:
            found.append(f"there are wheels for {' and '.join(self.systems)} only, and this is {system}")
        branch = driver.partition(".")[0]
        if self.driver and branch.isdigit() and int(branch) < self.driver:
            found.append(f"it needs a driver from R{self.driver} on, and this is {driver}")
        return tuple(found)


class Note(Fact):
    """A statement in words."""

    text: str


class Architecture(Frozen):
    """One NVIDIA architecture; ``last`` holds only libraries that have dropped it."""

    capabilities: tuple[str, ...]
    name: str
    precisions: dict[str, PrecisionFact]
    last: dict[str, LastVersion]
    install: tuple[Install, ...] = ()
    notes: tuple[Note, ...] = ()

    def facts(self) -> Iterator[Fact]:
        yield from (*self.precisions.values(), *self.last.values(), *self.install, *self.notes)


class Figure(Fact):
    """A figure of a device's data sheet."""

    value: float
    unit: str


class Bound(Fact):
    """Modelled lower bound of a network's latency in milliseconds; nobody measured it."""

    gmac: float
    fp32: float
    int8: float


class KnownGpu(Fact):
    """A device by the name that nvidia-smi prints; ``how`` and ``source`` are of its capability and chip."""

    matches: str
    capability: str
    chip: str
    figures: dict[str, Figure] = Field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    bounds_ms: dict[str, Bound] = Field(default_factory=dict)

    def facts(self) -> Iterator[Fact]:
        yield from (self, *self.figures.values(), *self.notes, *self.bounds_ms.values())


class Knowledge(Frozen):
    """``gpus.yaml``. Reading it fails when a fact names no known source, or when two entries contradict each other."""

    sources: dict[str, str]
    architectures: tuple[Architecture, ...]
    devices: tuple[KnownGpu, ...]

    @model_validator(mode="after")
    def _is_consistent(self) -> Knowledge:
        capabilities = [c for one in self.architectures for c in one.capabilities]
        if len(set(capabilities)) < len(capabilities):
            raise ValueError("a compute capability stands in two architectures")
        for one in self.architectures:
            if tuple(one.precisions) != PRECISIONS:
                raise ValueError(f"{one.name}: precisions must be {', '.join(PRECISIONS)}, in this order")
        for index, device in enumerate(self.devices):
            if device.capability not in capabilities:
                raise ValueError(f"{device.matches}: no architecture {device.capability}")
            hidden_by = [d.matches for d in self.devices[:index] if d.matches.lower() in device.matches.lower()]
            if hidden_by:
                raise ValueError(f"{device.matches} is never reached: {hidden_by[0]} matches first")
        cited = {fact.source for fact in self.facts()}
        if cited != set(self.sources):
            raise ValueError(f"sources and their uses differ: {', '.join(sorted(cited ^ set(self.sources)))}")
        return self

    def facts(self) -> Iterator[Fact]:
        for architecture in self.architectures:
            yield from architecture.facts()
        for device in self.devices:
            yield from device.facts()

    def architecture(self, capability: str) -> Architecture | None:
        return next((a for a in self.architectures if capability in a.capabilities), None)

    def device(self, name: str) -> KnownGpu | None:
        return next((d for d in self.devices if d.matches.lower() in name.lower()), None)


class Gpu(Frozen):
    """A GPU that the driver lists. ``capability_from`` says whether the driver or our table gave the capability."""

    name: str
    driver: str
    capability: str | None
    capability_from: Literal["driver", "table", "unknown"]
    memory_mb: int | None


class GpuSearch(Frozen):
    """Result of asking the driver: GPUs, or the reason why there are none."""

    gpus: tuple[Gpu, ...] = ()
    finding: str = ""


@cache
def knowledge() -> Knowledge:
    """The table that ships with the project."""
    text = resources.files("edge_fer.bench").joinpath("gpus.yaml").read_text(encoding="utf-8")
    return Knowledge.model_validate(yaml.safe_load(text))


def find_gpus(timeout_s: float = NVIDIA_SMI_TIMEOUT_S) -> GpuSearch:
    """Ask ``nvidia-smi``; a machine without it, or with a broken driver, gives a finding instead of an error.

    Args:
        timeout_s: seconds to wait for each answer; a driver that has lost its GPU may never give one.
    """
    program = _nvidia_smi()
    if program is None:
        return GpuSearch(finding="no NVIDIA driver (nvidia-smi is not installed)")
    fields = ("name", "driver_version", "memory.total", "compute_cap")
    rows, complaint = _query(program, fields, timeout_s)
    if rows is None and "compute_cap" in complaint:
        # Drivers such as 470 do not know that field and refuse the whole question.
        rows, complaint = _query(program, fields[:3], timeout_s)
    if rows is None:
        return GpuSearch(finding=f"nvidia-smi fails: {complaint}")
    gpus = tuple(_gpu(row) for row in rows)
    return GpuSearch(gpus=gpus, finding="" if gpus else "the NVIDIA driver lists no GPU")


def _nvidia_smi() -> str | None:
    if found := shutil.which("nvidia-smi"):
        return found
    # Old Windows drivers install it outside the search path.
    older = Path(os.environ.get("PROGRAMFILES", "C:/Program Files")) / "NVIDIA Corporation" / "NVSMI" / "nvidia-smi.exe"
    return str(older) if older.is_file() else None


def _query(program: str, fields: tuple[str, ...], timeout_s: float) -> tuple[list[list[str]] | None, str]:
    """(rows, "") or (None, what nvidia-smi said)."""
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, errors="replace")
    except subprocess.TimeoutExpired:
        return None, f"no answer within {timeout_s:g} s"
    except OSError as error:
        return None, f"it does not start ({error.strerror or error})"
    if done.returncode != 0:
        return None, " ".join((done.stdout + " " + done.stderr).split()) or f"exit status {done.returncode}"
    rows = [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines()) if row]
    if any(len(row) != len(fields) for row in rows):
        return None, f"unexpected answer {done.stdout.strip()[:200]!r}"
    return rows, ""


def _gpu(row: list[str]) -> Gpu:
    name, driver, memory = row[:3]
    capability = row[3] if len(row) > 3 and row[3].replace(".", "", 1).isdigit() else None
    known = knowledge().device(name)
    return Gpu(
        name=name,
        driver=driver,
        capability=capability or (known.capability if known else None),
        capability_from="driver" if capability else "table" if known else "unknown",
        memory_mb=int(memory) if memory.isdigit() else None,
    )
