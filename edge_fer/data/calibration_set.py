"""Calibration sets: which faces decide the int8 ranges, named, hashed, and checked before they are believed.

A set comes from a folder (class folders, or a flat folder of face crops) or from a recipe::

    dataset: fer2013     # a folder or CSV: absolute, beside the recipe, or below $EDGE_FER_DATA
    split: train
    per_class: 64
    seed: 2013
    list: edge-fer-compact.ids.txt    # optional, written once: the samples that the recipe must resolve to

Random numbers are never used as faces. A set that would give wrong ranges is refused with the finding.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edge_fer.core.errors import BadInputError, CalibrationError, SeveralSplitsError, UsageError
from edge_fer.core.files import atomic_file
from edge_fer.core.settings_files import read_settings
from edge_fer.core.spec import Frozen, PreprocessSpec
from edge_fer.data.class_folders import IMAGE_SUFFIXES, read_image
from edge_fer.data.datasets import open_dataset
from edge_fer.data.samples import Image, Samples
from edge_fer.runtime.preprocess import face_pixels, normalise_into

MINIMUM_SAMPLES = 32
"""Below this, extremes of single faces decide the ranges."""
FOLDER_LIMIT = 512
"""How many images of a folder are used; more cost time and change no range."""
BLANK_STD = 3.0
"""An image whose grey values vary less than this (of 255) shows nothing."""
DARK_MEAN, BRIGHT_MEAN = 10.0, 245.0
SMALLEST_SIDE_PX = 16
LARGEST_ASPECT = 2.0
BAD_SHARE = 0.1
"""Share of blank, dark, washed-out or misshapen images above which the set is refused; up to it they are left out."""
UNBALANCED = 10.0


class Recipe(Frozen):
    """A calibration recipe as it stands in YAML."""

    dataset: str
    split: str | None = None
    per_class: int = Field(default=64, ge=1, le=10_000)
    seed: int = 0
    list: str | None = None


@dataclass(frozen=True)
class CalibrationSet:
    """Faces that passed the checks.

    Attributes:
        ids: names of the samples.
        images: decoded pixels, (H, W) grey or (H, W, 3) BGR uint8.
        labels: class name of each sample, or ``None`` for a flat folder.
        source: where they came from, for the certificate.
        sha256: over ids and pixels, in order.
        notes: findings that do not forbid the set, as sentences.
    """

    ids: tuple[str, ...]
    images: tuple[Image, ...]
    labels: tuple[str, ...] | None
    source: str
    sha256: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def counts(self) -> dict[str, int]:
        """Samples per class; empty for a flat folder."""
        return {name: self.labels.count(name) for name in sorted(set(self.labels))} if self.labels else {}

    def samples(self) -> Samples:
        """The same faces as a dataset, for running engines on them; every label is 0."""
        images = self.images
        return Samples(self.ids, np.zeros(len(images), np.int64), ("face",), lambda i: images[i], self.source)

    def batches(self, preprocess: PreprocessSpec, size: int) -> Iterator[NDArray[np.float32]]:
        """The network's input, float32 (n <= size, C, H, W), by the same code as the live loop's."""
        for start in range(0, len(self), size):
            chosen = self.images[start : start + size]
            batch = np.empty((len(chosen), preprocess.channels, *preprocess.size_hw), np.float32)
            for row, image in enumerate(chosen):
                normalise_into(batch[row], face_pixels(image, preprocess), preprocess)
            yield batch


class _Entry(NamedTuple):
    """A sample that may be taken."""

    id: str
    label: str | None
    read: Callable[[], Image]


class _Taken(NamedTuple):
    id: str
    label: str | None
    image: Image


@dataclass
class _Selection:
    """What was taken, and what was passed over."""

    taken: list[_Taken]
    unfit: list[str]
    duplicates: int


def open_calibration_set(path: Path, *, seed: int = 0, as_listed: bool = True) -> CalibrationSet:
    """Resolve and check a folder or a YAML recipe.

    Args:
        as_listed: refuse a recipe that resolves to other faces than its list says; false for who writes that list.

    Raises:
        CalibrationError: the set is missing, empty, too small, one-sided, blank, or not what its list says.
        UsageError: the dataset has several splits and none is named.
    """
    if not path.exists():
        raise CalibrationError(
            f"There is no calibration set {path}.", fix="Give a folder of face crops or a recipe.yaml."
        )
    if path.is_file():
        if path.suffix.lower() not in (".yaml", ".yml"):
            raise CalibrationError(f"{path} is neither a folder of face crops nor a recipe (.yaml).")
        return _from_recipe(path, as_listed=as_listed)
    if not any(child.is_dir() for child in path.iterdir()):
        return _from_flat_folder(path, seed)
    try:
        samples = open_dataset(path)
    except BadInputError as error:
        raise CalibrationError(f"The calibration set {path} is not usable: {error}") from None
    except SeveralSplitsError as error:
        # --split, where a command has it, is that of --data; the faces of a test would flatter the ranges.
        name = "train" if "train" in error.splits else error.splits[0]
        fix = f"Name the folder of one, such as {shlex.quote(str(path / name))}."
        if not (path / name).is_dir():
            fix = f"Write a recipe.yaml with two lines, dataset: {path.resolve()} and split: {name}, and name that."
        raise UsageError(error.message, fix=fix) from None
    per_class = FOLDER_LIMIT // len(samples.class_names)
    return _checked(_select(_by_class(samples), per_class, seed), _short(path))


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        CalibrationError: not YAML, or keys that a recipe does not have.
    """
    return read_settings(path, Recipe, "recipe", CalibrationError)


