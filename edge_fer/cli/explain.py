"""``edge-fer explain``: where in a face a network sees the class that it names, and whether that can be believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_fer.core.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edge_fer.cli.steps import Steps
    from edge_fer.core.spec import ModelSpec
    from edge_fer.evaluate.explain import Explanation, Faces
    from edge_fer.evaluate.grad_cam import Explainer


def explain(
    pictures: list[Path] | None = typer.Argument(None, help="Pictures, or folders of pictures."),
    model: str | None = typer.Option(None, help="Checkpoint. Default: the shipped one."),
    arch: str | None = typer.Option(None, help="Network of a plain state dict, such as resnet18."),
    data: Path | None = typer.Option(None, help="Explain faces of a dataset instead of pictures, as eval takes it."),
    split: str | None = typer.Option(None, help="Part of the data, such as test or PublicTest."),
    mistakes: bool = typer.Option(False, "--mistakes", help="Of the dataset, only the misclassified; surest first."),
    layer: str | None = typer.Option(None, help="Layer whose maps are weighed. Default: the last map."),
    explained: str | None = typer.Option(
        None, "--class", help="Explain this class. Default: the one that each face is taken for."
    ),
    detector: str = typer.Option(
        "edge-fer-face", help="Finds the largest face of each picture; none: the picture is the face."
    ),
    limit: int = typer.Option(12, min=1, max=64, help="Faces to show."),
    check: int = typer.Option(100, min=1, help="Faces of the dataset for the deletion check."),
    seed: int = typer.Option(0, help="Of the random places of the check."),
    threads: int = typer.Option(1, min=1, help="Threads of torch."),
    out: Path = typer.Option(Path("explanation"), help="Folder for the pictures and explanation.json."),
) -> None:
    """Draw Grad-CAM and feature maps, and test the heat by deleting what it marks.

    The result of that test stands in the picture, in the JSON file and on the terminal, also when the map fails it.
    """
    if bool(pictures) == (data is not None):
        raise UsageError(
            "Give either pictures or a dataset." if pictures else "Say what to explain.",
            fix="edge-fer explain FACE.jpg, or edge-fer explain --data DIR --mistakes",
        )
    if data is None and (mistakes or split is not None):
        raise UsageError("--mistakes and --split are for a dataset.", fix="--data DIR")
    from rich.console import Console

    from edge_fer.core.files import check_writable

    console = Console()
    explainer = open_explainer(model, arch, layer, threads)
    chosen = _class_index(explained, explainer.spec)
    check_writable(out / "explanation.json")
    if data is not None:
        shown, checked, population = _of_dataset(explainer, data, split, mistakes, limit, check, console)
    else:
        shown = _of_pictures(pictures or [], detector, limit, explainer.spec, console)
        checked, population = shown, "the faces that are shown"
    from edge_fer.evaluate.explain import explain as explain_faces
    from edge_fer.evaluate.explain_figures import write_explanation, write_feature_maps, write_json

    with _bar(console, "Checking", len(checked)) as step:
        explanation, pixels = explain_faces(
            explainer,
            shown,
            checked,
            source=data.resolve().name if data is not None else "pictures",
            explained_class=chosen,
            population=population,
            seed=seed,
            progress=step,
        )
    write_json(out / "explanation.json", explanation)
    write_explanation(out / "explanation.png", explanation, pixels)
    write_feature_maps(out / "feature-maps.png", explanation, pixels)
    _show(console, explanation, out)


def open_explainer(model: str | None, arch: str | None, layer: str | None, threads: int) -> Explainer:
    """A checkpoint, ready to be looked into.

    Raises:
        MissingDependencyError: torch is not installed.
        CheckpointError: the checkpoint cannot be read.
        UsageError: there is no such layer.
    """
    try:
        import torch

        from edge_fer.evaluate.grad_cam import Explainer
        from edge_fer.models.checkpoint import ContractOverrides, find_checkpoint, load_checkpoint
    except ModuleNotFoundError as error:
        from edge_fer.core.errors import MissingDependencyError

        raise MissingDependencyError(error.name or "torch", extra="compile", purpose="looking into a network") from None
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(find_checkpoint(model), ContractOverrides(arch=arch))
    return Explainer(checkpoint.model, checkpoint.spec, layer)


def _class_index(name: str | None, spec: ModelSpec) -> int | None:
    if name is None:
        return None
    from edge_fer.core.labels import canonical

    wanted = canonical(name) or name
    if wanted not in spec.labels:
        raise UsageError(f"{spec.name} has no class {name!r}.", fix=f"Known: {', '.join(spec.labels)}.")
    return spec.labels.index(wanted)


def _of_dataset(
    explainer: Explainer,
    data: Path,
    split: str | None,
    mistakes: bool,
    limit: int,
    check: int,
    console: Console,
) -> tuple[Faces, Faces, str]:
    """What is shown, what is checked, and what that is in words."""
    from edge_fer.data.datasets import open_dataset
    from edge_fer.evaluate.explain import faces_of_samples, spread
    from edge_fer.evaluate.mistakes import worst_mistakes
    from edge_fer.evaluate.predict import match_labels, predict_module, softmax

    spec = explainer.spec
    samples = open_dataset(data, split)
    labels = match_labels(samples, spec.labels)
    if mistakes:
        with _bar(console, "Looking for mistakes", len(samples)) as step:
            logits = predict_module(explainer.module, samples, spec.preprocess, progress=step)
        wrong = worst_mistakes(softmax(logits), labels)
        if not len(wrong):
            raise BadInputError(f"{spec.name} makes no mistake on the {len(samples)} faces of {samples.source}.")
        order, of_all = wrong[: max(limit, check)], f"{len(wrong)} misclassified faces, the surest first"
        shown, checked = order[:limit], order[:check]
    else:
        shown, checked = spread(len(samples), limit), spread(len(samples), check)
        of_all = f"{len(samples)} faces, evenly spread"
    return (
        faces_of_samples(samples, labels, shown.tolist(), spec),
        faces_of_samples(samples, labels, checked.tolist(), spec),
        f"{len(checked)} of {of_all}",
    )


def _of_pictures(paths: list[Path], detector: str, limit: int, spec: ModelSpec, console: Console) -> Faces:
    from edge_fer.backends.face_detector import open_face_detector
    from edge_fer.data.class_folders import IMAGE_SUFFIXES, read_image
    from edge_fer.evaluate.explain import faces_of_pictures

    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise BadInputError(f"{path} holds no pictures.", fix="For a dataset of class folders: --data DIR")
            files += found
        else:
            files.append(path)
    if len(files) > limit:
        console.print(f"{len(files)} pictures are given, the first {limit} are explained (--limit).", highlight=False)
    opened = open_face_detector(detector, min_face_px=24)
    try:
        faces, without = faces_of_pictures([(p.name, read_image(p)) for p in files[:limit]], opened, spec)
    finally:
        if (close := getattr(opened, "close", None)) is not None:
            close()
    if without:
        console.print(f"[yellow]No face found in {', '.join(without)}; left out.[/]", highlight=False)
    return faces


def _bar(console: Console, text: str, total: int) -> Steps:
    from edge_fer.cli.steps import Steps

    return Steps(console, text, total)


def _show(console: Console, explanation: Explanation, out: Path) -> None:
    from rich.table import Table

    from edge_fer.evaluate.explain_figures import verdict

    console.print(f"[bold]{explanation.model}[/], Grad-CAM at layer {explanation.layer}", highlight=False)
    table = Table()
    for column in ("face", "taken for", "score", "is", "explained"):
        table.add_column(column, justify="right" if column == "score" else "left")
    for face in explanation.faces:
        note = face.explained if face.evidence else f"{face.explained} (nothing speaks for it)"
        table.add_row(face.id, face.predicted, f"{face.scores[face.predicted]:.0%}", face.label or "", note)
    console.print(table)
    holds = explanation.check is not None and explanation.check.holds
    console.print(f"[{'green' if holds else 'bold red'}]{verdict(explanation)}[/]", highlight=False)
    console.print(f"Checked on {explanation.checked}. Written: {out}/", highlight=False)
