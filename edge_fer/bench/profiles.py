"""Devices as two kinds of peaks, arithmetic and memory, each with its origin (``device_profiles.yaml``)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources

import yaml
from pydantic import Field, model_validator

from edge_fer.bench.gpu import PRECISIONS, Fact
from edge_fer.core.errors import UsageError
from edge_fer.core.spec import Frozen


class Peak(Fact):
    """Operations or bytes a second, and how that is known."""

    value: float = Field(gt=0)


class DeviceProfile(Frozen):
    """What a device could do at best.

    Attributes:
        name: for people.
        matches: parts of the name by which a submitted result is recognised, ignoring case.
        ops: by precision, operations a second; a multiply-accumulate is two.
        bandwidth: of its memory, bytes a second.
        absent: why a precision has no peak.
    """

    name: str
    matches: tuple[str, ...] = Field(min_length=1)
    ops: dict[str, Peak] = Field(min_length=1)
    bandwidth: Peak
    absent: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _every_precision_once(self) -> DeviceProfile:
        if sorted([*self.ops, *self.absent]) != sorted(PRECISIONS):
            raise ValueError(f"{self.name}: each of {', '.join(PRECISIONS)} needs a peak or a reason, not both")
        return self

    def facts(self) -> Iterator[Fact]:
        yield from (*self.ops.values(), self.bandwidth)

    def is_named_by(self, device: str) -> bool:
        return any(part.lower() in device.lower() for part in self.matches)


class DeviceProfiles(Frozen):
    """The file. Reading it fails when a peak names no known source, or a source is cited by none."""

    sources: dict[str, str]
    profiles: dict[str, DeviceProfile]

    @model_validator(mode="after")
    def _sources_are_cited(self) -> DeviceProfiles:
        cited = {fact.source for profile in self.profiles.values() for fact in profile.facts()}
        if cited != set(self.sources):
            raise ValueError(f"sources and their uses differ: {', '.join(sorted(cited ^ set(self.sources)))}")
        return self


@cache
def device_profiles() -> DeviceProfiles:
    """The table that ships with the project."""
    text = resources.files("edge_fer.bench").joinpath("device_profiles.yaml").read_text(encoding="utf-8")
    return DeviceProfiles.model_validate(yaml.safe_load(text))


def find_profile(name: str) -> DeviceProfile:
    """Look a profile up.

    Raises:
        UsageError: there is none of that name; the message lists them.
    """
    found = device_profiles().profiles.get(name)
    if found is None:
        raise UsageError(f"No device profile {name!r}.", fix=f"Known: {', '.join(device_profiles().profiles)}.")
    return found
