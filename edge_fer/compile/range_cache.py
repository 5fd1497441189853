"""Ranges that were measured before: one JSON file, documented in docs/range-cache.md.

Measuring ranges takes two passes over the calibration set, and gives the same every time for the same network, the same
faces, the same preprocessing and the same method. So an entry is found by all of these, and by nothing else. Every
entry carries a digest of itself: one that was changed by hand is an error, because int8 would be wrong without a word;
one from other calibration code is measured anew, and that is said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnx import ModelProto
from pydantic import Field

from edge_fer.backends.registry import cache_folder
from edge_fer.compile.calibrate import DEFAULT_METHOD, Calibration, Progress, calibrate, check_method
from edge_fer.compile.graph import Graph, model_hash
from edge_fer.compile.plan import plan_quantisation
from edge_fer.core.errors import CalibrationError, DeviceError
from edge_fer.core.files import atomic_file, locked, read_validated
from edge_fer.core.spec import Frozen, PreprocessSpec
from edge_fer.data.calibration_set import CalibrationSet

FILE = "ranges.json"
REVISION = 2
"""Raised whenever the code that measures or chooses ranges gives others for the same data."""
LIMIT = 64
"""Entries that are kept, the newest ones."""


class Entry(Frozen):
    """One measurement.

    Attributes:
        revision: of the calibration code that made it.
        preprocess_sha256: of the contract's preprocessing, which is part of neither the network nor the faces.
        sha256: over all the rest of the entry, as JSON with sorted keys and no spaces.
    """

    revision: int
    preprocess_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    calibration: Calibration
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class RangeFile(Frozen):
    """``ranges.json``; keys are ``<model>/<data>/<preprocess>/<method>``, in the order in which they were written."""

    kind: Literal["edge-fer-ranges"] = "edge-fer-ranges"
    format: Literal[1] = 1
    entries: dict[str, Entry] = Field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What the cache says: the ranges, or ``None``; and a sentence for the user where there is one to tell."""

    calibration: Calibration | None
    note: str = ""


class RangeCache:
    """The file, read when it is asked.

    Args:
        path: default is ``ranges.json`` in the folder of built engines (``$EDGE_FER_CACHE``, or the user's cache).
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_folder() / FILE

    def entries(self) -> Mapping[str, Entry]:
        """Every entry.

        Raises:
            CalibrationError: the file is damaged, or an entry is not what was written.
        """
        if not self.path.exists():
            return {}
        found = read_validated(self.path, RangeFile, "a valid cache of ranges", CalibrationError)
        for key, entry in found.entries.items():
            # Another revision may have had other fields, which the digest covers; it is not used anyway.
            known = entry.revision == REVISION
            if key != key_of(entry) or (known and entry.sha256 != digest(entry)):
                raise CalibrationError(
                    f"The cached ranges {_short(key)} in {self.path} were changed since they were measured.",
                    fix="Delete that file; the next compile measures them anew.",
                )
        return found.entries

    def find(self, model: ModelProto, data_sha256: str, preprocess: PreprocessSpec, method: str) -> Found:
        """Ranges of this network, these faces, this preprocessing and this method.

        Raises:
            CalibrationError: as :meth:`entries`.
        """
        key = "/".join((model_hash(model), data_sha256, preprocess_digest(preprocess), method))
        entry = self.entries().get(key)
        if entry is None:
            return Found(None)
        missing = set(plan_quantisation(Graph(model)).measured) - set(entry.calibration.tensors)
        if entry.revision != REVISION or missing:
            return Found(
                None,
                f"the cached ranges {_short(key)} are stale, made by another version of the calibration code; they "
                "were measured anew",
            )
        found = entry.calibration
        return Found(
            found,
            f"the int8 ranges were measured before on this network and these faces ({found.method}, "
            f"{len(found.sample_ids)} faces of {found.source}), and are taken from {self.path}",
        )

    def store(self, calibration: Calibration, preprocess: PreprocessSpec) -> None:
        """Add an entry, or replace the one with its key; the oldest ones beyond :data:`LIMIT` go.

        Raises:
            CalibrationError: as :meth:`entries`.
            DeviceError: the file cannot be written.
        """
        entry = make_entry(calibration, preprocess)
        # What another process stores between reading and writing would be lost.
        with locked(self.path):
            entries = {key: kept for key, kept in self.entries().items() if key != key_of(entry)}
            entries[key_of(entry)] = entry
            newest = dict(list(entries.items())[-LIMIT:])
            with atomic_file(self.path) as temporary:
                text = json.dumps(RangeFile(entries=newest).model_dump(mode="json"), indent=1)
                temporary.write_text(text + "\n", encoding="utf-8")


def calibrate_or_recall(
    model: ModelProto,
    samples: CalibrationSet,
    preprocess: PreprocessSpec,
    *,
    cache: RangeCache,
    method: str = DEFAULT_METHOD,
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[Calibration, str]:
    """:func:`edge_fer.compile.calibrate.calibrate`, unless that was done before.

    Returns:
        the ranges, and a sentence when they come from the cache, when a stale entry was refused, or when the cache
        cannot be written, else ``""``.

    Raises:
        UsageError, CalibrationError: as there, and for a cache that was changed by hand.
    """
    check_method(method)
    found = cache.find(model, samples.sha256, preprocess, method)
    if found.calibration is not None:
        # The same pixels may lie under other names now; the certificate names those of today.
        update = {"source": samples.source, "sample_ids": samples.ids}
        return found.calibration.model_copy(update=update), found.note
    measured = calibrate(model, samples, preprocess, method=method, threads=threads, progress=progress)
    note = found.note
    try:
        cache.store(measured, preprocess)
    except DeviceError as error:
        # Ranges that are measured again next time are no reason to stop.
        note = f"{note}; ".lstrip("; ") + f"the ranges are not kept for the next time: {error.message.rstrip('.')} "
        note += "(EDGE_FER_CACHE names another place)"
    return measured, note


def make_entry(calibration: Calibration, preprocess: PreprocessSpec, *, revision: int = REVISION) -> Entry:
    draft = Entry(
        revision=revision,
        preprocess_sha256=preprocess_digest(preprocess),
        calibration=calibration,
        sha256="0" * 64,
    )
    return draft.model_copy(update={"sha256": digest(draft)})


def key_of(entry: Entry) -> str:
    found = entry.calibration
    return "/".join((found.model_sha256, found.data_sha256, entry.preprocess_sha256, found.method))


def digest(entry: Entry) -> str:
    """SHA-256 over everything in an entry but the digest itself."""
    return _sha256(entry.model_dump(mode="json", exclude={"sha256"}))


def preprocess_digest(preprocess: PreprocessSpec) -> str:
    return _sha256(preprocess.model_dump(mode="json"))


def _sha256(tree: object) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _short(key: str) -> str:
    *hashes, method = key.split("/")
    return "/".join([*(part[:8] for part in hashes), method])
