"""``edge-fer data prepare``: several datasets become one folder of aligned faces with parts that do not leak."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from edge_fer import __version__
from edge_fer.core.errors import BadInputError, DeviceError, UsageError
from edge_fer.core.files import atomic_folder, check_out_folder, locked, sha256_file
from edge_fer.core.labels import EMOTIONS
from edge_fer.data.class_folders import read_image
from edge_fer.data.cut_journal import JOURNAL, Job, Outcome, cut_all
from edge_fer.data.harmonise import label_mapping
from edge_fer.data.perceptual_hash import MINI_PX, thumbnail
from edge_fer.data.picture_sheet import Tile, draw_sheet
from edge_fer.data.prepare_recipe import PARTS, PrepareRecipe, find_source
from edge_fer.data.prepared import (
    ANOMALIES,
    MANIFEST,
    SHEET,
    SUMMARY,
    ManifestRow,
    MappedClass,
    PreparedSummary,
    read_summary,
    write_manifest,
    write_table,
)
from edge_fer.data.readers.registry import reader_of, recognise
from edge_fer.data.samples import Image
from edge_fer.data.stratify import Member, stratified_split
from edge_fer.data.twins import find_twins, groups_of

Progress = Callable[[str, int, int], None]
"""Called with (what is done, how many are, of how many)."""
SHOWN_PER_KIND = 20
"""Refused pictures of each kind that the contact sheet shows."""


@dataclass(frozen=True)
class Collected:
    """All pictures of a recipe's sources before any is opened."""

    jobs: tuple[Job, ...]
    mapping: tuple[MappedClass, ...]
    passed_over: dict[str, dict[str, int]]


def collect(recipe: PrepareRecipe, beside: Path) -> Collected:
    """List the sources and bring their labels to the seven classes.

    Raises:
        BadInputError: a source is missing, unknown or malformed, or nothing is left of it.
        UsageError: an option, a split or a class that does not exist, or a class whose meaning nobody has said.
    """
    jobs: list[Job] = []
    mapping: list[MappedClass] = []
    passed_over: dict[str, dict[str, int]] = {}
    for source in recipe.sources:
        path = find_source(source, beside)
        reader = reader_of(source.format or recognise(path), source.options)
        reading = reader.read(path)
        for split in source.splits:
            if split not in reading.splits():
                raise UsageError(
                    f"The source {source.name} has no split {split!r}.",
                    fix=f"Available: {', '.join(name or '(none)' for name in reading.splits())}.",
                )
        records = [record for record in reading.records if not source.splits or record.split in source.splits]
        table = label_mapping(source.name, (record.label for record in records), source.labels)
        mapping += [
            MappedClass(source=row.source, theirs=row.theirs, ours=row.ours, pictures=row.pictures)
            for row in table.rows(record.label for record in records)
        ]
        passed_over[source.name] = dict(reading.passed_over)
        for record in records:
            label = table[record.label]
            if label is not None:
                key = f"{source.name}/{record.split}/{record.id}"
                jobs.append(Job(key, source.name, record, label, source.faces or reader.faces))
    if not jobs:
        raise BadInputError(
            "No picture of any source belongs to one of the classes.",
            fix="Say in the recipe which class is which: labels: {their class: happy}.",
        )
    return Collected(tuple(jobs), tuple(mapping), passed_over)


def prepare(
    recipe: PrepareRecipe,
    collected: Collected,
    out: Path,
    *,
    workers: int,
    fresh: bool = False,
    progress: Progress | None = None,
) -> PreparedSummary:
    """Cut, filter, divide and write; an interrupted call is continued by the next one with the same recipe.

    Until everything is done, the work lies in ``<out>.partial``; ``out`` appears in one step.

    Args:
        workers: processes that cut faces.
        fresh: throw away unfinished work, and replace a finished dataset of another recipe.

    Raises:
        UsageError: ``out`` or ``<out>.partial`` exists and is something else.
        DeviceError: another process prepares the same ``out``.
        EdgeFerError: what reading, cutting and writing raise.
    """
    check_out_folder(out)
    with locked(out, wait=False) as ours:
        if not ours:
            raise DeviceError(
                f"Another edge-fer data prepare is at work on {out}.", fix="Wait for it, or give another --out."
            )
        return _prepare(recipe, collected, out, workers=workers, fresh=fresh, progress=progress)


