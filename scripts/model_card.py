"""Write the default model's card from what was measured: no figure in it is typed by hand.

    python scripts/model_card.py --run runs/compact --counts 27008 1701 --fp32 FP32.json --int8 INT8.json --out CARD.md

``--run`` is the folder of `edge-fer train` (recipe.yaml, log.csv); ``--counts`` are the images that it trained on and
held out, as it prints them; the JSON files are what `edge-fer eval --json` writes.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from edge_fer.core.bundle import find_bundle, open_bundle
from edge_fer.core.files import atomic_file
from edge_fer.evaluate.report import Evaluation, read_json
from edge_fer.train.recipe import Recipe, load_recipe

TEMPLATE = Path(__file__).with_name("model_card_template.md")


def line(name: str, e: Evaluation) -> str:
    low, high = e.top1_interval
    auc = "" if e.macro_auc is None else f"{e.macro_auc:.3f}"
    clean = "not audited" if e.deduplicated is None else f"{e.deduplicated.metrics.top1:.2%}"
    return (
        f"| {name} ({e.backend} {e.backend_version}) | {e.top1:.2%} | {low:.1%} to {high:.1%} | {clean} | "
        f"{e.macro_f1:.3f} | {e.balanced_accuracy:.1%} | {auc} | {e.ece:.1%} |"
    )


def card(recipe: Recipe, log: list[dict[str, str]], counts: tuple[int, int], fp32: Evaluation, int8: Evaluation) -> str:
    manifest = open_bundle(find_bundle(recipe.model.name)).manifest
    record = manifest.calibration
    gate = manifest.gate
    calibration = "The bundle has no int8 form."
    if record is not None:
        calibration = (
            f"int8 ranges: {record.method} over {record.samples} faces of {record.source}, weights per channel, "
            "activations per tensor; bias in 32 bits where the runtime fuses it."
        )
    if gate is not None and gate.drop is not None and gate.drop_interval is not None:
        low, high = gate.drop_interval
        calibration += (
            f" Worst drop of top-1 against fp32 on any backend: {gate.drop:+.2f} points (95 %: {low:+.2f} to "
            f"{high:+.2f}, {gate.n} faces, paired)."
        )
    classes = [
        f"| {name} | {fp32.per_class[name].recall:.1%} | {row.recall:.1%} | {row.precision:.1%} | {row.f1:.1%} | "
        f"{row.support} |"
        for name, row in int8.per_class.items()
    ]
    audit = "The copies of training images among these faces were not looked for."
    if (clean := fp32.deduplicated) is not None and clean.leaked_top1 is not None:
        low, high = clean.metrics.top1_interval
        audit = (
            f"{clean.removed} of the faces have a near-duplicate among the training images (`edge-fer data audit`). "
            f"fp32 is right on {clean.leaked_top1:.1%} of them, and on {clean.metrics.top1:.1%} of the others (95 %: "
            f"{low:.1%} to {high:.1%}): take that for faces that the network has not seen."
        )
    spec = recipe.model.preprocess
    return TEMPLATE.read_text(encoding="utf-8").format(
        name=recipe.model.name,
        parameters=manifest.checkpoint.parameters / 1e6,
        macs=manifest.checkpoint.macs / 1e6,
        opset=manifest.opset,
        height=spec.size_hw[0],
        width=spec.size_hw[1],
        colour="grey" if spec.colour == "gray" else "RGB",
        labels=", ".join(recipe.model.labels),
        train=f"{counts[0]:,}",
        held=f"{counts[1]:,}",
        n=f"{int8.n:,}",
        epochs=recipe.epochs,
        hours=sum(float(row["seconds"]) for row in log) / 3600,
        final=float(log[-1]["val_top1"]),
        best=max(float(row["val_top1"]) for row in log),
        rows="\n".join([line("fp32", fp32), line("int8", int8)]),
        classes="\n".join(classes),
        calibration=calibration,
        audit=audit,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs=2, required=True, metavar=("TRAINED_ON", "HELD_OUT"))
    parser.add_argument("--fp32", type=Path, required=True)
    parser.add_argument("--int8", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    recipe = load_recipe(str(given.run / "recipe.yaml"))
    with (given.run / "log.csv").open(encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    text = card(recipe, log, tuple(given.counts), read_json(given.fp32), read_json(given.int8))
    with atomic_file(given.out) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
