"""``edge-fer eval --task detection``: a face detector on the pictures that training kept out."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge_fer.core.errors import MissingDependencyError, UsageError

COMPOSITES = 100
"""Composites of each condition: enough for differences of a few points, and done in a minute or two."""
HESITANT = 0.05
"""Finds from this score up enter the precision-recall curve."""


@contextlib.contextmanager
def _bundle(model: str | None) -> Iterator[Path]:
    """The bundle to run: as named, or made of a checkpoint for the time being."""
    from edge_fer.core.bundle import DEFAULT_DETECTOR, find_bundle

    if model is None or Path(model).suffix != ".safetensors":
        yield find_bundle(model or DEFAULT_DETECTOR)
        return
    try:
        from edge_fer.compile.compile_detector import compile_detector
        from edge_fer.compile.request import CompileRequest
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "torch", extra="compile", purpose="reading a checkpoint") from None
    with tempfile.TemporaryDirectory(prefix="edge-fer-", ignore_cleanup_errors=True) as folder:
        out = Path(folder) / "detector"
        compile_detector(CompileRequest(checkpoint=Path(model), out=out, precision="fp32", build=False))
        yield out


def evaluate_detector(
    model: str | None,
    data: Path,
    teacher: Path | None,
    backend: str,
    precision: str | None,
    threads: int,
    json: Path | None,
    mistakes: Path | None,
) -> None:
    """Print a row per kind of picture; write figures and pictures of the mistakes where asked."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from edge_fer.backends.face_detector import open_face_detector
    from edge_fer.backends.registry import cache_folder
    from edge_fer.core.bundle import DEFAULT_DETECTOR, open_bundle
    from edge_fer.core.faces import Faces
    from edge_fer.core.files import atomic_file
    from edge_fer.data.detection.folder import HOLDOUT_FRACTION, HOLDOUT_SALT
    from edge_fer.data.detection.labels import Teacher
    from edge_fer.data.detection.test_sets import held_out
    from edge_fer.evaluate.detection_suite import (
        EMPTY,
        FULL_SCALE_FACE,
        SCENE_FACE,
        SCENES,
        Contender,
        Row,
        compare_detectors,
        draw_mistakes,
        picture_sets,
        rows_as_json,
    )

    if teacher is None:
        raise UsageError("The pictures are labelled by a teacher, and none was named.", fix="--teacher YUNET.onnx")
    console = Console()
    with _bundle(model) as path, Progress(console=console, transient=True) as bar:
        spec = open_bundle(path).manifest.detector
        task = bar.add_task("Labelling", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        seen_by = Teacher(teacher)
        held = held_out(
            data,
            seen_by,
            cache_folder() / "detection-labels",
            fraction=HOLDOUT_FRACTION,
            salt=HOLDOUT_SALT,
            progress=lambda done, total: progress("Labelling", done, total),
        )
        sets = picture_sets(held, seen_by, COMPOSITES)
        rows: list[Row] = []
        found: dict[tuple[str, str], list[Faces]] = {}
        scenes = (SCENES, EMPTY)
        for min_face_px, kinds in ((SCENE_FACE, scenes), (FULL_SCALE_FACE, tuple(k for k in sets if k not in scenes))):
            detector = open_face_detector(
                f"{DEFAULT_DETECTOR}={path}",
                min_face_px=min_face_px,
                score=HESITANT,
                backend=backend,
                precision=precision or "auto",
                threads=threads,
            )
            more, finds = compare_detectors(
                {spec.name: Contender(detector, spec.score)}, {kind: sets[kind] for kind in kinds}, progress
            )
            rows += more
            found |= finds
    table = Table("pictures", "faces", "recall", "AP50", "false alarms per 100", "landmarks / eye distance")
    for row in rows:
        cells = (row.recall, row.average_precision, row.landmark_error)
        recall, precision_area, landmarks = ("" if cell != cell else f"{cell:.1%}" for cell in cells)
        table.add_row(
            f"{row.kind} ({row.pictures})",
            str(row.faces),
            recall,
            precision_area,
            f"{row.alarms_per_100:.1f}",
            landmarks,
        )
    console.print(f"[bold]{spec.name}[/], score {spec.score:g}, pictures held out by the hash of their names")
    console.print(table)
    if json is not None:
        import json as encoder

        with atomic_file(json) as temporary:
            temporary.write_text(encoder.dumps(rows_as_json(rows), indent=1) + "\n", encoding="utf-8")
    if mistakes is not None:
        mistakes.mkdir(parents=True, exist_ok=True)
        for (kind, _), faces in found.items():
            name = "".join(c if c.isalnum() else "-" for c in kind)
            draw_mistakes(mistakes / f"{name}.png", sets[kind], faces, spec.score)