def write_list(path: Path, found: CalibrationSet) -> None:
    """Write the list that a recipe's ``list`` names: one ``<sha256 of the pixels>  <id>`` a line."""
    lines = [f"{pixel_digest(image)}  {name}\n" for image, name in zip(found.images, found.ids, strict=True)]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def pixel_digest(image: Image) -> str:
    """SHA-256 of an image's shape and decoded pixels: the same for copies under other names or in other formats."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def _from_recipe(path: Path, *, as_listed: bool) -> CalibrationSet:
    recipe = read_recipe(path)
    dataset = _find_dataset(path, recipe.dataset)
    try:
        samples = open_dataset(dataset, recipe.split)
    except BadInputError as error:
        raise CalibrationError(f"The dataset of {path} is not usable: {error}") from None
    except SeveralSplitsError as error:
        raise UsageError(error.message, fix=f"Name one in {path} as split: {', '.join(error.splits)}.") from None
    selection = _select(_by_class(samples), recipe.per_class, recipe.seed)
    found = _checked(selection, f"{path.name} ({recipe.dataset})")
    if as_listed and recipe.list is not None and (path.parent / recipe.list).exists():
        _compare_list(path.parent / recipe.list, found)
    return found


def _find_dataset(recipe: Path, name: str) -> Path:
    home = os.environ.get("EDGE_FER_DATA")
    places = [Path(name), recipe.parent / name] + ([Path(home) / name] if home else [])
    for place in places:
        if place.exists():
            return place
    raise CalibrationError(
        f"The dataset {name!r} of the recipe {recipe} was not found.",
        fix="Set EDGE_FER_DATA to the folder that holds it, or give --calibration a folder of face crops.",
    )


def _compare_list(path: Path, found: CalibrationSet) -> None:
    listed = [tuple(line.split("  ", 1)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    resolved = [(pixel_digest(image), name) for image, name in zip(found.images, found.ids, strict=True)]
    if listed != resolved:
        differing = next((a or b for a, b in zip_longest(listed, resolved) if a != b), ("", "?"))
        raise CalibrationError(
            f"The recipe resolves to other faces than {path} lists; the first that differs is {differing[-1]}.",
            fix="The dataset is another version of the one that was listed; use the original, or a recipe of your own.",
        )


def _from_flat_folder(path: Path, seed: int) -> CalibrationSet:
    files = sorted(child for child in path.iterdir() if child.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise CalibrationError(f"The calibration folder {path} holds no images.")
    entries = [_Entry(file.name, None, partial(read_image, file)) for file in files]
    return _checked(_select([entries], FOLDER_LIMIT, seed), _short(path))


def _by_class(samples: Samples) -> list[list[_Entry]]:
    groups: list[list[_Entry]] = [[] for _ in samples.class_names]
    for index, label in enumerate(samples.labels):
        name = samples.class_names[label]
        groups[label].append(_Entry(samples.ids[index], name, partial(samples.read, index)))
    return groups


def _rank(seed: int, name: str) -> str:
    """Where a sample stands in the shuffled order: depends on its name and the seed alone."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _select(groups: list[list[_Entry]], per_group: int, seed: int) -> _Selection:
    """Up to ``per_group`` distinct, visible samples of every group.

    Unfit images are passed over, so that a black square does not take a face's place, but they are counted: a source
    that is made of them is refused.
    """
    selection = _Selection([], [], 0)
    seen: set[str] = set()
    for group in groups:
        wanted = len(selection.taken) + per_group
        for entry in sorted(group, key=lambda e: _rank(seed, e.id)):
            if len(selection.taken) == wanted:
                break
            try:
                image = entry.read()
            except BadInputError as error:
                raise CalibrationError(f"A calibration image cannot be read: {error}") from None
            digest = pixel_digest(image)
            if digest in seen:
                selection.duplicates += 1
                continue
            seen.add(digest)
            if (finding := _unfit(image)) is not None:
                selection.unfit.append(f"{entry.id} {finding}")
            else:
                selection.taken.append(_Taken(entry.id, entry.label, image))
    # Shuffled across classes: a moving average over batches must not meet one class after the other.
    selection.taken.sort(key=lambda t: _rank(seed, t.id))
    return selection