def _prepare(
    recipe: PrepareRecipe,
    collected: Collected,
    out: Path,
    *,
    workers: int,
    fresh: bool,
    progress: Progress | None,
) -> PreparedSummary:
    work_key, key = _keys(recipe, collected.jobs, progress)
    if out.exists() and not _replaceable(out, key, fresh):
        return read_summary(out)
    work = out.with_name(f"{out.name}.partial")
    if work.is_dir() and any(work.iterdir()) and not (work / JOURNAL).is_file():
        raise UsageError(
            f"{work} holds other things, and unfinished work would lie there until it is removed.",
            fix="Give another --out.",
        )
    if fresh:
        shutil.rmtree(work, ignore_errors=True)

    def count(done: int, total: int, refused: int) -> None:
        if progress is not None:
            progress(f"Cutting faces ({refused} refused)", done, total)

    threads = cv2.getNumThreads()
    # One thread of OpenCV per process: the processes are the parallelism.
    cv2.setNumThreads(0)
    try:
        outcomes = cut_all(collected.jobs, recipe, work, work_key, workers=workers, progress=count)
        kept = [job for job in collected.jobs if outcomes[job.key].refused is None]
        if not kept:
            kinds = Counter(outcome.refused for outcome in outcomes.values())
            raise BadInputError(
                f"Not one of {len(outcomes)} pictures gave a face: "
                + ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())
                + ".",
                fix="Where the pictures are faces already, say so in the recipe: faces: whole.",
            )
        groups = _groups(recipe, kept, outcomes, work, progress)
        parts = _parts(recipe, kept, groups)
        summary = _summary(recipe, collected, kept, parts, groups, outcomes, key)
        _write(out, work, summary, _rows(kept, parts, groups, outcomes), collected.jobs, outcomes, progress)
    finally:
        cv2.setNumThreads(threads)
    shutil.rmtree(work, ignore_errors=True)
    return summary


def _replaceable(out: Path, key: str, fresh: bool) -> bool:
    """Whether there is work to do at an ``out`` that exists; raises when it is nothing of ours to replace."""
    if out.is_dir() and not any(out.iterdir()):
        return True
    if not (out / SUMMARY).is_file():
        raise UsageError(f"{out} exists and is not a prepared dataset.", fix="Give another --out.")
    if fresh:
        return True
    if read_summary(out).key != key:
        raise UsageError(
            f"{out} holds a dataset that was prepared by another recipe, or from pictures that have changed since.",
            fix="Replace it with --fresh, or give another --out.",
        )
    return False


def _keys(recipe: PrepareRecipe, jobs: Sequence[Job], progress: Progress | None) -> tuple[str, str]:
    """(key of the cutting, key of everything): the cut faces depend on neither seed nor split.

    Pictures count by their content: a box, a label or a file that was mended makes another dataset.
    """
    digest = hashlib.sha256(f"1:{__version__}".encode())
    cutting = recipe.model_dump_json(include={"detect", "crop", "quality", "image"})
    digest.update(cutting.encode())
    model = recipe.detect.detector.partition("=")[2]
    if model:
        for file in sorted(Path(model).rglob("*")) if Path(model).is_dir() else [Path(model)]:
            digest.update(_content(file).encode())
    for done, job in enumerate(jobs, start=1):
        record = job.record
        told = f"{job.key}:{job.label}:{job.faces}:{record.box}:{record.subject}:{_content(record.picture)}\n"
        digest.update(told.encode())
        if progress is not None and (done % 500 == 0 or done == len(jobs)):
            progress("Looking for changes", done, len(jobs))
    work = digest.hexdigest()
    return work, hashlib.sha256(f"{work}:{recipe.model_dump_json()}".encode()).hexdigest()


def _content(picture: Path | Image) -> str:
    """SHA-256 of a file or of pixels; nothing for a file that cannot be read, which the cutting will tell."""
    try:
        return sha256_file(picture) if isinstance(picture, Path) else hashlib.sha256(picture.tobytes()).hexdigest()
    except OSError:
        return ""


