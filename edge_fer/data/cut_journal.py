"""Cutting thousands of faces in several processes, so that an interruption loses a moment's work and nothing else.

The work folder holds ``faces/`` and ``journal.jsonl``. A face's file takes its name when it is whole; its journal line
is written after it. What the journal lists is done, what it does not list is done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge_fer.core.errors import BadInputError, DeviceError
from edge_fer.core.files import describe_os_error
from edge_fer.core.spec import Frozen
from edge_fer.data.cut_face import FaceCutter, Method, Refusal
from edge_fer.data.perceptual_hash import difference_hash, miniature
from edge_fer.data.prepare_recipe import PrepareRecipe
from edge_fer.data.readers.base import FacesBy, Record
from edge_fer.data.samples import Image

CHUNK = 16
"""Pictures that one process takes at a time."""
JPEG_QUALITY = 95
JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Job:
    """One picture to cut; ``key`` is unique over all sources, ``label`` one of the seven classes."""

    key: str
    source: str
    record: Record
    label: str
    faces: FacesBy

    @property
    def digest(self) -> str:
        """24 hexadecimal digits that stand for the key in file names."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:24]


class Outcome(Frozen):
    """What became of a job.

    Attributes:
        refused: the kind of anomaly, or ``None`` for a face; ``detail`` says more.
        file: the face, or the refused picture made small, relative to the work folder; ``""`` when there is no picture.
        sha256: of that file.
        dhash, mini: the face's difference hash, 16 hexadecimal digits, and its miniature's 256 pixels, 512 digits.
        method, box, landmarks, angle_deg, score, faces: how the face was had; pixels of the original picture, degrees
            by which the eyes were off level, the detector's score, and how many faces there were.
    """

    key: str
    refused: str | None = None
    detail: str = ""
    file: str = ""
    sha256: str = ""
    dhash: str = ""
    mini: str = ""
    method: Method | None = None
    box: tuple[float, ...] = ()
    landmarks: tuple[float, ...] = ()
    angle_deg: float = 0.0
    score: float | None = None
    faces: int = 0


class Journal:
    """The list of finished jobs on disk. A line that an interruption left half-written is cut off."""

    def __init__(self, folder: Path, key: str) -> None:
        """Raises ``BadInputError`` when the folder belongs to other work."""
        self._path = folder / JOURNAL
        self.done: dict[str, Outcome] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._path.is_file():
                self._load(folder, key)
            else:
                self._path.write_text(json.dumps({"key": key}) + "\n", encoding="utf-8")
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise describe_os_error(error, self._path) from error

    def _load(self, folder: Path, key: str) -> None:
        raw = self._path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        header, *lines = whole.splitlines() or [b"{}"]
        try:
            found = json.loads(header).get("key")
            outcomes = [Outcome.model_validate_json(line) for line in lines]
        except (ValueError, ValidationError, AttributeError):
            raise BadInputError(f"{self._path} is damaged.", fix="Start again with --fresh.") from None
        if found != key:
            raise BadInputError(
                f"{folder} holds the unfinished work of another recipe, or of pictures that have changed since.",
                fix="Start again with --fresh, or give another --out.",
            )
        if len(whole) < len(raw):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        self.done = {item.key: item for item in outcomes if not item.file or _whole(folder / item.file)}

    def add(self, outcomes: Sequence[Outcome]) -> None:
        try:
            for outcome in outcomes:
                self._file.write(outcome.model_dump_json(exclude_defaults=True) + "\n")
            self._file.flush()
        except OSError as error:
            raise describe_os_error(error, self._path) from error
        self.done.update((outcome.key, outcome) for outcome in outcomes)

    def close(self) -> None:
        self._file.close()


def cut_all(
    jobs: Sequence[Job],
    recipe: PrepareRecipe,
    folder: Path,
    key: str,
    *,
    workers: int,
    progress: Callable[[int, int, int], None] | None = None,
) -> dict[str, Outcome]:
    """Cut every job's face into ``folder``, going on where an earlier call with the same key stopped.

    Args:
        key: stands for everything that the outcomes depend on.
        workers: processes; 1 works in this one.
        progress: called with (done, all, refused).

    Returns:
        job key -> outcome.

    Raises:
        BadInputError: the folder holds other work.
        DeviceError: the disk is full, or a process died.
        EdgeFerError: what the detector raises.
    """
    journal = Journal(folder, key)
    try:
        refused = sum(outcome.refused is not None for outcome in journal.done.values())
        waiting = [job for job in jobs if job.key not in journal.done]
        if progress is not None:
            progress(len(jobs) - len(waiting), len(jobs), refused)
        for outcomes in _outcomes(waiting, recipe, folder, workers):
            journal.add(outcomes)
            refused += sum(outcome.refused is not None for outcome in outcomes)
            if progress is not None:
                progress(len(journal.done), len(jobs), refused)
        return {job.key: journal.done[job.key] for job in jobs}
    finally:
        journal.close()


