"""Accuracy on videos: one label per video, from the mean of its frames' scores.

After Santhapalli et al., who average the scores of the frames and name the strongest class of the mean. Frames go
through the live loop itself, with nothing that depends on time: every frame is searched for faces, nothing is smoothed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.engine import Engine
from edge_fer.core.errors import BadInputError
from edge_fer.core.labels import canonical
from edge_fer.core.spec import Frozen
from edge_fer.runtime.detectors.base import FaceDetector
from edge_fer.runtime.pipeline import Pipeline
from edge_fer.runtime.results import FrameResult
from edge_fer.runtime.sources.video_file import VideoFile

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})


class TrackResult(Frozen):
    """One face of a video: the mean of its scores, and what that says."""

    track: int
    frames: int
    first_ms: float
    last_ms: float
    predicted: str
    scores: dict[str, float]


class VideoResult(Frozen):
    """One video.

    Attributes:
        label: its true class.
        predicted: the strongest class of ``scores``; ``None`` when no face was found.
        scores: mean over all faces of all frames, by class; ``None`` when no face was found.
        frames, frames_with_face: of the video.
        faces: over all frames; ``faces_right``: those whose own label is the video's.
        tracks: its faces, in the order of appearance.
    """

    id: str
    label: str
    predicted: str | None
    scores: dict[str, float] | None
    frames: int
    frames_with_face: int
    faces: int
    faces_right: int
    tracks: tuple[TrackResult, ...]


class Videos(Frozen):
    """All videos of a folder.

    Attributes:
        without_face: videos in which no face was found; the metrics are of the others.
        top1_of_all: accuracy when those count as wrong.
        frame_top1: accuracy of the single faces, each against its video's class.
        track_top1: accuracy of the tracks' means, each against its video's class.
    """

    videos: tuple[VideoResult, ...]
    without_face: int
    top1_of_all: float
    frame_top1: float
    track_top1: float


class VideoScores(NamedTuple):
    """What goes into the metrics: one row per video with a face.

    Attributes:
        labels: int64 (n,), indices into the model's classes.
        scores: float64 (n, classes), means that sum to 1.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    videos: Videos


def find_videos(root: Path, labels: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Videos of ``root/<class>/``, with their class as an index into ``labels``, in the order of names.

    Raises:
        BadInputError: no such folder, no class folder, a class that the model does not know, or no video.
    """
    if not root.is_dir():
        raise BadInputError(f"{root} is not a folder.")
    known = {canonical(name) or name.strip().lower(): index for index, name in enumerate(labels)}
    found: list[tuple[Path, int]] = []
    foreign: list[str] = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        videos = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        index = known.get(canonical(folder.name) or folder.name.strip().lower())
        if index is not None:
            found += [(video, index) for video in videos]
        elif videos:
            foreign.append(folder.name)
    if foreign:
        raise BadInputError(
            f"{root} holds videos of classes that the model does not know: {', '.join(foreign)}.",
            fix=f"The model's classes are: {', '.join(labels)}.",
        )
    if not found:
        raise BadInputError(
            f"{root} holds no videos in class folders.", fix="Point at a folder such as DIR/happy/*.mp4."
        )
    return found


def score_videos(
    root: Path,
    engine: Engine,
    open_detector: Callable[[int], FaceDetector],
    progress: Callable[[int, int], None] | None = None,
) -> VideoScores:
    """Run every video of ``root/<class>/`` through the loop.

    Args:
        open_detector: smallest face wanted in pixels -> a detector; asked once for every size of frame.
        progress: called with (videos done, of how many).

    Raises:
        BadInputError: see :func:`find_videos`; or no face is found in any video.
        SourceError: a file is not a video.
    """
    names = engine.manifest.classifier.labels
    files = find_videos(root, names)
    detectors: dict[int, FaceDetector] = {}
    results, labels, rows = [], [], []
    try:
        for done, (path, label) in enumerate(files, 1):
            result, mean = _run(path, label, root, engine, open_detector, detectors)
            results.append(result)
            if mean is not None:
                labels.append(label)
                rows.append(mean)
            if progress is not None:
                progress(done, len(files))
    finally:
        for detector in detectors.values():
            if (close := getattr(detector, "close", None)) is not None:
                close()
    if not rows:
        raise BadInputError(
            f"No face was found in any of the {len(files)} videos of {root}.", fix="Try another --detector."
        )
    hits = sum(video.predicted == video.label for video in results)
    faces = sum(video.faces for video in results)
    tracks = [track.predicted == video.label for video in results for track in video.tracks]
    return VideoScores(
        np.asarray(labels, np.int64),
        np.stack(rows),
        Videos(
            videos=tuple(results),
            without_face=len(results) - len(rows),
            top1_of_all=hits / len(results),
            frame_top1=sum(video.faces_right for video in results) / faces,
            track_top1=float(np.mean(tracks)),
        ),
    )


class _Counts:
    """A sink that counts what single frames say."""

    name, lossless = "counts", True

    def __init__(self, label: str) -> None:
        self._label = label
        self.right = 0

    def write(self, result: FrameResult) -> None:
        self.right += sum(result.labels[int(face.scores.argmax())] == self._label for face in result.faces)

    def close(self, *, complete: bool) -> None:
        pass


def _run(
    path: Path,
    label: int,
    root: Path,
    engine: Engine,
    open_detector: Callable[[int], FaceDetector],
    detectors: dict[int, FaceDetector],
) -> tuple[VideoResult, NDArray[np.float64] | None]:
    names = engine.manifest.classifier.labels
    source = VideoFile(path, pool_size=Pipeline.frames_held(1))
    try:
        smallest = max(24, source.info.height // 9)
        if smallest not in detectors:
            detectors[smallest] = open_detector(smallest)
        counts = _Counts(names[label])
        pipeline = Pipeline(source, detectors[smallest], engine, [counts], detect_every=1, smooth=0.0)
        stats = pipeline.run()
    finally:
        source.close()
    tracker = pipeline.tracker
    mean = tracker.score_sum / tracker.score_sum.sum() if tracker.faces else None
    tracks = []
    for track in tracker.all_tracks():
        scores = track.score_sum / track.score_sum.sum()
        tracks.append(
            TrackResult(
                track=track.track,
                frames=track.frames,
                first_ms=track.first_ms,
                last_ms=track.last_ms,
                predicted=names[int(scores.argmax())],
                scores=_by_name(names, scores),
            )
        )
    result = VideoResult(
        id=path.relative_to(root).as_posix(),
        label=names[label],
        predicted=None if mean is None else names[int(mean.argmax())],
        scores=None if mean is None else _by_name(names, mean),
        frames=stats.frames,
        frames_with_face=stats.frames_with_faces,
        faces=stats.faces,
        faces_right=counts.right,
        tracks=tuple(tracks),
    )
    return result, mean


def _by_name(names: tuple[str, ...], scores: NDArray[np.float64]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, scores, strict=True)}
