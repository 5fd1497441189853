"""What ``edge-fer run`` refuses before it opens anything: options without effect, and outputs over the source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import typer

from edge_fer.cli.typed import typed_options
from edge_fer.core.errors import UsageError

ON_CPU = ("auto", "onnxruntime", "openvino")


def is_device(source: str | None) -> bool:
    """Whether ``--source`` is the path of a camera's device, such as /dev/video2, or a link to it as in
    /dev/v4l/by-id, which a camera keeps wherever it is plugged in."""
    return source is not None and Path(source).is_char_device()


def refuse_idle_options(
    context: typer.Context, *, camera: bool, stream: bool, device: str, backend: str, detector: str
) -> None:
    """Refuse what was typed and would do nothing: whoever types it expects something of it.

    Raises:
        UsageError: names the options and what they are for.
    """
    idle: list[tuple[list[str], str, str]] = []
    if not camera:
        idle.append((typed_options(context, "camera_size", "camera_fps"), "a camera", "--camera 0"))
    if not camera and not stream:
        idle.append((typed_options(context, "reconnect"), "a camera or a stream, which may go away", "--camera 0"))
    if device == "cpu" and backend in ON_CPU:
        idle.append((typed_options(context, "allow_smaller_batch"), "a GPU", "--device cuda"))
    if detector == "none":
        options = typed_options(context, "detect_every", "min_face", "detect_on")
        idle.append((options, "a detector that searches", "--detector edge-fer-face"))
    for options, purpose, fix in idle:
        if options:
            verb = "is" if len(options) == 1 else "are"
            raise UsageError(f"{' and '.join(options)} {verb} for {purpose}.", fix=f"Leave it out, or {fix}")


def refuse_outputs_over_source(source: str | None, outputs: Sequence[Path]) -> None:
    """An output that is the source, or one of its pictures, would replace what is being read.

    Raises:
        UsageError: names the file.
    """
    if source is None or not outputs:
        return
    from edge_fer.runtime.sources.choose import source_files

    read = {os.path.realpath(path) for path in source_files(source)}
    for path in outputs:
        if os.path.realpath(path) in read:
            raise UsageError(
                f"The output {path} is what --source reads, and would replace it.", fix="Give another name."
            )