def _groups(
    recipe: PrepareRecipe,
    kept: Sequence[Job],
    outcomes: dict[str, Outcome],
    work: Path,
    progress: Progress | None,
) -> list[str]:
    """The group of each face, ``""`` for a face on its own: one person's, or one picture's, joined where both hold."""
    links: dict[str, list[int]] = defaultdict(list)
    for number, job in enumerate(kept):
        if job.record.subject is not None:
            links[f"{job.source}/{job.record.subject}"].append(number)
    parent = np.arange(len(kept))
    for numbers in links.values():
        parent[numbers] = numbers[0]
    if recipe.twins is not None:

        @lru_cache(maxsize=16384)
        def thumb(number: int) -> Image:
            return thumbnail(read_image(work / outcomes[kept[number].key].file))

        hashes = np.array([int(outcomes[job.key].dhash, 16) for job in kept], dtype=np.uint64)
        minis = np.frombuffer(bytes.fromhex("".join(outcomes[job.key].mini for job in kept)), dtype=np.uint8)
        pairs = find_twins(hashes, minis.reshape(-1, MINI_PX, MINI_PX), thumb, recipe.twins, progress)
        # Twins of two people's pictures join both people's groups: map each face to its group's first, then connect.
        connected = [
            replace(pair, i=int(parent[pair.i]), j=int(parent[pair.j]))
            for pair in pairs
            if pair.kind == "copy" or not _two_people(kept[pair.i], kept[pair.j])
        ]
        parent = groups_of(len(kept), connected)[parent]
    sizes = np.bincount(parent, minlength=len(kept))
    return [kept[int(first)].key if sizes[first] > 1 else "" for first in parent]


def _two_people(a: Job, b: Job) -> bool:
    """Whether a dataset says that two pictures show different people. In a studio everybody sits in the same place, in
    the same light: they may look like twins, and one such pair after the other would make all of them one group."""
    named = a.record.subject is not None and b.record.subject is not None
    return named and a.source == b.source and a.record.subject != b.record.subject


def _parts(recipe: PrepareRecipe, kept: Sequence[Job], groups: Sequence[str]) -> list[str]:
    split = recipe.split
    if split.by == "official":
        return [_official(recipe, job) for job in kept]
    members = [Member(job.key, job.label, job.source, group or None) for job, group in zip(kept, groups, strict=True)]
    numbers = stratified_split(members, (split.train, split.val, split.test), recipe.seed)
    return [PARTS[number] for number in numbers]


def _official(recipe: PrepareRecipe, job: Job) -> str:
    usual = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    theirs = job.record.split
    ours = recipe.split.official.get(theirs) or usual.get(theirs.lower())
    if ours is None:
        raise UsageError(
            f"The source {job.source} has the split {theirs or '(none)'!r}, which is no part by itself.",
            fix=f"Say in the recipe which it is: split: {{by: official, official: {{{theirs or '...'}: test}}}}.",
        )
    return ours


def _rows(
    kept: Sequence[Job], parts: Sequence[str], groups: Sequence[str], outcomes: dict[str, Outcome]
) -> list[tuple[ManifestRow, str]]:
    """(manifest line, the face's place in the work folder), sorted by file."""
    rows = []
    for job, part, group in zip(kept, parts, groups, strict=True):
        outcome, record = outcomes[job.key], job.record
        stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(record.id).stem).strip("-")[:40]
        name = f"{job.source}-{stem}-{job.digest[:8]}{Path(outcome.file).suffix}"
        row = ManifestRow(
            file=f"{part}/{job.label}/{name}",
            part=part,
            label=job.label,
            source=job.source,
            source_id=record.id,
            source_split=record.split,
            source_label=record.label,
            subject=record.subject or "",
            group=group,
            sha256=outcome.sha256,
            dhash=outcome.dhash,
            method=outcome.method or "",
            box=" ".join(f"{value:g}" for value in outcome.box),
            landmarks=" ".join(f"{value:g}" for value in outcome.landmarks),
            angle_deg=outcome.angle_deg,
            score="" if outcome.score is None else f"{outcome.score:g}",
            faces=outcome.faces,
        )
        rows.append((row, outcome.file))
    return sorted(rows, key=lambda item: item[0].file)


