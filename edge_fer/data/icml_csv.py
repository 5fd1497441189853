"""Reader for FER-2013 as the ICML 2013 challenge published it: one CSV with ``emotion,pixels,Usage``.

``pixels`` are 48x48 grey values separated by spaces; ``Usage`` is Training, PublicTest or PrivateTest. The numbers of
``emotion`` are *not* in the project's (alphabetical) order: neutral is 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_fer.core.errors import BadInputError, SeveralSplitsError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.data.samples import Image, Samples

ICML_ORDER: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Meaning of ``emotion`` 0 to 6."""

SIDE_PX = 48
HEADER = ("emotion", "pixels", "usage")
USAGES: tuple[str, ...] = ("Training", "PublicTest", "PrivateTest")

_SPLITS = {
    "train": "Training",
    "training": "Training",
    "test": "PublicTest",
    "publictest": "PublicTest",
    "public": "PublicTest",
    "val": "PublicTest",
    "valid": "PublicTest",
    "validation": "PublicTest",
    "privatetest": "PrivateTest",
    "private": "PrivateTest",
}


def is_icml_csv(path: Path) -> bool:
    """Whether the file's first line is the challenge's header."""
    try:
        with path.open("rb") as file:
            first = file.readline(200)
    except OSError:
        return False
    columns = tuple(part.strip().strip('"').lower() for part in first.decode("utf-8-sig", "replace").split(","))
    return columns == HEADER


def find_icml_csv(path: Path) -> list[Path]:
    """``path`` itself when it is such a CSV, or those that lie directly in it."""
    if path.is_file():
        return [path] if is_icml_csv(path) else []
    return [child for child in sorted(path.glob("*.csv")) if is_icml_csv(child)]


def usage_of(split: str) -> str:
    """The file's ``Usage`` value for a split's name: train, PublicTest, PrivateTest and their usual aliases.

    ``test`` means PublicTest, on which this project reports; PrivateTest has to be asked for by name.

    Raises:
        UsageError: an unknown name.
    """
    usage = _SPLITS.get(split.strip().lower().replace("_", "").replace("-", "").replace(" ", ""))
    if usage is None:
        raise UsageError(f"The FER-2013 CSV has no split {split!r}.", fix="Available: train, PublicTest, PrivateTest.")
    return usage


def open_icml_csv(path: Path, split: str | None = None) -> Samples:
    """Read one split into memory (at most 28,709 x 2,304 bytes); labels follow :data:`EMOTIONS`.

    Ids are ``<Usage>_<row>``, with the row of the file counted from 0 after the header.

    Raises:
        UsageError: the file holds several splits and none was named, or the one named is unknown or empty.
        BadInputError: the file cannot be read, or a row is malformed; the message names the line.
    """
    wanted = usage_of(split) if split is not None else None
    ids: list[str] = []
    labels: list[int] = []
    pixels: list[Image] = []
    usages: dict[str, int] = {}
    for line, emotion, text, usage in iterate_rows(path):
        usages[usage] = usages.get(usage, 0) + 1
        if wanted is not None and usage != wanted:
            continue
        ids.append(f"{usage}_{line - 2}")
        labels.append(EMOTIONS.index(ICML_ORDER[emotion]))
        pixels.append(pixels_of(path, line, text))
    if wanted is None and len(usages) > 1:
        raise SeveralSplitsError(path, usages)
    if usages and not ids:
        raise UsageError(f"{path} has no row of the split {split!r}.", fix=f"It holds: {', '.join(usages)}.")
    return Samples(
        ids=tuple(ids),
        labels=np.asarray(labels, dtype=np.int64),
        class_names=EMOTIONS,
        read=lambda i: pixels[i],
        source=f"{path} ({wanted or next(iter(usages), 'empty')})",
    )


def iterate_rows(path: Path) -> Iterator[tuple[int, int, str, str]]:
    """Yield (line from 1, emotion 0..6, pixels as text, Usage); the header is line 1."""
    try:
        with path.open("r", encoding="utf-8-sig", errors="replace", newline=None) as file:
            header = tuple(part.strip().strip('"').lower() for part in file.readline(200).split(","))
            if header != HEADER:
                raise BadInputError(f"{path} is not the FER-2013 CSV: its header is not {','.join(HEADER)}.")
            for line, row in enumerate(file, start=2):
                if not row.strip():
                    continue
                parts = [part.strip().strip('"') for part in row.split(",")]
                if len(parts) != 3 or parts[0] not in {"0", "1", "2", "3", "4", "5", "6"} or parts[2] not in USAGES:
                    raise BadInputError(f"{path}, line {line}: not a row of emotion (0 to 6), pixels and Usage.")
                yield line, int(parts[0]), parts[1], parts[2]
    except OSError as error:
        raise BadInputError(f"Cannot read {path}: {error.strerror}.") from None


def pixels_of(path: Path, line: int, text: str) -> Image:
    """The face of one row, uint8 (48, 48).

    Raises:
        BadInputError: not 2,304 whole numbers in 0..255; the message names the line.
    """
    try:
        values = bytes(map(int, text.split()))
    except ValueError:
        raise BadInputError(f"{path}, line {line}: pixels must be whole numbers in 0..255.") from None
    if len(values) != SIDE_PX * SIDE_PX:
        raise BadInputError(f"{path}, line {line}: {len(values)} pixels instead of {SIDE_PX * SIDE_PX}.")
    return np.frombuffer(values, dtype=np.uint8).reshape(SIDE_PX, SIDE_PX)
