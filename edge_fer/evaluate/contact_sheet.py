"""A calibration set as one picture: its faces, and how bright its pixels are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edge_fer.core.errors import MissingDependencyError
from edge_fer.core.files import atomic_file
from edge_fer.data.calibration_set import CalibrationSet

TILE, COLUMNS, ROWS = 64, 16, 14


def draw_contact_sheet(path: Path, faces: CalibrationSet) -> int:
    """Write a PNG with up to 224 faces, evenly picked from the set, and a histogram of all its pixels.

    Returns:
        the number of faces shown.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib", extra="report", purpose="drawing the contact sheet") from None
    chosen = np.unique(np.linspace(0, len(faces) - 1, min(len(faces), COLUMNS * ROWS)).round().astype(int))
    rows = -(-len(chosen) // COLUMNS)
    sheet = np.full((rows * TILE, COLUMNS * TILE, 3), 255, np.uint8)
    for place, index in enumerate(chosen):
        image = faces.images[index]
        tile = cv2.resize(image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), (TILE - 2, TILE - 2))
        y, x = divmod(place, COLUMNS)
        sheet[y * TILE : y * TILE + TILE - 2, x * TILE : x * TILE + TILE - 2] = tile[..., ::-1]
    counts = np.zeros(256, np.int64)
    for image in faces.images:
        counts += np.bincount(image.ravel(), minlength=256)
    figure = Figure(figsize=(11, 1.6 + 11 * rows / COLUMNS + 1.6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    pictures, histogram = figure.subplots(2, 1, height_ratios=(11 * rows / COLUMNS, 1.6))
    pictures.imshow(sheet)
    pictures.set_axis_off()
    classes = ", ".join(f"{name} {count}" for name, count in faces.counts().items())
    pictures.set_title(f"{len(faces)} faces of {faces.source}\n{classes}", fontsize=10, loc="left")
    histogram.fill_between(np.arange(256), counts / counts.sum(), step="mid", color="#2f6fb0")
    histogram.set(xlabel="pixel value", ylabel="share", xlim=(0, 255), ylim=(0, None))
    with atomic_file(path) as temporary:
        canvas.print_png(temporary)  # type: ignore[no-untyped-call]
    return len(chosen)
