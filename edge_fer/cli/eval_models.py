"""The evaluation behind ``edge-fer eval``: each model over the same data, then against the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edge_fer.core.errors import UsageError
from edge_fer.core.files import shortest_end

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from edge_fer.cli.steps import Steps
    from edge_fer.core.engine import Engine
    from edge_fer.core.spec import ModelSpec, PreprocessSpec
    from edge_fer.data.samples import Samples
    from edge_fer.evaluate.found_faces import Located
    from edge_fer.evaluate.predict import Progress
    from edge_fer.evaluate.report import Comparison, Evaluation

    Views = Callable[[PreprocessSpec], tuple[Samples, ...]]
    """How a network of that contract sees the data; metrics are of the first view."""

WEIGHTS = frozenset({".safetensors", ".pt", ".pth", ".bin"})
ONLY_TORCH = "A checkpoint is evaluated by torch in fp32; --backend and --precision need a bundle."


class Request(NamedTuple):
    """The options that all models share; ``detector``: ``None`` takes pictures for faces; ``sheets``: pictures of
    mistakes are wanted."""

    data: Path
    split: str | None
    precision: str | None
    backend: str
    arch: str | None
    threads: int
    audit: Path | None
    detector: str | None
    sheets: bool


class Results(NamedTuple):
    """What comes out: ``evaluation`` of one model or of several, and by name a PNG of mistakes."""

    evaluation: Evaluation | Comparison
    sheets: dict[str, bytes]


class _Ran(NamedTuple):
    """What ran: the contract, the file or folder, (backend, version, precision)."""

    spec: ModelSpec
    path: Path
    ran: tuple[str, str, str]


class _Done(NamedTuple):
    ran: _Ran
    evaluation: Evaluation
    scores: NDArray[np.float64]
    sheet: bytes | None


def evaluate_models(models: list[str | None], request: Request, console: Console, *, videos: bool) -> Results:
    """Evaluate every model; several are compared with the first.

    Raises:
        UsageError: options that contradict each other, a model given twice, or models with other classes.
        EdgeFerError: a model or the data cannot be read.
    """
    texts = [_split(text, request.precision) for text in models]
    if len(set(texts)) < len(texts):
        raise UsageError("A model is given twice.", fix="Precisions are told apart so: NAME@fp32 NAME@int8")
    weights = [(name, precision) for name, precision in texts if name is not None and Path(name).suffix in WEIGHTS]
    if request.arch is not None and not weights:
        raise UsageError("--arch is for checkpoints; a bundle carries its contract.", fix="Leave --arch out.")
    alone = len(weights) == len(texts)
    if any(precision not in (None, "fp32") for _, precision in weights) or (alone and request.backend != "auto"):
        raise UsageError(ONLY_TORCH, fix=f"edge-fer compile {weights[0][0]}")
    if videos:
        return _of_videos(texts, request, console)
    return _of_faces(texts, request, console)


def _split(text: str | None, precision: str | None) -> tuple[str | None, str | None]:
    """``NAME@int8`` -> (NAME, int8); without ``@`` the option's precision."""
    if text is None:
        return None, precision
    name, at, wanted = text.rpartition("@")
    if not at or wanted not in ("fp32", "bf16", "fp16", "int8"):
        return text, precision
    if precision is not None:
        raise UsageError(
            f"{text} names a precision, so --precision cannot be given as well.", fix="Leave --precision out."
        )
    return name or None, wanted


