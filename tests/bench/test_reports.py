"""Tables, page and pictures from one result, made by hand: what they show, and that nothing is fetched or injected."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import pytest
from made_results import CAMERA, outcome, result
from typer.testing import CliRunner

from edge_fer.bench.conditions import Disturbance
from edge_fer.bench.html import to_html
from edge_fer.bench.markdown import to_markdown
from edge_fer.bench.publish import page_links, publish
from edge_fer.bench.report import HEADINGS, notes, row, used_columns, write_csv
from edge_fer.bench.results import BenchResult, write_json
from edge_fer.bench.roofline import ModelledBound
from edge_fer.cli.main import app

BOUND = ModelledBound(
    profile="mx250", device="GeForce MX250 (25 W)", model="m", precision="int8", batch=1, gmac=1.8, bound_ms=0.8,
    memory_share=0.28,
)  # fmt: skip


@pytest.fixture
def full() -> BenchResult:
    made = result(
        outcome("torch", "fp32", [400.0] * 3, [402.0] * 3, top1=0.69),
        outcome("onnxruntime", "fp32", [300.0] * 3, [301.0] * 3, top1=0.69),
        outcome("openvino", "int8", [50.0] * 3, [64.0] * 3, top1=0.691),
        outcome("benchmark-app", "int8", [40.0] * 3, [40.0] * 3),
        outcome("openvino", "bf16", error="crashed | <script>alert(1)</script>"),
    )
    return made.model_copy(update={"camera": CAMERA, "bounds": (BOUND,)})


def test_markdown_has_a_table_that_cannot_be_broken_by_a_sentence(full: BenchResult) -> None:
    text = to_markdown(full)
    table = [line for line in text.partition("## Every case")[2].splitlines() if line.startswith("|")]
    cells = table[0].count("|")
    assert all(line.count("|") == cells for line in table[: 2 + len(full.cases)])
    assert "| m | OpenVINO int8 | ~0.057" in text
    assert "7.1x (6.3-8.0)" in text
    assert "with their range over" in text, "three rounds are not enough for 95 %"
    assert "Failed: m, OpenVINO bf16: crashed" in text
    assert "## Camera to label" in text
    assert "- Copies of a frame with faces: 0.00." in text
    assert "Burst 30.0 labelled frames a second, sustained 23.5" in text
    assert "≥ 0.80" in text
    assert "modelled bound" in text


def test_the_overview_has_a_row_a_model_with_its_fastest_in_bold(full: BenchResult) -> None:
    text = to_markdown(full)
    assert "| model | torch fp32 | ORT fp32 | OpenVINO int8 | OpenVINO bf16 |" in text
    assert "| m | 0.40 | 0.30 (1.3 / 1.0) | **~0.06 (7.1 / 5.4)** | failed |" in text


def test_a_disturbed_result_says_so_before_anything_else(full: BenchResult) -> None:
    disturbed = full.model_copy(update={"disturbance": Disturbance(others=0.4, stolen=0.02)})
    assert to_markdown(disturbed).startswith("> Disturbed: other programs took 40% of the processor")
    assert '<p class="warning">Disturbed' in to_html(disturbed)
    assert "Disturbed" not in to_markdown(full)


def test_untrained_weights_and_few_calls_are_marked_in_their_cells() -> None:
    made = result(outcome("torch", "fp32", [400.0] * 3))
    (case,) = made.cases
    assert "(0.400)" in row(case)
    assert "untrained" in row(case.model_copy(update={"untrained": True}))


def test_what_is_the_same_for_every_case_takes_no_column() -> None:
    cases = result(outcome("torch", "fp32", [400.0] * 3), outcome("onnxruntime", "fp32", [300.0] * 3)).cases
    alike = [case.model_copy(update={"clock_mhz": 2600.0}) for case in cases]
    assert "MHz" not in [column.heading for column in used_columns(alike)]
    slower = [alike[0], alike[1].model_copy(update={"clock_mhz": 1800.0})]
    assert "MHz" in [column.heading for column in used_columns(slower)]


def test_a_long_tail_is_noise_even_when_the_rounds_agree() -> None:
    steady, jumpy = [100.0] * 20, [100.0] * 17 + [180.0] * 3
    assert not result(outcome("torch", "fp32", steady, steady)).cases[0].noisy
    assert result(outcome("torch", "fp32", jumpy, jumpy)).cases[0].noisy


def test_the_notes_say_what_our_call_adds(full: BenchResult) -> None:
    # Round by round 25 and 60 % more than 40 µs; below 2 ms the bar is 20 µs.
    assert any("m OpenVINO int8 +40.4% (+25.0% to +60.0%), +16 µs, within the bar" in note for note in notes(full))
    ours, app = full.cases[2:4]
    for ratio, ends, verdict in (
        (0.6, (0.5, 0.9), "on both sides of"),
        (0.6, (0.5, 0.65), "beyond"),
        (1.1, (0.5, 1.2), "within"),
    ):
        told = ours.model_copy(update={"speedup_benchmark_app": ratio, "speedup_benchmark_app_interval": ends})
        changed = full.model_copy(update={"cases": (told, app)})
        assert any(f", {verdict} the bar" in note for note in notes(changed)), verdict
    assert any("45 °C before" in note for note in notes(full))
    assert any("Taking a time costs 0.10 µs a call, 0.25% of the fastest median." in note for note in notes(full))


def test_a_failed_case_shows_a_dash_and_nothing_else(full: BenchResult) -> None:
    assert [cell for cell in row(full.cases[-1])[2:] if cell] == ["-"]


def test_csv_has_every_column_as_a_plain_value(tmp_path: Path, full: BenchResult) -> None:
    write_csv(tmp_path / "t.csv", full)
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(HEADINGS) < set(rows[0])
    assert float(rows[2]["p50 ms"]) == pytest.approx(0.057)
    assert rows[2]["noisy"] == "1"
    assert float(rows[2]["vs torch low"]) <= float(rows[2]["vs torch"]) <= float(rows[2]["vs torch high"])
    assert rows[4]["p50 ms"] == ""
    assert rows[4]["error"].startswith("crashed")


class Page(HTMLParser):
    """Counts tags and collects every address that the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "poster")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_fetches_nothing_and_runs_only_our_script(full: BenchResult) -> None:
    text = to_html(full, [("Latency", "scatter.png")])
    page = Page()
    page.feed(text)
    assert not page.open
    assert page.scripts == 1
    assert page.addresses == ["scatter.png"]
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    assert 'data-value="0.057' in text
    assert 'class="failed"' in text
    assert 'class="front"' in text


