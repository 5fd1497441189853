"""The labels of several datasets brought to the project's seven classes, with a table of what became of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_fer.core.errors import UsageError
from edge_fer.core.labels import EMOTIONS, canonical

FURTHER_NAMES: dict[str, str] = {"afraid": "fear", "scared": "fear", "fearfull": "fear", "mad": "angry", "joy": "happy"}
"""Names beside those of :data:`edge_fer.core.labels.ALIASES` that mean one of the seven."""
NOT_OF_THE_SEVEN = frozenset({"contempt", "contemptuous", "unknown", "uncertain", "none", "nf", "no-face", "non-face"})
"""Names that are left out unless the recipe says otherwise; any other unknown name is an error."""


@dataclass(frozen=True)
class MappingRow:
    """What became of one class of one dataset; ``ours`` is ``None`` where it was left out."""

    source: str
    theirs: str
    ours: str | None
    pictures: int


@dataclass(frozen=True)
class LabelMapping:
    """One dataset's class names -> the project's."""

    source: str
    table: Mapping[str, str | None]

    def __getitem__(self, theirs: str) -> str | None:
        return self.table[theirs]

    def rows(self, labels: Iterable[str]) -> list[MappingRow]:
        """How many pictures of ``labels`` went where, ordered by our class, what was left out last."""
        counts = Counter(labels)
        rows = [MappingRow(self.source, theirs, ours, counts[theirs]) for theirs, ours in self.table.items()]
        return sorted(rows, key=lambda row: (row.ours is None, row.ours or "", row.theirs))


def label_mapping(source: str, names: Iterable[str], told: Mapping[str, str | None] | None = None) -> LabelMapping:
    """Decide where every class of a dataset goes.

    Args:
        source: the dataset's name, for messages.
        names: its classes.
        told: what the recipe says: their name -> one of the seven, or ``None`` to leave it out. It goes before
            everything else, so contempt can be merged into another class.

    Raises:
        UsageError: a name that nobody knows, a class that is none of the seven, or a told name that does not occur.
    """
    wishes = dict(told or {})
    table: dict[str, str | None] = {}
    for name in sorted(set(names)):
        if name in wishes:
            table[name] = _ours(source, name, wishes.pop(name))
            continue
        plain = name.strip().lower()
        ours = canonical(plain) or FURTHER_NAMES.get(plain)
        if ours is None and plain.replace(" ", "-").replace("_", "-") not in NOT_OF_THE_SEVEN:
            raise UsageError(
                f"Nobody has said what the class {name!r} of {source} is.",
                fix=f"Say so in the recipe: labels: {{{name}: neutral}}, or {{{name}: null}} to leave it out.",
            )
        table[name] = ours
    if wishes:
        raise UsageError(
            f"The recipe maps {', '.join(map(repr, wishes))} of {source}, which has no such class.",
            fix=f"Its classes: {', '.join(sorted(table))}.",
        )
    return LabelMapping(source, table)


def _ours(source: str, theirs: str, wish: str | None) -> str | None:
    if wish is None:
        return None
    found = canonical(wish)
    if found is None:
        raise UsageError(
            f"The recipe maps {theirs!r} of {source} to {wish!r}, which is none of the classes.",
            fix=f"The classes: {', '.join(EMOTIONS)}; null leaves it out.",
        )
    return found
