"""``edge-fer run``: faces labelled in a moving picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_fer.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from edge_fer.core.engine import Engine
    from edge_fer.runtime.frames import FrameSource, SourceInfo
    from edge_fer.runtime.results import Sink

DEMO = Path(__file__).resolve().parents[1] / "runtime" / "assets" / "demo.mp4"


def run(
    camera: int | None = typer.Option(None, min=0, help="Number of a camera, usually 0."),
    source: str | None = typer.Option(
        None,
        help="Video file, picture, folder or glob of pictures, RTSP/HTTP URL, or synthetic:FILE (a file as a camera).",
    ),
    demo: bool = typer.Option(False, "--demo", help="The clip that ships with edge-fer."),
    engine: str | None = typer.Option(None, help="Bundle or engine: a folder, or a shipped model's name."),
    backend: str = typer.Option("auto", help="auto (the fastest measured here), onnxruntime, openvino."),
    precision: str = typer.Option("auto", help="auto, fp32, bf16, fp16, int8."),
    detector: str = typer.Option("haar", help="haar, yunet=FILE.onnx, or none (the whole frame is the face)."),
    min_face: int = typer.Option(80, min=16, help="Smallest face wanted, in pixels of the frame."),
    detect_every: int = typer.Option(1, min=1, help="Search for faces on every n-th frame; boxes stay in between."),
    smooth: float = typer.Option(0.6, min=0.0, max=0.95, help="Weight of a face's past scores; 0 is off."),
    show: bool | None = typer.Option(None, "--show/--no-show", help="Open a window. Default: when there is a display."),
    save: Path | None = typer.Option(None, help="Write the annotated video to this MP4."),
    jsonl: Path | None = typer.Option(None, help="Write a line of JSON per frame."),
    csv: Path | None = typer.Option(None, help="Write a row per face and frame."),
    max_frames: int | None = typer.Option(None, min=1, help="End after so many frames."),
    threads: int | None = typer.Option(None, min=1, help="Threads of the engine. Default: half of the cores."),
    as_json: bool = typer.Option(False, "--json", help="Print the summary as JSON."),
) -> None:
    """Label the faces of a camera, a video or pictures, live.

    The first run on a machine builds the engine and, for auto, times what could run it. Frames stay on this machine
    and are kept only where --save asks for it.
    """
    given = [camera is not None, source is not None, demo]
    if sum(given) != 1:
        raise UsageError(
            "Say where the frames come from."
            if not any(given)
            else "Only one of --camera, --source and --demo, please.",
            fix="edge-fer run --camera 0, --source FILE or --demo",
        )
    outputs = [path.absolute() for path in (save, jsonl, csv) if path is not None]
    if len(set(outputs)) < len(outputs):
        raise UsageError(
            "Two outputs would go to the same file.", fix="Give --save, --jsonl and --csv paths of their own."
        )
    import os
    import signal

    import cv2
    from rich.console import Console

    from edge_fer.runtime.detectors.base import open_detector
    from edge_fer.runtime.pipeline import Pipeline
    from edge_fer.runtime.sinks.window import has_display

    console = Console(stderr=as_json)
    shown = has_display() if show is None else show
    # A container or `taskset` may leave this process fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    engine_threads = threads or max(1, cores // 2)
    # The detector and the crop run in the loop's own thread; more threads of OpenCV's would only fight the engine's.
    cv2.setNumThreads(1)
    face_detector = open_detector(detector, min_face_px=min_face)
    runner, why = _open(engine, backend, precision, engine_threads, console)
    with runner:
        wanted = sum([shown, save is not None, jsonl is not None, csv is not None, not shown])
        frames = _source(camera, source, demo, Pipeline.frames_held(wanted), shown)
        try:
            manifest = runner.manifest
            sinks = _sinks(shown, save, jsonl, csv, frames.info, manifest.model.labels)
            if not shown and console.is_terminal:
                from edge_fer.cli.status import StatusSink

                sinks.append(StatusSink(console))
            size = f"{frames.info.width}x{frames.info.height}"
            rate = f" at {frames.info.fps:.0f} fps" if frames.info.fps else ""
            console.print(
                f"[bold]{manifest.model.name}[/] on {manifest.backend} {manifest.precision}, {engine_threads} "
                f"thread{'s' * (engine_threads > 1)} ({why})\n{frames.info.description}, {size}{rate}; "
                f"detector {face_detector.name}",
                highlight=False,
            )
            pipeline = Pipeline(frames, face_detector, runner, sinks, detect_every=detect_every, smooth=smooth)
            previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            for number in previous:
                # The first signal ends the loop and finishes the files; the second one is not caught any more.
                signal.signal(number, _ender(pipeline.stop))
            try:
                pipeline.run(max_frames=max_frames)
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)
        finally:
            frames.close()
    from edge_fer.cli.run_summary import print_summary, summary_record

    if as_json:
        import json

        typer.echo(json.dumps(summary_record(pipeline, manifest, frames.info), indent=2))
    else:
        print_summary(console, pipeline, manifest.model.labels)


def _ender(stop: Callable[[], None]) -> Callable[[int, object], None]:
    import signal

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    return handle


def _open(engine: str | None, backend: str, precision: str, threads: int, console: Console) -> tuple[Engine, str]:
    """The engine and why it is this one; a first build is told on the terminal."""
    from edge_fer.backends.choose import open_best
    from edge_fer.core.bundle import find_bundle

    with console.status("Opening the engine …") as status:
        return open_best(
            find_bundle(engine),
            backend=backend,
            precision=precision,
            threads=threads,
            on_step=lambda text: status.update(f"{text} …"),
        )


def _source(camera: int | None, source: str | None, demo: bool, pool_size: int, shown: bool) -> FrameSource:
    if camera is not None:
        from edge_fer.runtime.sources.camera import open_camera

        return open_camera(camera, pool_size=pool_size)
    from edge_fer.runtime.sources.choose import open_source

    return open_source(str(DEMO) if demo or source is None else source, pool_size=pool_size, paced=shown)


def _sinks(
    shown: bool, save: Path | None, jsonl: Path | None, csv: Path | None, info: SourceInfo, labels: tuple[str, ...]
) -> list[Sink]:
    sinks: list[Sink] = []
    if shown:
        from edge_fer.runtime.sinks.window import WindowSink

        sinks.append(WindowSink())
    if save is not None:
        from edge_fer.runtime.sinks.video import VideoSink

        sinks.append(VideoSink(save, info.fps, keep_time=info.live))
    if jsonl is not None:
        from edge_fer.runtime.sinks.jsonl import JsonlSink

        sinks.append(JsonlSink(jsonl))
    if csv is not None:
        from edge_fer.runtime.sinks.table import CsvSink

        sinks.append(CsvSink(csv, labels))
    return sinks
