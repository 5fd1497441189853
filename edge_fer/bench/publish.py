"""A result as a folder of files: data, tables, page and pictures, which can all be made again from the data alone."""

from __future__ import annotations

import os
from pathlib import Path

from edge_fer.bench.html import write_html
from edge_fer.bench.markdown import write_markdown
from edge_fer.bench.pictures import write_latency, write_scatter, write_soak, write_stages
from edge_fer.bench.report import write_csv
from edge_fer.bench.results import BenchResult, write_json
from edge_fer.core.errors import MissingDependencyError

RESULT, TABLE, CSV, PAGE = "result.json", "table.md", "table.csv", "index.html"
LATENCY, SCATTER, STAGES, SOAK = "latency.png", "scatter.png", "stages.png", "soak.png"


def publish(folder: Path, result: BenchResult, command: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Write every form of a result into ``folder``; files of other names in it stay.

    Args:
        command: the line that repeats the measurement; empty where it is not known.

    Returns:
        the pictures as (what it shows, file name), and what is missing, as sentences.

    Raises:
        DeviceError: the folder cannot be written.
    """
    missing: list[str] = []
    pictures: list[tuple[str, str]] = []
    try:
        if write_latency(folder / LATENCY, result):
            pictures.append(("Latency of every network and engine", LATENCY))
        if write_scatter(folder / SCATTER, result):
            pictures.append(("Latency against accuracy", SCATTER))
        if write_stages(folder / STAGES, result):
            pictures.append(("Where a frame's time goes", STAGES))
        if write_soak(folder / SOAK, result):
            pictures.append(("Burst against sustained", SOAK))
    except MissingDependencyError as error:
        missing.append(f"No pictures: {error}")
    write_json(folder / RESULT, result)
    write_csv(folder / CSV, result)
    write_html(folder / PAGE, result, pictures)
    write_markdown(folder / TABLE, result, command, pictures)
    return pictures, missing


def page_links(pictures: list[tuple[str, str]], folder: Path, page: Path) -> list[tuple[str, str]]:
    """The pictures of ``folder`` as a page elsewhere must write their paths: relative, with forward slashes."""
    start = page.resolve().parent
    return [
        (text, Path(os.path.relpath(folder.resolve() / name, start)).as_posix())  # walks up, which pathlib 3.10 cannot
        for text, name in pictures
    ]