def _outcomes(jobs: Sequence[Job], recipe: PrepareRecipe, folder: Path, workers: int) -> Iterator[list[Outcome]]:
    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    if not chunks:
        return
    cutter = FaceCutter(recipe)
    if any(job.faces == "detect" for job in jobs):
        # Before any process asks: engines are built and cached once, and what is missing is said in one sentence.
        cutter.open().find(np.zeros((64, 64, 3), np.uint8), None)
    if workers == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield [_cut(cutter, recipe, folder, job) for job in chunk]
        return
    # spawn: a forked child inherits the locks of OpenCV's and the engines' threads, but not the threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(chunks)), context, _begin, (recipe, folder))
    running: set[Future[list[Outcome]]] = set()
    rest = iter(chunks)
    try:
        while True:
            with _no_main_module(), _interrupts_held():
                for chunk in rest:
                    running.add(pool.submit(_work, chunk))
                    if len(running) >= 4 * workers:
                        break
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BrokenProcessPool:
        raise DeviceError(
            "A process that cut faces was ended from outside, perhaps for want of memory; what was done is kept.",
            fix="The same command goes on where it stopped; --workers 1 needs the least memory.",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Hide the caller's main module while processes start: a spawned child imports it anew, and a script without an
    ``if __name__ == "__main__"`` would run again in every child. Nothing that is sent to them lives there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C while processes start, where the system can: a child inherits the hold, so that one which still
    imports does not end with a traceback when the terminal interrupts everybody. The parent gets the signal afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_state: tuple[FaceCutter, PrepareRecipe, Path] | None = None
"""What a child process works with; set once, when it begins."""


def _begin(recipe: PrepareRecipe, folder: Path) -> None:
    global _state
    cv2.setNumThreads(0)
    # Ctrl-C reaches every process of the terminal; the parent decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _state = (FaceCutter(recipe), recipe, folder)


def _work(chunk: Sequence[Job]) -> list[Outcome]:
    assert _state is not None
    cutter, recipe, folder = _state
    return [_cut(cutter, recipe, folder, job) for job in chunk]


def _cut(cutter: FaceCutter, recipe: PrepareRecipe, folder: Path, job: Job) -> Outcome:
    made = cutter.cut(job.record, job.faces)
    if isinstance(made, Refusal):
        if made.image is None:
            return Outcome(key=job.key, refused=made.kind, detail=made.detail)
        height, width = made.image.shape[:2]
        factor = min(1.0, 192 / max(height, width))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        small = np.asarray(cv2.resize(made.image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        file, digest = _write(small, "png", folder, f"refused/{job.digest}.png")
        return Outcome(key=job.key, refused=made.kind, detail=made.detail, file=file, sha256=digest)
    name = f"faces/{job.digest[:2]}/{job.digest}.{recipe.image}"
    file, digest = _write(made.image, recipe.image, folder, name)
    found = made.found
    return Outcome(
        key=job.key,
        file=file,
        sha256=digest,
        dhash=f"{int(difference_hash(made.image)):016x}",
        mini=miniature(made.image).tobytes().hex(),
        method=made.method,
        box=() if found is None else _numbers(found.box_xyxy),
        landmarks=() if found is None or found.landmarks is None else _numbers(found.landmarks),
        angle_deg=round(made.angle_deg, 2),
        score=None if found is None else round(found.score, 4),
        faces=0 if found is None else found.faces,
    )


def _whole(path: Path) -> bool:
    """Whether a file is there; a power cut may leave an empty one, because faces are not brought to the disk one by
    one."""
    return path.is_file() and path.stat().st_size > 0


def _numbers(array: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(round(float(value), 2) for value in array.ravel())


def _write(image: Image, kind: str, folder: Path, name: str) -> tuple[str, str]:
    """(name, SHA-256) of an image file that is there whole or not at all; a second writing makes the same file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if kind == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    data = cv2.imencode(f".{kind}", image, options)[1].tobytes()
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise describe_os_error(error, path) from error
    return name, hashlib.sha256(data).hexdigest()