def test_a_folder_gets_every_form_and_pictures_that_are_pictures(tmp_path: Path, full: BenchResult) -> None:
    pytest.importorskip("matplotlib")
    pictures, missing = publish(tmp_path / "out", full, "edge-fer bench")
    assert not missing
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert CAMERA.seconds < 60, "too short for a picture over time"
    assert names == {"result.json", "table.md", "table.csv", "index.html", "scatter.png", "stages.png"}
    for _, name in pictures:
        image = cv2.imread(str(tmp_path / "out" / name))
        assert image is not None
        assert image.std() > 10
    links = page_links(pictures, tmp_path / "out", tmp_path / "docs" / "RESULTS.md")
    assert links[0][1] == "../out/scatter.png"


def test_many_networks_and_long_runs_have_pictures_of_their_own(tmp_path: Path, full: BenchResult) -> None:
    pytest.importorskip("matplotlib")
    other = [
        outcome("torch", "fp32", [9000.0] * 3, model="large"),
        outcome("openvino", "int8", [800.0] * 3, model="large"),
    ]
    cases = (*full.cases, *result(*other).cases)
    long = CAMERA.model_copy(update={"seconds": 600.0})
    pictures, _ = publish(tmp_path, full.model_copy(update={"cases": cases, "camera": long}), "edge-fer bench")
    assert [name for _, name in pictures] == ["latency.png", "scatter.png", "stages.png", "soak.png"]
    for _, name in pictures:
        image = cv2.imread(str(tmp_path / name))
        assert image is not None
        assert image.std() > 10


def test_without_accuracy_or_camera_there_is_no_picture_of_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pictures, missing = publish(tmp_path, result(outcome("torch", "fp32", [5.0])), "edge-fer bench")
    assert (pictures, missing) == ([], [])


def test_a_result_is_rendered_again_without_measuring(tmp_path: Path, full: BenchResult) -> None:
    pytest.importorskip("matplotlib")
    write_json(tmp_path / "r.json", full.model_copy(update={"command": "edge-fer bench --rounds 3"}))
    page = tmp_path / "RESULTS.md"
    done = CliRunner().invoke(
        app,
        ["bench", "render", str(tmp_path / "r.json"), "--out", str(tmp_path / "o"), "--markdown", str(page)],
    )
    assert done.exit_code == 0, done.output
    assert "![Latency against accuracy](o/scatter.png)" in page.read_text(encoding="utf-8")
    assert "edge-fer bench --rounds 3\n" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench", "--camera", "soon"], "no duration"),
        (["bench", "--camera", "10s", "--soak", "10m"], "Only one"),
        (["bench", "--camera-fps", "30"], "needs --camera"),
        (["bench", "--device-profile", "mx9000"], "mx9000"),
        (["bench", "--submit", "nothing.json"], "nothing.json"),
        (["bench", "render", "nothing.json"], "where to"),
        (["bench", "render", "nothing.json", "--out", "x"], "nothing.json"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert says in f"{done.output} {done.exception}"
