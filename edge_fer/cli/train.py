"""``edge-fer train``: a recipe and a dataset become a checkpoint, a log and a curve."""

from __future__ import annotations

from pathlib import Path

import typer

from edge_fer.core.errors import MissingDependencyError, UsageError


def train(
    recipe: str = typer.Option("compact", help="A shipped recipe's name, or a YAML file."),
    data: Path = typer.Option(..., help="FER-2013: class folders (DIR/train/happy/*.jpg) or the ICML CSV."),
    out: Path | None = typer.Option(None, help="Output folder; default runs/<recipe>. An unfinished run continues."),
    set_: list[str] = typer.Option([], "--set", help="Override a key of the recipe, e.g. --set epochs=3. Repeatable."),
    device: str = typer.Option("cpu", help="A torch device: cpu, cuda, cuda:1."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads; default: all cores."),
    fresh: bool = typer.Option(False, "--fresh", help="Start again even if the folder holds an unfinished run."),
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

    from edge_fer.data.datasets import open_dataset
    from edge_fer.data.split import holdout
    from edge_fer.train.curve import plot_log
    from edge_fer.train.loop import EpochLog, Trainer
    from edge_fer.train.recipe import load_recipe, save_recipe

    console = Console()
    plan = load_recipe(recipe, overrides=set_)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"No CUDA device for --device {device}.", fix="Use --device cpu; `edge-fer doctor` says why.")
    if threads is not None:
        torch.set_num_threads(threads)
    folder = out or Path("runs") / Path(recipe).stem
    samples = open_dataset(data, plan.split)
    rest, held = holdout(samples, plan.holdout_fraction, plan.holdout_salt)
    console.print(f"{samples.source}: {len(rest)} images to train on, {len(held)} held out for choosing.")
    trainer = Trainer(plan, rest, held, folder, device=device)
    if not fresh and trainer.resume():
        console.print(f"Continuing {folder} at epoch {trainer.epoch} of {plan.epochs}.")
    save_recipe(folder / "recipe.yaml", plan)

    def progress(row: EpochLog) -> None:
        left = (plan.epochs - row.epoch - 1) * row.seconds
        console.print(
            f"epoch {row.epoch + 1:>3}/{plan.epochs}  loss {row.train_loss:.3f}  held-out top-1 {row.val_top1:7.2%}  "
            f"best {trainer.best:7.2%}  {row.images_per_s:.0f} images/s  about {left / 60:.0f} min left"
        )

    trainer.run(progress)
    plot_log(folder / "curve.png", trainer.log, plan.model.name)
    console.print(f"Best held-out top-1 {trainer.best:.2%}: {folder / 'best.safetensors'}")
    console.print(f"Next: edge-fer compile {folder / 'best.safetensors'} --calibration {data} --data {data}")
