"""Prometheus' text format, version 0.0.4: families of samples as lines.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Family:
    """One metric with its help and its samples, each a suffix, labels and a value.

    ``name`` ends in its base unit, and in ``_total`` for a counter.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> Family:
        self.samples.append(("", labels, value))
        return self

    def add_histogram(self, bounds: Sequence[float], counts: Sequence[int], total: float, **labels: str) -> Family:
        """``counts`` are per bucket, one more than ``bounds``, which are upper limits; ``total``: of all values."""
        so_far = 0
        for bound, count in zip([*map(_number, bounds), "+Inf"], counts, strict=True):
            so_far += count
            self.samples.append(("_bucket", {**labels, "le": bound}, so_far))
        self.samples += [("_sum", labels, total), ("_count", labels, so_far)]
        return self


def exposition(families: Iterable[Family]) -> bytes:
    """The families that have samples, as the body of an answer to a scrape."""
    lines: list[str] = []
    for family in families:
        if family.samples:
            explained = family.help.replace("\\", r"\\").replace("\n", r"\n")
            lines += [f"# HELP {family.name} {explained}", f"# TYPE {family.name} {family.kind}"]
            lines += [
                f"{family.name}{suffix}{_labels(labels)} {_number(value)}" for suffix, labels, value in family.samples
            ]
    return "".join(f"{line}\n" for line in lines).encode()


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


def _number(value: float) -> str:
    """The shortest form that reads back as the same number; whole ones without a point."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
