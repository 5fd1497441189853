"""Reader for trees of class folders: ``DIR/<class>/*.jpg`` or ``DIR/<split>/<class>/*.jpg``.

This is how Kaggle distributes FER-2013, and what people make by hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_fer.core.errors import BadInputError, SeveralSplitsError, UsageError
from edge_fer.core.labels import EMOTIONS, canonical
from edge_fer.data.samples import Image, Samples
from edge_fer.runtime.picture_files import read_picture

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})


def read_image(path: Path) -> Image:
    """Decode one file: (H, W) uint8 for a grey file, (H, W, 3) uint8 BGR otherwise.

    Raises:
        BadInputError: the file is missing, empty, not an image, or larger than OpenCV decodes.
    """
    return read_picture(path, grey_stays=True)


def _class_dirs(root: Path) -> list[tuple[str, Path]]:
    """(class, folder), sorted by folder; one class may have several folders, such as ``anger`` and ``Angry``."""
    named = ((canonical(child.name), child) for child in sorted(root.iterdir()) if child.is_dir())
    return [(label, folder) for label, folder in named if label is not None]


def find_splits(root: Path) -> dict[str, Path]:
    """Folders that hold class folders, by name; ``{"": root}`` when ``root`` holds the class folders itself.

    One more level is looked through, because archives often unpack into a folder of their own.
    """
    if not root.is_dir():
        raise BadInputError(f"{root} is not a folder.")
    if _class_dirs(root):
        return {"": root}
    splits = {child.name: child for child in sorted(root.iterdir()) if child.is_dir() and _class_dirs(child)}
    if splits:
        return splits
    children = [child for child in sorted(root.iterdir()) if child.is_dir()]
    if len(children) == 1:
        return find_splits(children[0])
    raise BadInputError(
        f"{root} holds no class folders ({', '.join(EMOTIONS)}), nor folders of them.",
        fix="Point at a folder such as DIR/happy/*.jpg or DIR/test/happy/*.jpg.",
    )


def open_class_folders(root: Path, split: str | None = None) -> Samples:
    """List the images below ``root``; labels follow :data:`EMOTIONS`, ids are paths relative to the split's folder.

    Raises:
        UsageError: several splits exist and none, or an unknown one, was named.
        BadInputError: no class folder or no image.
    """
    splits = find_splits(root)
    if split is None:
        if len(splits) > 1:
            raise SeveralSplitsError(root, splits)
        split = next(iter(splits))
    if split not in splits:
        available = ", ".join(name or "(none: class folders lie at the top)" for name in splits)
        raise UsageError(f"{root} has no split {split!r}.", fix=f"Available: {available}.")
    base = splits[split]
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in _class_dirs(base):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                paths.append(path)
                labels.append(EMOTIONS.index(label))
    named = {folder for _, folder in _class_dirs(base)}
    others = {child.name: _pictures(child) for child in sorted(base.iterdir()) if child.is_dir() and child not in named}
    return Samples(
        ids=tuple(path.relative_to(base).as_posix() for path in paths),
        labels=np.asarray(labels, dtype=np.int64),
        class_names=EMOTIONS,
        read=lambda i: read_image(paths[i]),
        source=str(base),
        left_out=tuple((name, count) for name, count in others.items() if count),
    )


def _pictures(folder: Path) -> int:
    return sum(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())
