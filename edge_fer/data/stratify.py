"""Train, validation and test parts that hold the same share of every class of every source.

Samples that belong together (one person's pictures, copies of one picture) form a group, and a group is never divided.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Member:
    """A sample to be placed: its id (unique over all sources), class, source, and group or ``None``."""

    id: str
    label: str
    source: str
    group: str | None = None


def stratified_split(members: Sequence[Member], fractions: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Place every sample in one of the parts.

    Single samples are dealt out exactly: within a class of a source each part differs from its share by less than one
    sample, rounding errors are carried to the next class. Groups come first, the largest before the others, each to the
    part where it brings the classes of grouped samples closest to their shares, so that no part holds more of the
    groups than is its due; the single ones then level out what groups have upset.
    Order and ties are decided by hashes of seed and id: listing order and platform play no part.

    Args:
        fractions: positive shares of the parts; they are scaled to sum to 1.

    Returns:
        int64 (n,): the part's number of each sample.
    """
    if not fractions or min(fractions) <= 0:
        raise ValueError("fractions must be positive")
    shares = np.asarray(fractions, dtype=np.float64) / sum(fractions)
    strata = sorted({(member.source, member.label) for member in members})
    number = {stratum: i for i, stratum in enumerate(strata)}
    of = np.array([number[member.source, member.label] for member in members], dtype=np.int64)
    targets = np.bincount(of, minlength=len(strata))[:, None] * shares
    placed = np.zeros_like(targets)
    part = np.full(len(members), -1, dtype=np.int64)

    groups: dict[str, list[int]] = defaultdict(list)
    singles: dict[int, list[int]] = defaultdict(list)
    sizes = Counter(member.group for member in members if member.group is not None)
    for i, member in enumerate(members):
        if member.group is not None and sizes[member.group] > 1:
            groups[member.group].append(i)
        else:
            singles[int(of[i])].append(i)

    together = np.array([i for numbers in groups.values() for i in numbers], dtype=np.int64)
    grouped = np.bincount(of[together], minlength=len(strata))[:, None]
    due = grouped * shares
    for name in sorted(groups, key=lambda name: (-len(groups[name]), _rank(seed, name))):
        counts = np.bincount(of[groups[name]], minlength=len(strata))[:, None]
        # By how much the squared distance to the grouped samples' own shares grows: not to everybody's, or the small
        # parts would take all groups first and consist of copies. In units of the class: a rare one weighs as much.
        cost = (counts * (counts + 2 * (placed - due)) / np.maximum(grouped, 1)).sum(axis=0)
        best = int(cost.argmin())
        part[groups[name]] = best
        placed[:, best] += counts[:, 0]

    carried = np.zeros(len(shares))
    for stratum in range(len(strata)):
        waiting = sorted(singles[stratum], key=lambda i: _rank(seed, members[i].id))
        seats = _seats(targets[stratum] - placed[stratum], len(waiting), carried)
        part[waiting] = np.repeat(np.arange(len(shares)), seats)
    return part


def _seats(needs: NDArray[np.float64], available: int, carried: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers that sum to ``available`` and follow ``needs``, each rounded down or up; ``carried`` keeps what
    rounding owes each part, and who is owed most is rounded up first."""
    wanted = np.clip(needs, 0, None)
    wanted *= available / max(wanted.sum(), 1e-12)
    seats = np.floor(wanted + 1e-9).astype(np.int64)
    rest = wanted - seats
    owed = np.where(rest > 1e-9, rest + carried, -np.inf)
    seats[np.argsort(-owed, kind="stable")[: available - int(seats.sum())]] += 1
    carried += wanted - seats
    return seats


def _rank(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
