"""benchmarks/ablation.py from training to table: two seeds of a tiny network, repeated without training again."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_fer.core.labels import EMOTIONS

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "ablation.py"


@pytest.mark.slow
def test_means_and_deviations_are_those_of_the_seeds_evaluations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data, out = tmp_path / "data", tmp_path / "out"
    for split in ("train", "test"):
        for name in EMOTIONS:
            (data / split / name).mkdir(parents=True)
            for i in range(4):
                picture = rng.integers(0, 255, (48, 48), dtype=np.uint8)
                cv2.imwrite(str(data / split / name / f"{i}.png"), picture)
    settings = ("epochs=1", "batch_size=7", "sizes=[]", "holdout_fraction=0.3", "model_options.widths=[8, 8, 8, 8]")
    order = [
        sys.executable,
        str(SCRIPT),
        "--data",
        str(data),
        "--out",
        str(out),
        "--recipes",
        "compact",
        "--seeds",
        "2",
    ]
    order += [part for text in settings for part in ("--set", text)]
    done = subprocess.run(order, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seeds = [json.loads((out / "compact" / f"seed-{i}" / "evaluation.json").read_text()) for i in range(2)]
    (result,) = json.loads((out / "ablation.json").read_text())["results"]
    top1 = [one["top1"] for one in seeds]
    assert result["scores"]["top1"] == {
        "mean": pytest.approx(statistics.mean(top1)),
        "sd": pytest.approx(statistics.stdev(top1)),
    }
    assert f"{100 * statistics.mean(top1):.2f} ± {100 * statistics.stdev(top1):.2f}" in done.stdout
    assert cv2.imread(str(out / "ablation.png")) is not None
    again = subprocess.run(order, capture_output=True, text=True)
    assert again.returncode == 0
    assert "epoch" not in again.stdout, "a finished seed is not trained again"
