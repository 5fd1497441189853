"""How many pictures of which class each split and source has, as numbers and as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_fer.core.errors import MissingDependencyError
from edge_fer.core.files import atomic_file
from edge_fer.core.labels import EMOTIONS, canonical
from edge_fer.data.prepared import MANIFEST, SUMMARY, read_manifest
from edge_fer.data.readers.registry import open_reading, split_format

COLOURS = ("#2f6fb0", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#666666")


@dataclass(frozen=True)
class Share:
    """One source's pictures in one split: class -> how many."""

    split: str
    source: str
    counts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class Distribution:
    """Shares in the order of the splits, and the classes in that of the columns: the seven, then what else occurs."""

    classes: tuple[str, ...]
    shares: tuple[Share, ...]

    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(share.split for share in self.shares))

    def of_split(self, split: str) -> dict[str, int]:
        """Class -> pictures of all sources."""
        total: Counter[str] = Counter(dict.fromkeys(self.classes, 0))
        for share in self.shares:
            if share.split == split:
                total.update(share.counts)
        return dict(total)


def distribution_of(paths: Sequence[Path]) -> Distribution:
    """Count datasets of any layout; a prepared one is counted by the sources that its manifest names.

    Raises:
        BadInputError: a path is no dataset.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    for path in paths:
        place = split_format(path)[1]
        if (place / SUMMARY).is_file() and (place / MANIFEST).is_file():
            rows = [(row.part, row.source, row.label) for row in read_manifest(place)]
        else:
            name = place.resolve().name
            rows = [
                (record.split or "all", name, canonical(record.label) or record.label.strip().lower())
                for record in open_reading(path).records
            ]
        for split, source, label in rows:
            counts.setdefault((split, source), Counter())[label] += 1
    found = {label for count in counts.values() for label in count}
    classes = (*EMOTIONS, *sorted(found - set(EMOTIONS)))
    order = {
        name: i for i, name in enumerate(("train", "Training", "val", "valid", "test", "PublicTest", "PrivateTest"))
    }
    keys = sorted(counts, key=lambda key: (order.get(key[0], len(order)), key))
    shares = [Share(split, source, {name: counts[split, source][name] for name in classes}) for split, source in keys]
    return Distribution(classes, tuple(shares))


def plot_distribution(path: Path, found: Distribution, title: str) -> None:
    """Write a PNG: a panel per split, a bar per class, stacked by source, with counts and shares.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib", extra="report", purpose="drawing the class distribution") from None
    splits = found.splits()
    sources = tuple(dict.fromkeys(share.source for share in found.shares))
    figure = Figure(figsize=(max(4.2 * len(splits), 6), 3.6), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(splits), squeeze=False)[0]
    for axis, split in zip(panels, splits, strict=True):
        whole = found.of_split(split)
        total = sum(whole.values())
        base = dict.fromkeys(found.classes, 0)
        for number, source in enumerate(sources):
            share = next((s for s in found.shares if (s.split, s.source) == (split, source)), None)
            if share is None:
                continue
            heights = [share.counts[name] for name in found.classes]
            axis.bar(
                range(len(heights)),
                heights,
                bottom=[base[name] for name in found.classes],
                color=COLOURS[number % len(COLOURS)],
                label=source,
            )
            base = {name: base[name] + share.counts[name] for name in found.classes}
        for i, name in enumerate(found.classes):
            told = f"{whole[name]}\n{whole[name] / total:.1%}" if total else "0"
            axis.annotate(told, (i, whole[name]), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7)
        axis.set_xticks(range(len(found.classes)), found.classes, rotation=40, ha="right", fontsize=8)
        axis.set_title(f"{split}: {total} pictures", fontsize=9)
        axis.margins(y=0.16)
        axis.grid(axis="y", alpha=0.25)
        axis.set_axisbelow(True)
    panels[0].set_ylabel("pictures")
    if len(sources) > 1:
        panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    with atomic_file(path) as temporary:
        canvas.print_png(temporary)  # type: ignore[no-untyped-call]
