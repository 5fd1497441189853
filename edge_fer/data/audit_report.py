"""The leakage audit as a file: written by ``edge-fer data audit``, read by whoever evaluates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.errors import BadInputError
from edge_fer.core.files import atomic_file, read_validated
from edge_fer.core.spec import Frozen
from edge_fer.data.samples import Samples
from edge_fer.data.twins import Kind, TwinSpec

FORMAT: Literal["edge-fer-audit/1"] = "edge-fer-audit/1"


class Place(Frozen):
    """A picture: its split, its id in that split, its class."""

    split: str
    id: str
    label: str


class Twin(Frozen):
    """Two pictures that count as the same; ``distance`` in bits of 64, ``correlation`` -1..1."""

    a: Place
    b: Place
    kind: Kind
    distance: int
    correlation: float


class SplitAudit(Frozen):
    """Counts of one split.

    Attributes:
        leaked: pictures with a twin in another split.
        redundant: pictures that one could take away without losing any: of each group of twins all but one.
        conflicting: pictures with a twin in the same split that has another label.
        ids_sha256: of the sorted ids of all its pictures, which tells whether another list is this split.
        ids_of_the_seven_sha256: the same without pictures of other classes than the seven.
    """

    pictures: int
    unreadable: tuple[str, ...]
    leaked: int
    redundant: int
    conflicting: int
    ids_sha256: str
    ids_of_the_seven_sha256: str


class AuditReport(Frozen):
    """Everything that the audit found. The lists per split hold ids; no pixel and no path of this machine is in it."""

    format: Literal["edge-fer-audit/1"] = FORMAT
    source: str
    settings: TwinSpec
    splits: dict[str, SplitAudit]
    pairs_between: dict[str, int]
    leaked: dict[str, tuple[str, ...]]
    redundant: dict[str, tuple[str, ...]]
    conflicting: dict[str, tuple[str, ...]]
    twins: tuple[Twin, ...]


def write_audit(path: Path, report: AuditReport) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_audit(path: Path) -> AuditReport:
    """Raises ``BadInputError`` when it is missing or not an audit."""
    return read_validated(path, AuditReport, "a leakage audit")


def leaked_mask(path: Path, samples: Samples) -> NDArray[np.bool_]:
    """Which samples have a twin in another split of the audited data: bool (n,).

    Accuracy over ``~mask`` is the de-duplicated one.

    Raises:
        BadInputError: it is no audit, none of its splits consists of just these samples, or several do (files of two
            datasets may be named alike) and different ones of their pictures are leaked.
    """
    report = read_audit(path)
    digest = ids_digest(samples.ids)
    same = [
        name for name, split in report.splits.items() if digest in (split.ids_sha256, split.ids_of_the_seven_sha256)
    ]
    leaked = {frozenset(report.leaked[name]).intersection(samples.ids) for name in same}
    if len(leaked) > 1:
        raise BadInputError(
            f"The audit {path} has {len(same)} splits with just these file names ({', '.join(same)}), and other "
            "pictures are leaked in each.",
            fix="Audit again without the splits that you do not evaluate: edge-fer data audit ... --split NAME",
        )
    for ids in leaked:
        return np.fromiter((id_ in ids for id_ in samples.ids), dtype=np.bool_, count=len(samples))
    raise BadInputError(
        f"The audit {path} is about other pictures than the {len(samples)} of {samples.source}.",
        fix="Audit this very data: edge-fer data audit DATA --json audit.json",
    )


def ids_digest(ids: Sequence[str]) -> str:
    """SHA-256 of the ids in sorted order."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
