"""``edge-fer run``: faces labelled in a moving picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_fer.cli.run_checks import is_device, refuse_idle_options, refuse_outputs_over_source
from edge_fer.cli.run_config import use_config
from edge_fer.core.errors import EdgeFerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from edge_fer.core.engine import Engine
    from edge_fer.runtime.cuda_loop import CudaLoop
    from edge_fer.runtime.detectors.base import FaceDetector
    from edge_fer.runtime.frames import FrameSource, PictureMemory, SourceInfo

SOURCE, ENGINE, FACES, OUTPUTS = (
    "Where the frames come from",
    "What labels them",
    "Finding and following faces",
    "Outputs",
)
DEMO = Path(__file__).resolve().parents[1] / "runtime" / "assets" / "demo.mp4"


def run(
    context: typer.Context,
    camera: int | None = typer.Option(None, min=0, help="Number of a camera, usually 0.", rich_help_panel=SOURCE),
    camera_size: str = typer.Option(
        "1280x720", help="Size to ask the camera for; what it grants is shown.", rich_help_panel=SOURCE
    ),
    camera_fps: float = typer.Option(
        30.0, min=1.0, help="Frames a second to ask the camera for.", rich_help_panel=SOURCE
    ),
    source: str | None = typer.Option(
        None,
        help="Video file, picture, folder or glob of pictures, RTSP/HTTP URL, synthetic:FILE (a file as a camera), a "
        "camera's device (/dev/v4l/by-id/...), or - for raw frames on standard input.",
        rich_help_panel=SOURCE,
    ),
    raw: str | None = typer.Option(
        None,
        help="What standard input holds: WIDTHxHEIGHT:PIXELS\\[@FPS][,live], as 640x480:bgr24@30; ,live keeps the "
        "newest frame only, for a camera's program that does not wait.",
        rich_help_panel=SOURCE,
    ),
    demo: bool = typer.Option(False, "--demo", help="The clip that ships with edge-fer.", rich_help_panel=SOURCE),
    reconnect: float = typer.Option(
        60.0,
        min=0.0,
        help="Seconds for which a camera or stream that went away is sought; 0: until it is back.",
        rich_help_panel=SOURCE,
    ),
    max_frames: int | None = typer.Option(None, min=1, help="End after so many frames.", rich_help_panel=SOURCE),
    engine: str | None = typer.Option(
        None, help="Bundle or engine: a folder, or a shipped model's name.", rich_help_panel=ENGINE
    ),
    device: str = typer.Option(
        "cpu",
        help="Where faces are cropped and labelled: cpu, or cuda[:N] with frames decoded into memory that the GPU "
        "reads; pycuda[:N] goes through that package.",
        rich_help_panel=ENGINE,
    ),
    backend: str = typer.Option(
        "auto",
        help="auto (the fastest measured here; with --device cuda: tensorrt, or onnxruntime-cuda where there is no "
        "TensorRT), onnxruntime, openvino, tensorrt, onnxruntime-cuda.",
        rich_help_panel=ENGINE,
    ),
    precision: str = typer.Option("auto", help="auto, fp32, bf16, fp16, int8.", rich_help_panel=ENGINE),
    allow_smaller_batch: bool = typer.Option(
        False,
        "--allow-smaller-batch",
        help="Where a GPU's memory is too small for 8 faces at a time: 4, 2 or 1 instead of an error.",
        rich_help_panel=ENGINE,
    ),
    threads: int | None = typer.Option(
        None,
        min=1,
        help="Threads of the engine. Default: half of the cores; the rest is for decoder and detector.",
        rich_help_panel=ENGINE,
    ),
    config: Path | None = typer.Option(
        None,
        callback=use_config,
        is_eager=True,
        help="Settings that `edge-fer plan` wrote; typed options beat them.",
        rich_help_panel=ENGINE,
    ),
    detector: str = typer.Option(
        "edge-fer-face",
        help="edge-fer-face (ours; =BUNDLE: another one), haar, yunet (after `edge-fer fetch yunet`, or =FILE.onnx), "
        "mtcnn (after `edge-fer fetch mtcnn`, or =FILE.whl), or none (the frame is the face).",
        rich_help_panel=FACES,
    ),
    detect_on: str = typer.Option(
        "cpu",
        help="Where whole frames are searched: cpu, or gpu together with --device cuda (edge-fer-face, yunet, mtcnn).",
        rich_help_panel=FACES,
    ),
    min_face: int | None = typer.Option(
        None,
        min=16,
        help="Smallest face wanted, in pixels. Default: a ninth of the frame's height, at least 24; of pictures, of "
        "each one's own.",
        rich_help_panel=FACES,
    ),
    detect_every: str = typer.Option(
        "auto",
        help="Search the whole picture on every n-th frame and follow faces in between; auto adapts n.",
        rich_help_panel=FACES,
    ),
    smooth: float = typer.Option(
        0.6,
        min=0.0,
        max=0.95,
        help="Weight of a face's past scores: 0 is off, 0.6 settles in 4 frames, 0.9 in 22.",
        rich_help_panel=FACES,
    ),
    show: bool | None = typer.Option(
        None,
        "--show/--no-show",
        help="Open a window. Default: when there is a display and no --web.",
        rich_help_panel=OUTPUTS,
    ),
    save: Path | None = typer.Option(None, help="Write the annotated video to this MP4.", rich_help_panel=OUTPUTS),
    jsonl: Path | None = typer.Option(
        None, help="Write a line of JSON per frame; - is standard output.", rich_help_panel=OUTPUTS
    ),
    csv: Path | None = typer.Option(
        None, help="Write a row per face and frame; - is standard output.", rich_help_panel=OUTPUTS
    ),
    summary: Path | None = typer.Option(
        None, help="Write the summary, with mean scores per face, to this JSON file.", rich_help_panel=OUTPUTS
    ),
    timeline: Path | None = typer.Option(
        None, help="Draw the scores of each face over time into this PNG.", rich_help_panel=OUTPUTS
    ),
    web: int | None = typer.Option(
        None,
        min=0,
        max=65535,
        metavar="[PORT]",
        help="Serve a page with picture and scores to browsers on this machine. Default port: 8080.",
        rich_help_panel=OUTPUTS,
    ),
    metrics: int | None = typer.Option(
        None,
        min=0,
        max=65535,
        metavar="PORT",
        help="Serve /metrics for Prometheus on this machine.",
        rich_help_panel=OUTPUTS,
    ),
    as_json: bool = typer.Option(
        False, "--json", help="Print the summary as JSON, and all else on standard error.", rich_help_panel=OUTPUTS
    ),
) -> None:
    """Label the faces of a camera, a video or pictures, live.

    The first run on a machine builds the engine and, for auto, times what
    could run it. Frames stay on this machine and are kept only where --save
    asks for it. Ctrl-C, q in the window, or closing it ends the run: all files
    are finished, and the summary is printed.
    """
    given = [camera is not None, source is not None, demo]
    if sum(given) != 1:
        raise UsageError(
            "Say where the frames come from."
            if not any(given)
            else "Only one of --camera, --source and --demo, please.",
            fix="edge-fer run --camera 0, --source FILE or --demo",
        )
    if (source == "-") != (raw is not None):
        raise UsageError("--raw and --source - belong together.", fix="--source - --raw 640x480:bgr24@30")
    printed = [name for name, path in (("--jsonl", jsonl), ("--csv", csv)) if path == Path("-")] + ["--json"] * as_json
    if summary == Path("-"):
        raise UsageError("--summary writes a file.", fix="--json prints the summary.")
    if len(printed) > 1:
        raise UsageError(f"Only one of {' and '.join(printed)} can have standard output.", fix="--jsonl faces.jsonl")
    outputs_to_files = [path for path in (save, jsonl, csv, summary, timeline) if path is not None]
    refuse_outputs_over_source(source, outputs_to_files)
    refuse_idle_options(
        context,
        camera=camera is not None or is_device(source),
        stream=source is not None and "://" in source,
        device=device,
        backend=backend,
        detector=detector,
    )
    import signal
    from contextlib import ExitStack, nullcontext
    from math import inf

    import cv2
    from rich.console import Console
    from rich.markup import escape

    from edge_fer.cli.interrupts import endings
    from edge_fer.cli.run_outputs import Outputs, Wanted
    from edge_fer.cli.run_summary import print_summary, summary_record
    from edge_fer.core.threads import usable_threads
    from edge_fer.runtime.detectors.base import require_eyes
    from edge_fer.runtime.pipeline import Pipeline
    from edge_fer.runtime.sinks.window import has_display

    console = Console(stderr=bool(printed))
    # A page takes the window's place, unless both are asked for.
    shown = has_display() and web is None if show is None else show
    engine_threads = threads or max(1, usable_threads() // 2)
    # The detector and the crop run in the loop's own thread; more threads of OpenCV's would only fight the engine's.
    cv2.setNumThreads(1)
    every = _interval(detect_every)
    wanted = Wanted(shown, save, jsonl, csv, summary, timeline, web, metrics)
    gpu = _open_gpu(device)
    searching = _searching(detect_on, gpu)
    outputs = Outputs(wanted, console)
    failure: EdgeFerError | None = None
    face_detector: FaceDetector | None = None
    # The source first: building an engine takes a while, and a camera that is not there should be told at once.
    try:
        pool_size, where = Pipeline.frames_held(wanted.most_sinks), str(DEMO) if demo else source
        paced = shown or web is not None
        memory = gpu.pictures if gpu is not None else None
        asked = (camera_size, camera_fps, reconnect or inf)
        frames = _source(where, camera, raw, pool_size, *asked, paced=paced, memory=memory)
    except BaseException:
        outputs.close()
        if gpu is not None:
            gpu.close()
        raise

    def close_detector() -> None:
        if (close := getattr(face_detector, "close", None)) is not None:
            close()

    try:
        with ExitStack() as closers:
            for close in (gpu.close if gpu is not None else None, outputs.close, close_detector, frames.close):
                if close is not None:
                    closers.callback(close)
            smallest = _smallest_face(min_face, frames.info)
            face_detector = _open_detector(detector, smallest, frames.info, console, searching)
            detector_name = face_detector.name
            runner, why = _open(
                engine,
                _backend(backend, gpu),
                precision,
                engine_threads,
                console,
                allow_smaller_batch=allow_smaller_batch,
            )
            with runner, gpu.stage(runner) if gpu is not None else nullcontext() as stage:
                manifest = runner.manifest
                require_eyes(face_detector, manifest.classifier)
                sinks, tell = outputs.open(frames, manifest)
                size = f"{frames.info.width}x{frames.info.height}"
                rate = f" at {frames.info.fps:.0f} fps" if frames.info.fps else ""
                where_to = (
                    f"{engine_threads} thread{'s' * (engine_threads > 1)}" if gpu is None else gpu.device.info.name
                )
                console.print(
                    f"[bold]{manifest.model.name}[/] on {manifest.backend} {manifest.precision}, {where_to} ({why})\n"
                    f"{escape(frames.info.description)}, {size}{rate}; detector {detector_name}",
                    highlight=False,
                )
                pipeline = Pipeline(
                    frames, face_detector, runner, sinks, detect_every=every, smooth=smooth, stage=stage, on_state=tell
                )
                outputs.start(pipeline, frames, manifest, detector=detector_name, threads=engine_threads)
                previous = {number: signal.getsignal(number) for number in endings()}
                for number in previous:
                    # The first signal ends the loop and finishes the files; the second one is not caught any more.
                    signal.signal(number, _ender(pipeline.stop))
                try:
                    pipeline.run(max_frames=max_frames)
                except EdgeFerError as error:
                    failure = error
                    raise
                finally:
                    for number, handler in previous.items():
                        signal.signal(number, handler)
    except EdgeFerError:
        # What a run broke off with is told behind its summary. A lost GPU does not even let itself be closed.
        if failure is None:
            raise
    record = summary_record(pipeline, manifest, frames, detector=detector_name, threads=engine_threads, failure=failure)
    unwritten: EdgeFerError | None = None
    try:
        outputs.report(record, frames.info, manifest)
    except EdgeFerError as error:
        unwritten = error
    # Also after a failure: an hour of frames is worth its summary, however it ended.
    if as_json:
        import json

        typer.echo(json.dumps(record, indent=2))
    elif failure is None or pipeline.stats.frames:
        print_summary(console, pipeline, frames, manifest.classifier.labels)
    for broken in (failure, unwritten):
        if broken is not None:
            raise broken


def _interval(text: str) -> int | None:
    """``--detect-every``: ``None`` for auto."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--detect-every is auto or a number from 1, not {text!r}.", fix="--detect-every auto")
    return int(text)


