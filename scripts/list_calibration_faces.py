"""Write the list of faces that a calibration recipe resolves to: ``python scripts/list_calibration_faces.py RECIPE``.

The list is committed beside the recipe, so that anyone can prove that they calibrate on the same faces; the faces
themselves are not ours to publish.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_fer.core.errors import EdgeFerError
from edge_fer.data.calibration_set import open_calibration_set, read_recipe, write_list


def main(path: Path) -> str:
    name = read_recipe(path).list
    if name is None:
        raise SystemExit(f"{path} names no list.")
    target = path.parent / name
    found = open_calibration_set(path, as_listed=False)
    write_list(target, found)
    return f"{target}: {len(found)} faces, {found.counts()}, sha256 {found.sha256}\n"


if __name__ == "__main__":
    try:
        sys.stdout.write(main(Path(sys.argv[1])))
    except EdgeFerError as error:
        raise SystemExit(str(error)) from None
