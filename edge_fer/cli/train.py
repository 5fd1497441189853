"""``edge-fer train``: a recipe and a dataset become a checkpoint, a log and a curve."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import typer

from edge_fer.core.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from rich.console import Console


def train(
    recipe: str = typer.Option("compact", help="A shipped recipe's name, or a YAML file."),
    data: Path = typer.Option(
        ..., help="FER-2013: class folders (DIR/train/happy/*.jpg) or the ICML CSV. For a detector: scenes/ and faces/."
    ),
    out: Path | None = typer.Option(None, help="Output folder; default runs/<recipe>. An unfinished run continues."),
    set_: list[str] = typer.Option([], "--set", help="Override a key of the recipe, e.g. --set epochs=3. Repeatable."),
    teacher: Path | None = typer.Option(None, help="For a detector: YuNet's ONNX file, which labels the pictures."),
    small_faces: Path | None = typer.Option(None, help="For a detector: crops of low resolution, such as FER-2013's."),
    init: Path | None = typer.Option(
        None,
        help="Weights to begin with. A classifier takes the trunk, also of torchvision's files, not the last layer.",
    ),
    device: str = typer.Option("cpu", help="A torch device: cpu, cuda, cuda:1."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads; default: all cores."),
    fresh: bool = typer.Option(False, "--fresh", help="Start again even if the folder holds an unfinished run."),
    tensorboard: bool = typer.Option(False, "--tensorboard", help="Write TensorBoard's event files as well."),
) -> None:
    """Train a network from a recipe; resumable, with the held-out part chosen by the recipe.

    The folder receives best.safetensors and last.safetensors (weights with their contract), recipe.yaml, log.csv and
    curve.png.
    """
    try:
        import torch
    except ImportError:
        raise MissingDependencyError("torch", extra="train", purpose="training") from None
    from rich.console import Console

    from edge_fer.cli.steps import Steps
    from edge_fer.data.datasets import open_dataset
    from edge_fer.data.split import holdout
    from edge_fer.train.curve import plot_log
    from edge_fer.train.device import check_device
    from edge_fer.train.event_log import EventLog
    from edge_fer.train.loop import EpochLog, Trainer
    from edge_fer.train.recipe import load_recipe, recipe_task, save_recipe

    console = Console()
    if out is not None and out.is_file():
        raise UsageError(f"{out} is a file; --out names a folder.", fix="--out FOLDER")
    if recipe_task(recipe) == "detection":
        if tensorboard:
            raise UsageError("--tensorboard is for a classifier's recipe.", fix="A detector's figures are in log.csv.")
        _train_detector(console, recipe, data, teacher, small_faces, init, out, set_, device, threads, fresh)
        return
    if teacher is not None or small_faces is not None:
        raise UsageError("--teacher and --small-faces are for a detector's recipe.", fix="--recipe detector")
    plan = load_recipe(recipe, overrides=set_)
    if init is not None:
        plan = plan.model_copy(update={"init": str(init)})
    check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    folder = out or Path("runs") / Path(recipe).stem
    samples = open_dataset(data, plan.split)
    rest, held = holdout(samples, plan.holdout_fraction, plan.holdout_salt)
    console.print(f"{samples.source}: {len(rest)} images to train on, {len(held)} held out for choosing.")
    if samples.left_out:
        console.print(f"[yellow]note[/]: {samples.left_out_note}", highlight=False)
    trainer = Trainer(plan, rest, held, folder, device=device)
    if not fresh and trainer.resume():
        console.print(f"Continuing {folder} at epoch {trainer.epoch} of {plan.epochs}.")
    elif trainer.initial is not None:
        loaded = trainer.initial
        console.print(
            f"Beginning with {loaded.taken} tensors of {plan.init}{', its colours added up' if loaded.grey else ''}; "
            f"not in it: {', '.join(dict.fromkeys(name.split('.')[0] for name in loaded.fresh))}."
        )
    save_recipe(folder / "recipe.yaml", plan)
    events = EventLog(folder, trainer.epoch) if tensorboard else None

    def progress(row: EpochLog) -> None:
        if events is not None:
            events.add(row)
        left = (plan.epochs - row.epoch - 1) * row.seconds
        console.print(
            f"epoch {row.epoch + 1:>3}/{plan.epochs}  loss {row.train_loss:.3f}  held-out top-1 {row.val_top1:7.2%}  "
            f"best {trainer.best:7.2%}  {row.images_per_s:.0f} images/s  about {left / 60:.0f} min left"
        )

    with Steps(console, "", 0) as bar:
        # The bar counts the whole training, so that the time left is that of all epochs.
        trainer.run(
            progress,
            lambda done, steps: bar(
                trainer.epoch * steps + done, plan.epochs * steps, f"epoch {trainer.epoch + 1}/{plan.epochs}"
            ),
        )
    if events is not None:
        events.close()
    if trainer.stalled:
        console.print(f"Stopped after epoch {trainer.epoch}: {plan.patience} epochs without a better held-out top-1.")
    plot_log(folder / "curve.png", trainer.log, plan.model.name)
    console.print(f"Best held-out top-1 {trainer.best:.2%}: {folder / 'best.safetensors'}")
    command = _compile_command(folder / "best.safetensors", data, plan.split)
    console.print(f"Next: {command}", highlight=False, soft_wrap=True)


def _compile_command(weights: Path, data: Path, split: str) -> str:
    """What compiles a trained network: calibrated on the split that it learnt from, verified on another one."""
    from shlex import join

    from edge_fer.core.errors import BadInputError
    from edge_fer.data.class_folders import find_splits
    from edge_fer.data.datasets import folder_of

    command = ["edge-fer", "compile", str(weights), "--calibration"]
    try:
        folders = find_splits(data)
    except BadInputError:  # a CSV, or a dataset in its own layout
        return join([*command, "FACES"])
    learnt_from = folder_of(folders, split) if len(folders) > 1 else next(iter(folders))
    others = sorted((name for name in folders if name != learnt_from), key=lambda name: "test" not in name.lower())
    verify = ["--data", str(data), "--split", others[0]] if others else []
    return join([*command, str(folders[learnt_from or ""]), *verify])


def _train_detector(
    console: Console,
    recipe: str,
    data: Path,
    teacher: Path | None,
    small_faces: Path | None,
    init: Path | None,
    out: Path | None,
    overrides: list[str],
    device: str,
    threads: int | None,
    fresh: bool,
) -> None:
    import torch
    from rich.progress import Progress

    from edge_fer.data.detection.labels import Teacher
    from edge_fer.models.checkpoint import load_detector
    from edge_fer.train.curve import plot_detection_log
    from edge_fer.train.detection_data import load_detection_data
    from edge_fer.train.detection_loop import DetectionEpochLog, DetectorTrainer
    from edge_fer.train.detection_recipe import load_detection_recipe
    from edge_fer.train.device import check_device
    from edge_fer.train.recipe import save_recipe

    plan = load_detection_recipe(recipe, overrides)
    if teacher is None:
        raise UsageError(
            "A detector is trained on pictures that a teacher labels, and none was named.",
            fix="--teacher face_detection_yunet.onnx (see `edge-fer fetch yunet`)",
        )
    check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    folder = out or Path("runs") / Path(recipe).stem
    weights = load_detector(init).model.state_dict() if init is not None else None
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Labelling", total=None)
        pictures = load_detection_data(
            data,
            small_faces,
            Teacher(teacher),
            plan,
            folder / "labels",
            lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    console.print(
        f"{len(pictures.scenes)} scenes, {len(pictures.faces)} faces and {len(pictures.small_faces)} small ones to "
        f"train on; {plan.holdout_fraction:.0%} of the pictures are kept out."
    )
    trainer = DetectorTrainer(
        plan, pictures.scenes, pictures.faces, pictures.small_faces, folder, device=device, init=weights
    )
    if not fresh and trainer.resume():
        console.print(f"Continuing {folder} at epoch {trainer.epoch} of {plan.epochs}.")
    save_recipe(folder / "recipe.yaml", plan)

    def progress(row: DetectionEpochLog) -> None:
        left = (plan.epochs - row.epoch - 1) * row.seconds
        console.print(
            f"epoch {row.epoch + 1:>3}/{plan.epochs}  loss {row.loss:.3f}  score {row.score_loss:.3f}  "
            f"box {row.box_loss:.3f}  landmarks {row.landmark_loss:.4f}  unseen {row.val_loss:.3f}  "
            f"{row.images_per_s:.0f} images/s  about {left / 60:.0f} min left"
        )

    trainer.run(progress)
    plot_detection_log(folder / "curve.png", trainer.log, plan.model.name)
    console.print(f"Next: edge-fer compile {quote(str(folder / 'last.safetensors'))} --calibration PICTURES")