def _summary(
    recipe: PrepareRecipe,
    collected: Collected,
    kept: Sequence[Job],
    parts: Sequence[str],
    groups: Sequence[str],
    outcomes: dict[str, Outcome],
    key: str,
) -> PreparedSummary:
    counts = {part: dict.fromkeys(EMOTIONS, 0) for part in PARTS}
    for job, part in zip(kept, parts, strict=True):
        counts[part][job.label] += 1
    refused: dict[str, Counter[str]] = {source.name: Counter() for source in recipe.sources}
    for job in collected.jobs:
        kind = outcomes[job.key].refused
        if kind is not None:
            refused[job.source][kind] += 1
    grouped = Counter(group for group in groups if group)
    return PreparedSummary(
        edge_fer_version=__version__,
        key=key,
        recipe=_without_places(recipe),
        passed_over=collected.passed_over,
        mapping=collected.mapping,
        refused={source: dict(kinds) for source, kinds in refused.items()},
        counts=counts,
        together=(len(grouped), sum(grouped.values()), max(grouped.values(), default=0)),
    )


def _without_places(recipe: PrepareRecipe) -> PrepareRecipe:
    """The recipe without folders of this machine: of absolute paths only the last part is left."""
    sources = tuple(
        source.model_copy(update={"path": Path(source.path).name}) if Path(source.path).is_absolute() else source
        for source in recipe.sources
    )
    name, equals, path = recipe.detect.detector.partition("=")
    detect = recipe.detect.model_copy(update={"detector": name + equals + Path(path).name})
    return recipe.model_copy(update={"sources": sources, "detect": detect})


def _write(
    out: Path,
    work: Path,
    summary: PreparedSummary,
    rows: Sequence[tuple[ManifestRow, str]],
    jobs: Sequence[Job],
    outcomes: dict[str, Outcome],
    progress: Progress | None,
) -> None:
    with atomic_folder(out) as folder:
        for done, (row, file) in enumerate(rows, start=1):
            target = folder / row.file
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(work / file, target)
            if progress is not None and (done % 200 == 0 or done == len(rows)):
                progress("Writing", done, len(rows))
        write_manifest(folder / MANIFEST, [row for row, _ in rows])
        refused = [(job, outcomes[job.key]) for job in jobs if outcomes[job.key].refused is not None]
        write_table(
            folder / ANOMALIES,
            ("kind", "detail", "source", "source_id", "source_split", "label"),
            [
                (outcome.refused, _told(outcome.detail, job), job.source, job.record.id, job.record.split, job.label)
                for job, outcome in refused
            ],
        )
        if refused:
            _draw_refused(folder / SHEET, work, refused)
        (folder / SUMMARY).write_text(summary.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _told(detail: str, job: Job) -> str:
    """A detail without this machine's path."""
    picture = job.record.picture
    return detail.replace(str(picture), picture.name) if isinstance(picture, Path) else detail


def _link(source: Path, target: Path) -> None:
    """A second name for the file where the file system allows it, else a copy: the work folder stays whole until the
    end."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _draw_refused(path: Path, work: Path, refused: Sequence[tuple[Job, Outcome]]) -> None:
    kinds = Counter(outcome.refused for _, outcome in refused)
    tiles = []
    for kind, _ in kinds.most_common():
        of_kind = [(job, outcome) for job, outcome in refused if outcome.refused == kind]
        # Evenly picked: the first ones would all come from one source.
        for number in np.unique(
            np.linspace(0, len(of_kind) - 1, min(len(of_kind), SHOWN_PER_KIND)).round().astype(int)
        ):
            job, outcome = of_kind[int(number)]
            image = read_image(work / outcome.file) if outcome.file else None
            tiles.append(Tile(image, (str(kind), job.source, outcome.detail if outcome.file else "")))
    title = f"{len(refused)} pictures left out: " + ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())
    draw_sheet(path, tiles, title)
