"""Leakage audit: pictures that lie in two splits, copies within one, and copies whose labels contradict each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.core.labels import canonical
from edge_fer.core.threads import usable_threads
from edge_fer.data.audit_report import AuditReport, Place, SplitAudit, Twin, ids_digest
from edge_fer.data.perceptual_hash import difference_hash, miniature, thumbnail
from edge_fer.data.picture_sheet import Tile, draw_sheet
from edge_fer.data.readers.base import Record
from edge_fer.data.readers.registry import open_reading, split_format
from edge_fer.data.samples import Image
from edge_fer.data.twins import Pair, Progress, TwinSpec, find_twins, groups_of

WHOLE = "all"
"""Name of the one split of a dataset that has none."""


@dataclass(frozen=True)
class Entry:
    """A picture under audit, in the split that the report calls ``split``."""

    split: str
    record: Record

    @property
    def label(self) -> str:
        """The project's name of the class where it is one of the seven, else the dataset's own."""
        return canonical(self.record.label) or self.record.label


def collect(paths: Sequence[Path], splits: Sequence[str] = ()) -> list[Entry]:
    """All pictures of one dataset by its own splits, or of several, whose splits are then called ``<folder>/<split>``.

    Args:
        splits: only these; empty means all.

    Raises:
        UsageError: a split that does not exist, or one dataset named twice.
        BadInputError: a path is no dataset.
    """
    entries = []
    for path, name in zip(paths, _names([split_format(path)[1] for path in paths]), strict=True):
        for record in open_reading(path).records:
            split = record.split or WHOLE
            entries.append(Entry(split if len(paths) == 1 else f"{name}/{split}", record))
    known = tuple(dict.fromkeys(entry.split for entry in entries))
    for wanted in splits:
        if wanted not in known:
            raise UsageError(f"There is no split {wanted!r} to audit.", fix=f"Available: {', '.join(known)}.")
    return [entry for entry in entries if not splits or entry.split in splits]


def _names(places: Sequence[Path]) -> list[str]:
    """The last part of each path, and as many before it as tell it from the others."""
    full = [place.resolve() for place in places]
    twice = [place for place, count in Counter(full).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]} is named twice.", fix="Named once, its splits are compared.")
    most = max(len(place.parts) for place in full)
    named = ([Path(*place.parts[-parts:]).as_posix() for place in full] for parts in range(1, most + 1))
    return next(names for names in named if len(set(names)) == len(names))


def audit(
    entries: Sequence[Entry],
    spec: TwinSpec,
    source: str,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[AuditReport, list[Entry], list[Pair]]:
    """Compare every picture with every other one.

    Args:
        source: what was audited, for the report.
        threads: that decode pictures; default: all cores, at most 8.

    Returns:
        (report, the readable entries, their pairs).

    Raises:
        BadInputError: fewer than two pictures can be read.
    """
    prints = _read_all(entries, threads or min(8, usable_threads()), progress)
    good = [entry for entry, item in zip(entries, prints, strict=True) if item is not None]
    kept = [item for item in prints if item is not None]
    if len(kept) < 2:
        raise BadInputError(f"{source} holds {len(kept)} readable pictures; there is nothing to compare.")
    hashes = np.array([item.hash for item in kept], dtype=np.uint64)
    minis = np.stack([item.mini for item in kept])
    pairs = find_twins(hashes, minis, lambda i: kept[i].thumb, spec, progress)
    leaked: dict[str, set[str]] = defaultdict(set)
    partners: Counter[tuple[str, str]] = Counter()
    for pair in pairs:
        a, b = good[pair.i], good[pair.j]
        if a.split != b.split:
            leaked[a.split].add(a.record.id)
            leaked[b.split].add(b.record.id)
        first, second = sorted((a.split, b.split))
        partners[first, second] += 1
    redundant = _redundant(good, pairs)
    conflicts = _conflicting(good, pairs)
    splits = {}
    for name in dict.fromkeys(entry.split for entry in entries):
        of_split = [entry for entry in entries if entry.split == name]
        ids = [entry.record.id for entry in of_split]
        splits[name] = SplitAudit(
            pictures=len(ids),
            unreadable=tuple(
                entry.record.id
                for entry, item in zip(entries, prints, strict=True)
                if entry.split == name and item is None
            ),
            leaked=len(leaked[name]),
            redundant=len(redundant[name]),
            conflicting=len(conflicts[name]),
            ids_sha256=ids_digest(ids),
            ids_of_the_seven_sha256=ids_digest(
                [entry.record.id for entry in of_split if canonical(entry.record.label) is not None]
            ),
        )
    twins = tuple(
        Twin(
            a=_place(good[pair.i]),
            b=_place(good[pair.j]),
            kind=pair.kind,
            distance=pair.distance,
            correlation=round(pair.correlation, 4),
        )
        for pair in pairs
    )
    report = AuditReport(
        source=source,
        settings=spec,
        splits=splits,
        pairs_between={f"{a} | {b}": count for (a, b), count in sorted(partners.items())},
        leaked={name: tuple(sorted(leaked[name])) for name in splits},
        redundant={name: tuple(sorted(redundant[name])) for name in splits},
        conflicting={name: tuple(sorted(conflicts[name])) for name in splits},
        twins=twins,
    )
    return report, good, pairs


class _Print(NamedTuple):
    """What of a picture is kept to compare it."""

    hash: np.uint64
    mini: Image
    thumb: Image


def _read_all(entries: Sequence[Entry], threads: int, progress: Progress | None) -> list[_Print | None]:
    """In the order of ``entries``; ``None`` where a picture cannot be read."""

    def work(entry: Entry) -> _Print | None:
        try:
            image = entry.record.read_box()
        except BadInputError:
            return None
        return _Print(difference_hash(image), miniature(image), thumbnail(image))

    prints = []
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for done, item in enumerate(pool.map(work, entries), start=1):
            prints.append(item)
            if progress is not None and (done % 200 == 0 or done == len(entries)):
                progress("Reading", done, len(entries))
    return prints


def _redundant(good: Sequence[Entry], pairs: Sequence[Pair]) -> dict[str, set[str]]:
    """Of every group of twins, per split, all but the first."""
    seen: set[tuple[str, int]] = set()
    found: dict[str, set[str]] = defaultdict(set)
    for entry, group in zip(good, groups_of(len(good), pairs), strict=True):
        if (entry.split, int(group)) in seen:
            found[entry.split].add(entry.record.id)
        seen.add((entry.split, int(group)))
    return found


def _conflicting(good: Sequence[Entry], pairs: Sequence[Pair]) -> dict[str, set[str]]:
    """Twins within a split that have different labels."""
    found: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        a, b = good[pair.i], good[pair.j]
        if a.split == b.split and a.label != b.label:
            found[a.split] |= {a.record.id, b.record.id}
    return found


def _place(entry: Entry) -> Place:
    return Place(split=entry.split, id=entry.record.id, label=entry.label)


def draw_pairs(path: Path, good: Sequence[Entry], pairs: Sequence[Pair], limit: int = 60) -> int:
    """Write a PNG of up to ``limit`` pairs side by side: those between splits first, of them the most doubtful first.

    Returns:
        how many pairs are shown.
    """
    order = sorted(pairs, key=lambda pair: (good[pair.i].split == good[pair.j].split, pair.correlation))
    tiles = []
    for pair in order[:limit]:
        for number in (pair.i, pair.j):
            entry = good[number]
            told = f"{pair.kind} {pair.correlation:.3f}" if number == pair.i else f"{pair.distance} bits"
            lines = (entry.split, entry.label, told)
            tiles.append(Tile(np.asarray(entry.record.read_box()), lines))
    draw_sheet(path, tiles, f"{len(pairs)} pairs of twins, {min(limit, len(pairs))} shown, most doubtful first")
    return min(limit, len(pairs))