def _of_faces(texts: list[tuple[str | None, str | None]], request: Request, console: Console) -> Results:
    from edge_fer.data.datasets import open_dataset
    from edge_fer.evaluate.predict import match_labels, softmax
    from edge_fer.evaluate.report import Evaluation
    from edge_fer.evaluate.score import score

    samples = open_dataset(request.data, request.split)
    if samples.left_out:
        console.print(f"[yellow]note[/]: {samples.left_out_note}", highlight=False)
    leaked = None
    if request.audit is not None:
        from edge_fer.data.audit_report import leaked_mask

        leaked = leaked_mask(request.audit, samples)
    located = None if request.detector is None else _locate(request.detector, samples, console)
    if located is not None and leaked is not None:
        leaked = leaked[located.found]
    # Without the file behind its name, which is a path of this machine.
    found_by = "" if request.detector is None else f", found by {request.detector.partition('=')[0]}"
    done: list[_Done] = []
    first: tuple[str, ...] = ()
    for name, precision in texts:
        with _progress(console, len(samples)) as step:
            ran, views, logits = _predict(
                name, precision, request, _as_given(samples) if located is None else located.views, step
            )
        if first and set(ran.spec.labels) != set(first):
            raise UsageError(
                f"{ran.spec.name} has other classes than the first model, so they cannot be compared.",
                fix="Evaluate it by itself: edge-fer eval MODEL --data DATA",
            )
        first = first or ran.spec.labels
        # In the first model's order of classes, so that scores of all can be set against each other.
        order = [ran.spec.labels.index(label) for label in first]
        rows, *as_given = (softmax(each)[:, order] for each in logits)
        every = labels = match_labels(samples, first)
        found = None
        if located is not None:
            labels = every[located.found]
            found = located.summary(ran.spec.preprocess, first, every, as_given=as_given[0], as_cut=rows)
        scored = score(labels, rows, first, leaked=leaked)
        evaluation = Evaluation(
            **scored.metrics.model_dump(),
            **_about(ran, request, found_by),
            curves=scored.curves,
            deduplicated=scored.deduplicated,
            found_faces=found,
        )
        sheet = _sheet(views[0], labels, rows, first) if request.sheets else None
        done.append(_Done(ran, evaluation, rows, sheet))
    return _together(done, labels)


def _as_given(samples: Samples) -> Views:
    return lambda _: (samples,)


def _locate(name: str, samples: Samples, console: Console) -> Located:
    from edge_fer.backends.face_detector import open_face_detector
    from edge_fer.evaluate.found_faces import locate

    detector = open_face_detector(name, min_face_px=None)
    try:
        with _progress(console, len(samples), "Finding faces") as step:
            return locate(samples, detector, step)
    finally:
        if (close := getattr(detector, "close", None)) is not None:
            close()


def _of_videos(texts: list[tuple[str | None, str | None]], request: Request, console: Console) -> Results:
    import numpy as np

    from edge_fer.backends.face_detector import open_face_detector
    from edge_fer.evaluate.report import Evaluation
    from edge_fer.evaluate.score import score
    from edge_fer.evaluate.videos import score_videos

    finder = request.detector
    assert finder is not None
    done: list[_Done] = []
    labels: NDArray[np.int64] | None = None
    for name, precision in texts:
        if name is not None and Path(name).suffix in WEIGHTS:
            raise UsageError("Videos run through the live loop, which takes bundles and engines, not checkpoints.",
                             fix=f"edge-fer compile {name}")  # fmt: skip
        engine, ran = _open_engine(name, request.backend, precision, request.threads)
        with engine, _progress(console, 0, "Videos") as step:
            videos = score_videos(
                request.data,
                engine,
                lambda smallest: open_face_detector(finder, min_face_px=smallest),
                step,
            )
        if labels is not None and not np.array_equal(labels, videos.labels):
            raise UsageError(
                "The models have other classes or orders of classes, so they cannot be compared.",
                fix="Evaluate each by itself: edge-fer eval MODEL --data DATA",
            )
        labels = videos.labels
        scored = score(labels, videos.scores, ran.spec.labels)
        evaluation = Evaluation(
            **scored.metrics.model_dump(),
            **_about(ran, request),
            unit="videos",
            curves=scored.curves,
            videos=videos.videos,
        )
        done.append(_Done(ran, evaluation, videos.scores, None))
    assert labels is not None
    return _together(done, labels)


def _together(done: list[_Done], labels: NDArray[np.int64]) -> Results:
    names = _names([one.ran for one in done])
    sheets = {name: one.sheet for name, one in zip(names, done, strict=True) if one.sheet is not None}
    if len(done) == 1:
        return Results(done[0].evaluation, sheets)
    from edge_fer.evaluate.compare import compare
    from edge_fer.evaluate.report import Comparison

    comparisons = compare(labels, {name: one.scores for name, one in zip(names, done, strict=True)})
    models = {name: one.evaluation for name, one in zip(names, done, strict=True)}
    return Results(Comparison(models=models, comparisons=comparisons), sheets)


def _names(ran: list[_Ran]) -> list[str]:
    """The shortest names that tell the models apart: their own or their files', then with what ran them."""
    models = [_model_name(one, ran) for one in ran]
    ways = (
        models,
        [f"{model} {one.ran[2]}" for model, one in zip(models, ran, strict=True)],
        [f"{model} {one.ran[0]} {one.ran[2]}" for model, one in zip(models, ran, strict=True)],
    )
    for names in ways:
        if len(set(names)) == len(names):
            return names
    return [f"{i}: {name}" for i, name in enumerate(ways[-1], 1)]