def _ender(stop: Callable[[], None]) -> Callable[[int, object], None]:
    import signal

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    return handle


def _open_gpu(device: str) -> CudaLoop | None:
    """The GPU, before anything else: without a driver there is nothing to wait for."""
    from edge_fer.runtime.cuda_loop import open_cuda_loop, parse_device

    chosen = parse_device(device)
    return open_cuda_loop(*chosen) if chosen is not None else None


def _searching(detect_on: str, gpu: CudaLoop | None) -> CudaLoop | None:
    """The GPU that searches frames, if one does."""
    if detect_on not in ("cpu", "gpu"):
        raise UsageError(f"--detect-on is cpu or gpu, not {detect_on!r}.", fix="--detect-on cpu")
    if detect_on == "gpu" and gpu is None:
        raise UsageError("--detect-on gpu searches frames that --device cuda decodes.", fix="--device cuda")
    return gpu if detect_on == "gpu" else None


def _backend(backend: str, gpu: CudaLoop | None) -> str:
    from edge_fer.backends.on_gpu import loop_backend

    return loop_backend() if backend == "auto" and gpu is not None else backend


def _open(
    engine: str | None, backend: str, precision: str, threads: int, console: Console, *, allow_smaller_batch: bool
) -> tuple[Engine, str]:
    """The engine and why it is this one; a first build is told on the terminal."""
    from edge_fer.backends.choose import open_best
    from edge_fer.core.bundle import find_bundle

    with console.status("Opening the engine …") as status:
        return open_best(
            find_bundle(engine),
            backend=backend,
            precision=precision,
            threads=threads,
            allow_smaller_batch=allow_smaller_batch,
            on_step=lambda text: status.update(f"{text} …"),
        )


