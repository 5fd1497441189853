"""The report: a JSON file that reads back as it was, and a picture drawn from it for any number of classes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from edge_fer.core.errors import BadInputError
from edge_fer.core.labels import EMOTIONS
from edge_fer.evaluate.metrics import compute_metrics
from edge_fer.evaluate.predict import softmax
from edge_fer.evaluate.report import Evaluation, draw, headline, read_json, write_json, write_png


def evaluation(names: tuple[str, ...] = EMOTIONS, n: int = 200, sharpness: float = 2.0) -> Evaluation:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(names), n)
    logits = rng.normal(size=(n, len(names))) + sharpness * np.eye(len(names))[labels]
    return Evaluation(
        **compute_metrics(labels, softmax(logits), names, resamples=50).model_dump(),
        edge_fer_version="0",
        model="model",
        source="bundle",
        backend="onnxruntime",
        backend_version="1",
        precision="int8",
        device="CPU",
        data="faces",
    )


def test_the_file_reads_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, evaluation())
    assert read_json(path) == evaluation()
    assert {"n", "top1", "macro_f1", "per_class", "confusion", "model", "backend", "precision"} <= set(
        json.loads(path.read_text())
    )


@pytest.mark.parametrize("content", ["", "{}", '{"kind": "edge-fer-bench"}', "[1]"])
def test_another_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(BadInputError, match=r"other\.json"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    "result",
    [
        evaluation(),
        evaluation(("calm", "tense")),
        evaluation(tuple(f"class {k}" for k in range(12))),
        evaluation(n=1),
        evaluation(sharpness=50.0),
    ],
    ids=["seven classes", "two classes", "twelve classes", "one sample", "always right"],
)
def test_the_picture_shows_the_confusion_in_full(result: Evaluation, tmp_path: Path) -> None:
    figure = draw(result)
    confusion = figure.axes[0]
    shown = [text.get_text() for text in confusion.texts]
    for row in result.confusion:
        for count in row:
            assert f"{count:,}" in shown
    assert [tick.get_text() for tick in confusion.get_xticklabels()] == list(result.class_names)
    path = tmp_path / "report.png"
    write_png(path, result)
    image = cv2.imread(str(path))
    assert image is not None
    assert (image != 255).any(axis=2).mean() > 0.05


def test_no_text_of_the_picture_is_cut_off() -> None:
    figure = draw(evaluation())
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.bbox.size
    for axes in figure.axes:
        for text in (*axes.texts, axes.title, axes._left_title, *axes.get_yticklabels(), *axes.get_xticklabels()):
            box = text.get_window_extent(renderer)
            if text.get_text().strip():
                assert box.x0 >= 0, text
                assert box.x1 <= width, text
                assert box.y0 >= 0, text
                assert box.y1 <= height, text


def test_the_headline_says_what_people_quote() -> None:
    result = evaluation()
    values = dict(headline(result))
    low, high = result.top1_interval
    assert values[f"top-1 (95 %: {100 * low:.1f} to {100 * high:.1f})"] == f"{100 * result.top1:.1f} %"
    assert values["macro-F1"] == f"{result.macro_f1:.3f}"


def test_matplotlib_is_loaded_only_to_draw_and_its_absence_is_told() -> None:
    code = (
        "import sys\n"
        "import edge_fer.evaluate.report as report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None\n"
        "from edge_fer.core.errors import MissingDependencyError\n"
        "try:\n    report.draw(None)\n"
        "except MissingDependencyError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "edge-fer[report]" in done.stdout