def _unfit(image: Image) -> str | None:
    """Why an image cannot be a face crop, or ``None``."""
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE_PX:
        return f"is only {width}x{height} pixels"
    if max(height, width) > LARGEST_ASPECT * min(height, width):
        return f"is {width}x{height} pixels, not a face crop"
    mean, spread = float(image.mean()), float(image.std())
    if mean < DARK_MEAN:
        return f"is black (mean {mean:.0f} of 255)"
    if mean > BRIGHT_MEAN:
        return f"is white (mean {mean:.0f} of 255)"
    if spread < BLANK_STD:
        return f"is blank (spread {spread:.1f} of 255)"
    return None


def _checked(selection: _Selection, source: str) -> CalibrationSet:
    """Refuse what would give wrong ranges, and note what is only odd."""
    taken, unfit = selection.taken, selection.unfit
    examined = len(taken) + len(unfit)
    if examined == 0:
        raise CalibrationError(f"The calibration set {source} is empty.")
    if len(unfit) > BAD_SHARE * examined:
        raise CalibrationError(
            f"The calibration set {source} is not made of faces: {len(unfit)} of {examined} images are unfit, "
            f"for example {unfit[0]}.",
            fix="Calibrate on face crops such as the network will meet.",
        )
    counts: dict[str, int] = {}
    for sample in taken:
        if sample.label is not None:
            counts[sample.label] = counts.get(sample.label, 0) + 1
    if len(taken) < MINIMUM_SAMPLES:
        copies = f" ({selection.duplicates} more are copies)" if selection.duplicates else ""
        kinds = f", all of them {next(iter(counts))}" if len(counts) == 1 else ""
        raise CalibrationError(
            f"The calibration set {source} has {len(taken)} usable images{kinds}{copies}; at least {MINIMUM_SAMPLES} "
            "are needed.",
            fix="A few hundred faces of every expression give steady ranges.",
        )
    if len(counts) == 1:
        raise CalibrationError(
            f"The calibration set {source} shows one class only, {next(iter(counts))}; its ranges would fit no other.",
            fix="Calibrate on faces of every class.",
        )
    notes = []
    if selection.duplicates:
        notes.append(f"copies of other images left out: {selection.duplicates}")
    if unfit:
        notes.append(f"unfit images left out: {len(unfit)} ({unfit[0]}{', ...' if len(unfit) > 1 else ''})")
    if not counts:
        notes.append("the folder names no classes, so their balance is not known")
    if counts and max(counts.values()) > UNBALANCED * min(counts.values()):
        notes.append("classes are unbalanced: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    digest = hashlib.sha256()
    for sample in taken:
        digest.update(f"{sample.id}\n{pixel_digest(sample.image)}\n".encode())
    labels = tuple(sample.label for sample in taken if sample.label is not None)
    return CalibrationSet(
        ids=tuple(sample.id for sample in taken),
        images=tuple(sample.image for sample in taken),
        labels=labels if len(labels) == len(taken) else None,
        source=source,
        sha256=digest.hexdigest(),
        notes=tuple(notes),
    )


def _short(path: Path) -> str:
    """The last two parts of a path: enough to recognise it, and nothing about the machine it lies on."""
    return "/".join(path.resolve().parts[-2:])