def _model_name(one: _Ran, ran: list[_Ran]) -> str:
    """A model's own name; where other files carry it too, the shortest end of its path that is not theirs.

    What is trained from one recipe has one name, and a backend tells nobody which training ran on it.
    """
    path = one.path.resolve()
    namesakes = {other.path.resolve() for other in ran if other.spec.name == one.spec.name} - {path}
    if not namesakes:
        return one.spec.name
    return shortest_end(path, namesakes)


def _about(ran: _Ran, request: Request, found_by: str = "") -> dict[str, str]:
    """What is told of every evaluation; ``found_by``: a picture of it that is passed on must say so too."""
    from edge_fer import __version__
    from edge_fer.backends.host import cpu_name

    backend, version, precision = ran.ran
    folder = request.data.resolve().name
    return {
        "edge_fer_version": __version__,
        "model": ran.spec.name,
        "source": ran.path.resolve().name,
        "backend": backend,
        "backend_version": version,
        "precision": precision,
        "device": cpu_name(),
        # The folder's name only: a path tells more about the machine than about the data.
        "data": (f"{folder}/{request.split}" if request.split else folder) + found_by,
    }


class _Predicted(NamedTuple):
    """What ran, the data as it saw them, and float32 (n, classes) logits of each view."""

    ran: _Ran
    views: tuple[Samples, ...]
    logits: tuple[NDArray[np.float32], ...]


def _predict(name: str | None, precision: str | None, request: Request, views: Views, progress: Progress) -> _Predicted:
    if name is not None and Path(name).suffix in WEIGHTS:
        return _checkpoint(Path(name), request.arch, views, request.threads, progress)
    from edge_fer.evaluate.predict import predict

    engine, ran = _open_engine(name, request.backend, precision, request.threads)
    with engine:
        seen = views(ran.spec.preprocess)
        return _Predicted(ran, seen, tuple(predict(engine, view, ran.spec.preprocess, progress) for view in seen))


def _checkpoint(path: Path, arch: str | None, views: Views, threads: int, progress: Progress) -> _Predicted:
    try:
        import torch

        from edge_fer.evaluate.predict import predict_module
        from edge_fer.models.checkpoint import ContractOverrides, load_checkpoint
    except ModuleNotFoundError as error:
        from edge_fer.core.errors import MissingDependencyError

        raise MissingDependencyError(
            error.name or "torch", extra="compile", purpose="evaluating a checkpoint"
        ) from None
    checkpoint = load_checkpoint(path, ContractOverrides(arch=arch))
    preprocess = checkpoint.spec.preprocess
    seen = views(preprocess)
    logits = (predict_module(checkpoint.model, view, preprocess, threads=threads, progress=progress) for view in seen)
    return _Predicted(_Ran(checkpoint.spec, path, ("torch", str(torch.__version__), "fp32")), seen, tuple(logits))


def _open_engine(name: str | None, backend: str, precision: str | None, threads: int) -> tuple[Engine, _Ran]:
    from edge_fer.backends.choose import open_best
    from edge_fer.core.bundle import find_bundle

    path = find_bundle(name)
    engine, _ = open_best(path, backend=backend, precision=precision or _usual_precision(path), threads=threads)
    manifest = engine.manifest
    ran = _Ran(manifest.classifier, path, (manifest.backend, manifest.backend_version, manifest.precision))
    return engine, ran


def _usual_precision(path: Path) -> str:
    """Int8 where a bundle has it: what would be deployed; an engine's own; else fp32."""
    from edge_fer.backends.choose import is_engine
    from edge_fer.core.bundle import open_bundle

    if is_engine(path):
        return "auto"
    return "int8" if any(variant.precision == "int8" for variant in open_bundle(path).manifest.variants) else "fp32"


def _sheet(
    samples: Samples, labels: NDArray[np.int64], rows: NDArray[np.float64], names: tuple[str, ...]
) -> bytes | None:
    import io

    from edge_fer.evaluate.mistakes import draw_mistakes, worst_mistakes

    wrong = worst_mistakes(rows, labels)
    if not len(wrong):
        return None
    buffer = io.BytesIO()
    draw_mistakes(samples, wrong, labels, rows, names).savefig(buffer, format="png")
    return buffer.getvalue()


def _progress(console: Console, total: int, text: str = "Evaluating") -> Steps:
    from edge_fer.cli.steps import Steps

    return Steps(console, text, total)
