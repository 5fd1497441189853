"""``edge-fer sweep``: search a recipe's settings by short trainings."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import typer

from edge_fer.core.errors import MissingDependencyError, UsageError


def sweep(
    data: Path = typer.Option(..., help="A dataset, as `edge-fer train` takes it."),
    recipe: str = typer.Option("compact", help="A shipped recipe's name, or a YAML file."),
    vary: list[str] = typer.Option(
        ..., "--vary", help="A setting to search: KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C. Repeatable."
    ),
    trials: int = typer.Option(20, min=1, help="Trainings, those of an earlier call in the same folder included."),
    out: Path | None = typer.Option(
        None, help="Output folder; default runs/sweep-<recipe>. An unfinished one continues."
    ),
    set_: list[str] = typer.Option(
        [], "--set", help="Override a key for every trial, e.g. --set epochs=8. Repeatable."
    ),
    device: str = typer.Option("cpu", help="A torch device: cpu, cuda, cuda:1."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads; default: all cores."),
    seed: int = typer.Option(0, help="Of the search; a training's own is --set seed=N."),
) -> None:
    """Search settings with Optuna's TPE; trials that fall behind the median end early.

    The folder receives trials.csv, best.yaml (a recipe for `edge-fer train --recipe`), parallel.png and every trial's
    log and weights. Choosing among many trials flatters the held-out figure: judge the winner on a split that no
    trial has seen.
    """
    try:
        import torch
    except ImportError:
        raise MissingDependencyError("torch", extra="train", purpose="training") from None
    from rich.console import Console

    from edge_fer.data.datasets import open_dataset
    from edge_fer.data.split import holdout
    from edge_fer.train.device import check_device
    from edge_fer.train.recipe import load_recipe, recipe_task
    from edge_fer.train.sweep import TrialRow, parse_axis, plot_parallel
    from edge_fer.train.sweep import sweep as search

    if recipe_task(recipe) == "detection":
        raise UsageError("A sweep is for a classifier's recipe.", fix="--recipe compact")
    check_device(device)
    axes = [parse_axis(text) for text in vary]
    plan = load_recipe(recipe, set_)
    if threads is not None:
        torch.set_num_threads(threads)
    console = Console()
    folder = out or Path("runs") / f"sweep-{Path(recipe).stem}"
    samples = open_dataset(data, plan.split)
    rest, held = holdout(samples, plan.holdout_fraction, plan.holdout_salt)
    console.print(f"{samples.source}: {len(rest)} images to train on, {len(held)} held out for choosing.")

    def progress(row: TrialRow) -> None:
        settings = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.values.items()
        )
        console.print(f"trial {row.number + 1:>3}/{trials}  {row.top1:7.2%}  {row.state:<8}  {settings}")

    rows = search(recipe, set_, axes, trials, rest, held, folder, device=device, seed=seed, progress=progress)
    plot_parallel(folder / "parallel.png", rows, axes)
    best = max(rows, key=lambda row: row.top1)
    console.print(
        f"Best held-out top-1 {best.top1:.2%} (trial {best.number + 1} of {len(rows)}): {folder / 'best.yaml'}"
    )
    recipe_file = quote(str(folder / "best.yaml"))
    console.print(f"Next: edge-fer train --recipe {recipe_file} --data {quote(str(data))}", soft_wrap=True)
