"""An ablation over seeds, as Hu & Kovásznai report theirs: mean and standard deviation of each network, bars per class.

    python benchmarks/ablation.py --data DIR/fer2013 --out runs/ablation [--device cuda] [--set epochs=30 ...]

Trains every recipe with every seed (``edge-fer train``: an interrupted run continues, a finished one is not repeated),
evaluates the best checkpoints on ``--split`` (``edge-fer eval``), and writes ablation.json, ablation.md and
ablation.png into ``--out``. Five seeds of 100 epochs of four ResNet-50s want a GPU; ``--recipes`` and ``--set`` make it
smaller.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib import pyplot

from edge_fer import __version__
from edge_fer.core.files import atomic_file
from edge_fer.evaluate.report import Evaluation, read_json

RECIPES = ("resnet50-hu", "resnet50-fpn-hu", "resnet50-transformer-hu", "hybrid-hu")
SEEDS = 5
SCORES = ("top1", "macro_f1", "weighted_f1", "balanced_accuracy")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds (0 for one seed)."""

    mean: float
    sd: float

    @staticmethod
    def of(values: list[float]) -> Spread:
        return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


@dataclass(frozen=True)
class Result:
    """One recipe over its seeds: ``scores`` by name, ``recall`` by class, all 0..1."""

    recipe: str
    seeds: int
    scores: dict[str, Spread]
    recall: dict[str, Spread]


def edge_fer(*arguments: str) -> None:
    """Run a command of ours; its output goes where ours does.

    Raises:
        SystemExit: it failed, with its own exit status.
    """
    done = subprocess.run([sys.executable, "-m", "edge_fer", *arguments])
    if done.returncode:
        raise SystemExit(done.returncode)


def trained(recipe: str, seed: int, options: argparse.Namespace) -> Evaluation:
    """Train one network with one seed, unless that is done, and evaluate it."""
    folder: Path = options.out / recipe / f"seed-{seed}"
    report = folder / "evaluation.json"
    if not report.is_file():
        settings = [part for text in (*options.set, f"seed={seed}") for part in ("--set", text)]
        edge_fer(
            "train", "--recipe", recipe, "--data", str(options.data), "--out", str(folder), "--device", options.device,
            *settings,
        )  # fmt: skip
        best = folder / "best.safetensors"
        edge_fer("eval", str(best), "--data", str(options.data), "--split", options.split, "--json", str(report))
    return read_json(report)


def spread(recipe: str, found: list[Evaluation]) -> Result:
    classes = found[0].class_names
    return Result(
        recipe,
        len(found),
        {name: Spread.of([getattr(one, name) for one in found]) for name in SCORES},
        {name: Spread.of([one.per_class[name].recall for one in found]) for name in classes},
    )


def table(results: list[Result], data: str) -> str:
    """A Markdown page."""

    def percent(value: Spread) -> str:
        return f"{100 * value.mean:.2f} ± {100 * value.sd:.2f}"

    classes = list(results[0].recall)
    lines = [
        "# Ablation",
        "",
        f"{data}; percent, mean ± standard deviation over seeds. Top-1, macro-F1, then the recall of each class.",
        "",
        "![Recall of each class](ablation.png)",
        "",
        "| recipe | seeds | top-1 | macro-F1 | " + " | ".join(classes) + " |",
        "|---|--:|" + "--:|" * (2 + len(classes)),
    ]
    for one in results:
        scores = [percent(one.scores["top1"]), percent(one.scores["macro_f1"])]
        recalls = [percent(one.recall[name]) for name in classes]
        lines.append(f"| `{one.recipe}` | {one.seeds} | " + " | ".join([*scores, *recalls]) + " |")
    return "\n".join(lines) + "\n"


def draw(results: list[Result], path: Path) -> None:
    """Bars of each class's recall, one per recipe, with the standard deviation over seeds."""
    classes = list(results[0].recall)
    figure, axes = pyplot.subplots(figsize=(10, 4.5), layout="constrained")
    width = 0.8 / len(results)
    for number, one in enumerate(results):
        places = [i + (number - (len(results) - 1) / 2) * width for i in range(len(classes))]
        heights = [100 * one.recall[name].mean for name in classes]
        whiskers = [100 * one.recall[name].sd for name in classes]
        axes.bar(places, heights, width, yerr=whiskers, capsize=2, label=one.recipe, error_kw={"linewidth": 1})
    axes.set_xticks(range(len(classes)), classes)
    axes.set_ylabel("recall, % (whiskers: standard deviation over seeds)")
    axes.set_ylim(0, 100)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(results), loc="upper center", bbox_to_anchor=(0.5, 1.12))
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test", help="what is evaluated; training uses the recipe's own split")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every recipe; repeatable")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    results = [spread(r, [trained(r, seed, options) for seed in range(options.seeds)]) for r in options.recipes]
    draw(results, options.out / "ablation.png")
    page = table(results, f"{options.data.name}/{options.split}")
    with atomic_file(options.out / "ablation.md") as temporary:
        temporary.write_text(page, encoding="utf-8")
    record = {"edge_fer": __version__, "set": options.set, "results": [asdict(one) for one in results]}
    with atomic_file(options.out / "ablation.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
