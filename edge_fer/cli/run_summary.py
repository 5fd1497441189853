"""What a run was like: rates, times, drops and labels."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from edge_fer.core.errors import EdgeFerError
    from edge_fer.core.manifest import EngineManifest
    from edge_fer.runtime.frames import FrameSource
    from edge_fer.runtime.pipeline import Pipeline
    from edge_fer.runtime.timing import Percentiles

WIDE = 72
"""Columns of a terminal in which the summary says what each of its times means."""
MEANING = {
    "wait": "for the next frame",
    "detect": "search the whole picture",
    "follow": "search around the last boxes",
    "crop": "crop, resize, normalise",
    "infer": "the network, softmax",
    "track": "smoothing",
}


def _times(value: Percentiles | None) -> dict[str, float]:
    if value is None:
        return {}
    return {"mean": value.mean, "p50": value.p50, "p90": value.p90, "p99": value.p99, "max": value.maximum}


def overall_scores(pipeline: Pipeline, labels: tuple[str, ...]) -> dict[str, float]:
    """The scores of every face in every frame, averaged, the highest first; empty when there was no face.

    This average is what Santhapalli et al. take as the emotion of a whole video. They are the network's own scores,
    without the smoothing that steadies the labels.
    """
    tracker = pipeline.tracker
    if not tracker.faces:
        return {}
    mean = tracker.score_sum / tracker.faces
    return {labels[i]: float(mean[i]) for i in mean.argsort()[::-1]}


def summary_record(
    pipeline: Pipeline,
    manifest: EngineManifest,
    source: FrameSource,
    *,
    detector: str,
    threads: int,
    failure: EdgeFerError | None = None,
) -> dict[str, Any]:
    """The summary as plain values; times in milliseconds.

    ``frames_in`` = ``frames`` + ``dropped`` + ``failed``. ``frames_unread`` are none of these: frames that a file
    announces, and pictures of a folder, that could not be decoded; ``pictures_unread`` names the latter.
    """
    stats, overall = pipeline.stats, overall_scores(pipeline, manifest.classifier.labels)
    return {
        "model": manifest.model.name,
        "backend": manifest.backend,
        "precision": manifest.precision,
        "threads": threads,
        "detector": detector,
        "source": source.info.description,
        "complete": failure is None,
        "error": None if failure is None else failure.message,
        "frames_in": stats.frames_in,
        "frames_unread": getattr(source, "unread", 0),
        "pictures_unread": list(getattr(source, "unreadable", ())),
        "frames": stats.frames,
        "frames_with_faces": stats.frames_with_faces,
        "faces": stats.faces,
        "detections": stats.detections,
        "dropped": stats.dropped,
        "failed": stats.failed,
        "retries": stats.retries,
        "reconnections": getattr(source, "reconnections", 0),
        "detect_interval": pipeline.detect_interval,
        "label_changes_per_minute": pipeline.tracker.flicker_per_minute(),
        "seconds": stats.seconds,
        "fps": stats.fps,
        "cpu_ms_per_frame": 1e3 * stats.cpu_seconds / stats.frames if stats.frames else None,
        "first_label_ms": stats.first_label_ms,
        "age_ms": _times(stats.age.percentiles()),
        "stages_ms": {name: _times(reservoir.percentiles()) for name, reservoir in stats.stages.items()},
        "copies": asdict(stats.copies) if stats.copies is not None else None,
        "sinks": [{"name": r.sink.name, "written": r.written, "dropped": r.dropped} for r in pipeline.runners],
        "overall": {"label": next(iter(overall)), "faces": stats.faces, "mean_scores": overall} if overall else None,
        "tracks": [
            {
                "track": track.track,
                "frames": track.frames,
                "label": manifest.classifier.labels[int(track.score_sum.argmax())],
                "label_changes": track.changes,
                "mean_scores": {
                    name: float(total) / track.frames
                    for name, total in zip(manifest.classifier.labels, track.score_sum, strict=True)
                },
            }
            for track in pipeline.tracker.all_tracks()
        ],
    }


def print_summary(console: Console, pipeline: Pipeline, source: FrameSource, labels: tuple[str, ...]) -> None:
    """A table and a few sentences."""
    stats = pipeline.stats
    if not stats.frames:
        console.print("No frame was processed.")
        return
    # In a narrow terminal figures come before what they mean: a cut-off figure is a wrong one.
    narrow = console.width < WIDE
    table = Table(title=f"{stats.frames} frames in {stats.seconds:.1f} s: {stats.fps:.0f} fps", title_justify="left")
    if narrow:
        table.box, table.pad_edge = None, False
    for column in ("ms" if narrow else "milliseconds", "p50", "p90", "p99", "max"):
        table.add_column(column, justify="right" if table.columns else "left", no_wrap=True)
    if not narrow:
        table.add_column("")
    rows = [(name, stats.stages[name], MEANING[name]) for name in stats.stages]
    for name, reservoir, meaning in [*rows, ("frame age", stats.age, "from captured to labelled")]:
        if (p := reservoir.percentiles()) is not None:
            figures = (f"{v:.{1 if narrow else 2}f}" for v in (p.p50, p.p90, p.p99, p.maximum))
            table.add_row(name, *figures, *([] if narrow else [meaning]))
    console.print(table)
    cpu = 1e3 * stats.cpu_seconds / stats.frames
    console.print(
        f"{stats.frames_in} frames in = {stats.frames} labelled + {stats.dropped} dropped + {stats.failed} failed; "
        f"faces in {stats.frames_with_faces}; {cpu:.1f} ms of CPU a frame.",
        highlight=False,
    )
    if stats.retries:
        console.print(f"{stats.retries} attempts of detector or engine were repeated.", highlight=False)
    if away := getattr(source, "reconnections", 0):
        console.print(f"The source went away and came back {away} time{'s' * (away > 1)}.", highlight=False)
    if loss := getattr(source, "loss", ""):
        console.print(loss, style="yellow", markup=False, highlight=False)
    if (flicker := pipeline.tracker.flicker_per_minute()) is not None:
        console.print(
            f"The whole picture was searched {stats.detections} times; labels changed {flicker:.1f} times a minute of "
            "each face.",
            highlight=False,
        )
    for note in pipeline.stage.notes():
        console.print(note, highlight=False)
    for runner in pipeline.runners:
        if runner.dropped:
            console.print(
                f"{runner.sink.name}: {runner.dropped} results skipped, {runner.written} shown.", highlight=False
            )
    if overall := overall_scores(pipeline, labels):
        listed = ", ".join(f"{name} {score:.0%}" for name, score in list(overall.items())[:3])
        console.print(f"overall: {listed} (mean scores of all faces in all frames)", highlight=False)
    tracks = pipeline.tracker.all_tracks()
    for track in sorted(tracks, key=lambda t: -t.frames)[:5]:
        mean = track.score_sum / track.frames
        order = mean.argsort()[::-1][:3]
        listed = ", ".join(f"{labels[i]} {mean[i]:.0%}" for i in order)
        console.print(
            f"face #{track.track}: {track.frames} frame{'s' * (track.frames != 1)}, mean scores {listed}; "
            f"label changed {track.changes} time{'s' * (track.changes != 1)}",
            highlight=False,
        )
    if len(tracks) > 5:
        console.print(f"… and {len(tracks) - 5} shorter tracks (--json lists all)", highlight=False)
