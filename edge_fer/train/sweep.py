"""Search a recipe's settings: Optuna's tree-structured Parzen estimator over short trainings of the same loop.

Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011). A trial that does worse than the median of
earlier ones at the same epoch ends there.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from edge_fer.core.errors import MissingDependencyError, UsageError
from edge_fer.core.files import atomic_file
from edge_fer.data.samples import Samples
from edge_fer.train.loop import EpochLog, Trainer
from edge_fer.train.optim import DivergedError
from edge_fer.train.recipe import load_recipe, save_recipe

if TYPE_CHECKING:
    import optuna

Value = float | int | str | bool


@dataclass(frozen=True)
class Axis:
    """One setting of the search: a range (``low``, ``high``) or ``choices``.

    ``whole``: only whole numbers. ``log``: as likely between 0.001 and 0.01 as between 0.01 and 0.1.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Value, ...] = ()

    def suggest(self, trial: optuna.Trial) -> Value:
        if self.choices:
            chosen = trial.suggest_categorical(self.key, self.choices)
            assert chosen is not None, "None is not among the choices"
            return chosen
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


def parse_axis(text: str) -> Axis:
    """Read ``KEY=LOW..HIGH``, ``KEY=LOW..HIGH:log`` or ``KEY=A,B,C``; whole numbers at both ends stay whole.

    Raises:
        UsageError: it is none of these.
    """
    key, equals, rest = text.partition("=")
    wrong = UsageError(
        f"--vary does not understand {text!r}.",
        fix="For example --vary optimizer.lr=1e-4..1e-2:log, --vary label_smoothing=0.0..0.2, --vary batch_size=32,64",
    )
    if not equals or not key or not rest:
        raise wrong
    if ".." not in rest:
        values = [yaml.safe_load(part) for part in rest.split(",")]
        if len(values) < 2 or not all(isinstance(value, str | int | float) for value in values):
            raise wrong
        return Axis(key, choices=tuple(_number(value) for value in values))
    span, _, scale = rest.partition(":")
    ends = span.split("..")
    if scale not in {"", "log"} or len(ends) != 2:
        raise wrong
    try:
        low, high = float(ends[0]), float(ends[1])
    except ValueError:
        raise wrong from None
    log = scale == "log"
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (log and low <= 0):
        raise wrong
    return Axis(key, low, high, log, whole=all(end.strip().lstrip("-").isdigit() for end in ends))


def _number(value: Value) -> Value:
    """YAML reads 1e-3 as a text; a setting means the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


@dataclass(frozen=True)
class TrialRow:
    """One trial. ``top1`` is the best held-out fraction of its epochs; ``state``: ``complete`` or ``pruned``."""

    number: int
    state: str
    top1: float
    values: dict[str, Value]


def sweep(
    recipe: str,
    overrides: Sequence[str],
    axes: Sequence[Axis],
    trials: int,
    train: Samples,
    validation: Samples,
    out: Path,
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[TrialRow], None] = lambda row: None,
) -> list[TrialRow]:
    """Run trials until ``trials`` are done, those of an earlier call in the same folder included.

    The folder receives ``trials.journal`` (Optuna's, what a sweep continues from), ``trials.csv``, ``best.yaml`` (the
    recipe of the best trial) and ``trial-NNN/`` with each training's log and weights.

    Raises:
        MissingDependencyError: Optuna is not installed.
        BadInputError: a setting does not exist, or is out of its range.
        UsageError: the folder holds a sweep over other settings.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise MissingDependencyError("optuna", extra="sweep", purpose="the sweep") from None
    if not axes or len({axis.key for axis in axes}) != len(axes):
        raise UsageError(
            "A sweep varies at least one setting, and each once.", fix="--vary optimizer.lr=1e-4..1e-2:log"
        )
    for axis in axes:  # both ends are tried as recipes, so that a wrong key is known now and not in the night
        for value in axis.choices or (axis.low, axis.high):
            load_recipe(recipe, [*overrides, _setting(axis.key, int(value) if axis.whole else value)])
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(out / "trials.journal"))),
        study_name="edge-fer",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    what = [repr((recipe, list(overrides))), *(repr(axis) for axis in axes)]
    if study.user_attrs.setdefault("what", what) != what:
        raise UsageError(f"{out} holds a sweep over other settings.", fix="Choose another --out.")
    study.set_user_attr("what", what)
    # A sampler that begins at the same number every time would repeat an interrupted sweep's first guesses.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), n_startup_trials=min(10, trials // 2 + 1))

    def objective(trial: optuna.Trial) -> float:
        settings = [_setting(axis.key, axis.suggest(trial)) for axis in axes]
        plan = load_recipe(recipe, [*overrides, *settings])
        folder = out / f"trial-{trial.number:03d}"
        trainer = Trainer(plan, train, validation, folder, device=device)
        save_recipe(folder / "recipe.yaml", plan)

        def epoch(row: EpochLog) -> None:
            trial.report(row.val_top1, row.epoch)
            if trial.should_prune() and row.epoch + 1 < plan.epochs:
                raise optuna.TrialPruned

        try:
            trainer.run(epoch)
        except DivergedError:  # the search learns that these settings are the worst, and goes on
            trial.report(0.0, trainer.epoch)
            raise optuna.TrialPruned from None
        return trainer.best

    while len(rows := finished(study)) < trials:
        study.optimize(objective, n_trials=1)
        new = finished(study)
        if len(new) > len(rows):
            _write(out, new, axes)
            progress(new[-1])
    best = max(rows, key=lambda row: row.top1)
    save_recipe(
        out / "best.yaml", load_recipe(recipe, [*overrides, *(_setting(key, best.values[key]) for key in best.values)])
    )
    return rows