def _smallest_face(min_face: int | None, info: SourceInfo) -> int | None:
    """``None``: a share of each picture's height, where pictures are of many sizes."""
    if min_face is None:
        from edge_fer.runtime.detectors.smallest_face import default_min_face

        return default_min_face(info.height) if info.continuous else None
    if info.continuous and min_face > min(info.height, info.width):
        raise UsageError(
            f"No face of --min-face {min_face} fits a frame of {info.width}x{info.height}.",
            fix="Give a smaller one, or leave --min-face out.",
        )
    return min_face


def _open_detector(
    text: str, min_face: int | None, info: SourceInfo, console: Console, gpu: CudaLoop | None
) -> FaceDetector:
    """The detector, on one thread: while it searches one frame, the engine's threads label the one before."""
    from edge_fer.backends.face_detector import open_face_detector

    with console.status("Opening the face detector …") as status:
        opened = open_face_detector(
            text, min_face_px=min_face, threads=1, gpu=gpu, on_step=lambda step: status.update(f"{step} …")
        )
        if (warm_up := getattr(opened, "warm_up", None)) is not None:
            # Builds its engines for this size of frame now, not while a camera waits.
            warm_up(info.height, info.width)
        return opened


def _source(
    source: str | None,
    camera: int | None,
    raw: str | None,
    pool_size: int,
    camera_size: str,
    camera_fps: float,
    lost_after_s: float,
    *,
    paced: bool,
    memory: PictureMemory | None,
) -> FrameSource:
    which = source if is_device(source) else camera
    if which is not None:
        from edge_fer.runtime.sources.camera import open_camera, parse_size

        size = parse_size(camera_size)
        return open_camera(
            which, pool_size=pool_size, size=size, fps=camera_fps, memory=memory, lost_after_s=lost_after_s
        )
    if raw is not None:
        from edge_fer.runtime.sources.raw_stdin import RawStdin, parse_raw

        return RawStdin(parse_raw(raw), pool_size=pool_size, memory=memory)
    assert source is not None
    from edge_fer.runtime.sources.choose import open_source

    return open_source(source, pool_size=pool_size, paced=paced, memory=memory, lost_after_s=lost_after_s)
