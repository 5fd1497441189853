"""The page of an evaluation: all figures, nothing from elsewhere, no markup out of names."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_fer.core.labels import EMOTIONS
from edge_fer.data.samples import Samples
from edge_fer.evaluate.compare import compare
from edge_fer.evaluate.mistakes import MOST, worst_mistakes, write_mistakes
from edge_fer.evaluate.predict import softmax
from edge_fer.evaluate.report import Comparison, Evaluation, as_png, draw, write_json
from edge_fer.evaluate.report_html import OVERALL, figure_of, to_html, write_html
from edge_fer.evaluate.score import score

sys.path.append(str(Path(__file__).resolve().parents[1] / "runtime"))
from browser import find_browser, open_tab

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 7, 150)


def predicted(sharpness: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    return softmax(rng.normal(size=(150, 7)) + sharpness * np.eye(7)[LABELS])


def evaluation(scores: np.ndarray, model: str = "model", *, leaked: bool = False) -> Evaluation:
    mask = np.arange(150) < 30 if leaked else None
    found = score(LABELS, scores, EMOTIONS, leaked=mask)
    return Evaluation(
        **found.metrics.model_dump(), edge_fer_version="0", model=model, source="s", backend="torch",
        backend_version="2", precision="fp32", device="CPU", data="faces", curves=found.curves,
        deduplicated=found.deduplicated,
    )  # fmt: skip


class Seen(HTMLParser):
    """What a page holds: texts, and everything that it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.cells: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_one_model_is_told_in_full() -> None:
    one = evaluation(predicted(2.0), leaked=True)
    seen = Seen(to_html(one, {one.model: as_png(one)}, {}))
    for heading, key, as_percent in OVERALL:
        assert heading in seen.cells
        assert figure_of(getattr(one, key), as_percent, one.intervals.get(key)) in seen.cells
    assert {"top-1 without near-duplicates", "30"} <= set(seen.cells)
    for row in one.confusion:
        assert all(str(count) in seen.cells for count in row)
    assert seen.fetched
    assert all(value.startswith("data:image/png;base64,") for value in seen.fetched)
    assert "script" not in seen.tags


def test_several_models_are_compared() -> None:
    scores = {"first": predicted(1.0), "second": predicted(3.0)}
    models = {name: evaluation(rows, name) for name, rows in scores.items()}
    result = Comparison(models=models, comparisons=compare(LABELS, scores))
    seen = Seen(to_html(result, {"first": b"1", "second": b"2"}, {"second": b"png"}))
    assert "Against first" in seen.cells
    assert "better" in seen.cells
    assert "Its surest mistakes" in seen.cells
    assert len(seen.fetched) == 3


@pytest.mark.slow
def test_a_comparison_fits_a_laptop_s_screen(tmp_path: Path) -> None:
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium is installed")
    scores = {f"edge-fer-compact {name}": predicted(1.0 + k) for k, name in enumerate(("fp32", "bf16", "int8"))}
    models = {name: evaluation(rows, name) for name, rows in scores.items()}
    result = Comparison(models=models, comparisons=compare(LABELS, scores))
    write_html(tmp_path / "r.html", result, dict.fromkeys(models, b""), {})
    with open_tab(browser, tmp_path / "profile") as tab:
        tab.call("Emulation.setDeviceMetricsOverride", width=1280, height=800, deviceScaleFactor=1, mobile=False)
        tab.open((tmp_path / "r.html").as_uri())
        wide = tab.value("[...document.querySelectorAll('.wide')].map(box => box.scrollWidth - box.clientWidth)")
    assert wide == [0] * len(wide) != []


def test_names_are_text_and_never_markup() -> None:
    bad = '<script>alert("x")</script>'
    one = evaluation(predicted(1.0)).model_copy(update={"data": bad, "model": bad, "device": bad, "backend": bad})
    text = to_html(one, {bad: b""}, {})
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_the_files_are_whole(tmp_path: Path) -> None:
    one = evaluation(predicted(2.0))
    write_html(tmp_path / "r.html", one, {one.model: b""}, {})
    assert (tmp_path / "r.html").read_text().endswith("</html>\n")
    write_json(tmp_path / "r.json", Comparison(models={"a": one}, comparisons=()))
    assert Comparison.model_validate_json((tmp_path / "r.json").read_text()).models["a"] == one
    assert not re.search(r"\bNaN\b", (tmp_path / "r.json").read_text())


def test_the_page_of_figures_has_curves_and_intervals_when_they_were_measured() -> None:
    titles = {axes.get_title(loc="left") for axes in draw(evaluation(predicted(2.0))).axes}
    assert {
        "Confusion",
        "Per class",
        "Reliability",
        "Confidence",
        "Precision and recall",
        "How sure these are",
    } == titles


@pytest.mark.parametrize("colour", [False, True])
def test_the_surest_mistakes_are_drawn_and_counted(tmp_path: Path, colour: bool) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (150, 20, 20, 3) if colour else (150, 20, 20), dtype=np.uint8)
    read: list[int] = []

    def image(index: int) -> np.ndarray:
        read.append(index)
        return images[index]

    scores = predicted(0.5)
    samples = Samples(tuple(map(str, range(150))), LABELS, EMOTIONS, image, "made by the test")
    count = write_mistakes(tmp_path / "m.png", samples, LABELS, scores, EMOTIONS)
    wrong = worst_mistakes(scores, LABELS)
    assert count == len(wrong) == int((scores.argmax(axis=1) != LABELS).sum())
    assert read == wrong[:MOST].tolist()
    drawn = cv2.imread(str(tmp_path / "m.png"))
    assert drawn is not None
    assert drawn.std() > 20


def test_no_mistake_is_no_picture(tmp_path: Path) -> None:
    samples = Samples(("a",), np.array([0]), EMOTIONS, lambda i: np.zeros((8, 8), np.uint8), "made by the test")
    scores = np.eye(7)[[0]]
    assert write_mistakes(tmp_path / "m.png", samples, np.array([0]), scores, EMOTIONS) == 0
    assert not (tmp_path / "m.png").exists()