def finished(study: optuna.Study) -> list[TrialRow]:
    """Trials that ended, in their order; those cut off by a crash are not among them."""
    rows = []
    for trial in study.trials:
        if trial.state.name in {"COMPLETE", "PRUNED"}:
            top1 = max(trial.intermediate_values.values())
            rows.append(TrialRow(trial.number, trial.state.name.lower(), top1, dict(trial.params)))
    return rows


def _setting(key: str, value: Value) -> str:
    # YAML wants a point in a float's mantissa: it reads 1e-05 as a text.
    return f"{key}={value:.12e}" if isinstance(value, float) else f"{key}={value}"


def _write(out: Path, rows: Sequence[TrialRow], axes: Sequence[Axis]) -> None:
    with atomic_file(out / "trials.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "state", "top1", *(axis.key for axis in axes)])
        for row in rows:
            writer.writerow([row.number, row.state, round(row.top1, 6), *(row.values[axis.key] for axis in axes)])


def plot_parallel(path: Path, rows: Sequence[TrialRow], axes: Sequence[Axis]) -> None:
    """Write a PNG of parallel coordinates: an upright axis per setting and one for top-1, a line per trial.

    Better trials are darker and lie on top; pruned ones are dashed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib", extra="train", purpose="the picture of the sweep") from None
    lowest, highest = min(row.top1 for row in rows), max(row.top1 for row in rows)
    span = highest - lowest or 1.0
    names = [*(axis.key for axis in axes), "held-out top-1"]
    figure = Figure(figsize=(2.2 * len(names) + 1, 4.2), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panel = figure.subplots()
    for row in sorted(rows, key=lambda row: row.top1):
        merit = (row.top1 - lowest) / span
        heights = [*(_height(axis, row.values[axis.key]) for axis in axes), merit]
        style = "-" if row.state == "complete" else "--"
        panel.plot(range(len(names)), heights, style, color=colormaps["viridis_r"](0.1 + 0.85 * merit), linewidth=1.4)
    for place, axis in enumerate(axes):
        shown = axis.choices or (axis.low, axis.high)
        for value in shown:
            text = f"{value:g}" if isinstance(value, int | float) else value
            panel.text(place - 0.04, _height(axis, value), text, ha="right", va="center", fontsize=8)
    for merit, top1 in ((0.0, lowest), (1.0, lowest + span)):
        panel.text(len(names) - 0.96, merit, f"{top1:.1%}", ha="left", va="center", fontsize=8)
    for place in range(len(names)):
        panel.axvline(place, color="black", linewidth=0.8)
    panel.set_xticks(range(len(names)), names)
    panel.set(yticks=[], xlim=(-0.5, len(names) - 0.5))
    panel.spines[:].set_visible(False)
    with atomic_file(path) as temporary:
        canvas.print_png(temporary)  # type: ignore[no-untyped-call]


def _height(axis: Axis, value: Value) -> float:
    """Where on its axis a value lies, 0 to 1."""
    if axis.choices:
        return axis.choices.index(value) / (len(axis.choices) - 1)
    number = float(value)
    if axis.log:
        return math.log(number / axis.low) / math.log(axis.high / axis.low)
    return (number - axis.low) / (axis.high - axis.low)
