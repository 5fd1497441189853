"""``edge-fer calibrate`` shows what int8 would be calibrated on, and refuses what it must not be."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_fer.cli.main import app
from edge_fer.core.errors import CalibrationError
from edge_fer.core.labels import EMOTIONS


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in EMOTIONS:
        (tmp_path / "faces" / name).mkdir(parents=True)
        for index in range(12):
            image = cv2.GaussianBlur(rng.integers(0, 255, (48, 48), dtype=np.uint8), (0, 0), 2)
            image = cv2.normalize(image, None, 20, 230, cv2.NORM_MINMAX)
            cv2.imwrite(str(tmp_path / "faces" / name / f"{index}.png"), image)
    return tmp_path / "faces"


def test_a_good_set_is_counted_listed_and_drawn(faces: Path, tmp_path: Path) -> None:
    sheet, ids = tmp_path / "sheet.png", tmp_path / "ids.txt"
    done = CliRunner().invoke(app, ["calibrate", str(faces), "--sheet", str(sheet), "--ids", str(ids)])
    assert done.exit_code == 0, done.output
    assert "84 faces" in done.output.replace("\n", " ")
    for name in EMOTIONS:
        assert name in done.output
    assert sum(name in ids.read_text() for name in EMOTIONS) == 7
    image = cv2.imread(str(sheet))
    assert image is not None
    assert image.shape[0] > 200


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        ("empty", "holds no images"),
        ("black", "is black"),
        ("small", "is only 8x8 pixels"),
        ("one class", "has 3 usable images, all of them happy"),
    ],
)
def test_a_set_that_would_lie_is_refused_by_name(faces: Path, tmp_path: Path, make: str, finding: str) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    if make == "black":
        for index in range(50):
            cv2.imwrite(str(folder / f"{index}.png"), np.full((48, 48), index % 8, np.uint8))
    elif make == "small":
        for path in faces.glob("*/*.png"):
            image = cv2.resize(cv2.imread(str(path)), (8, 8))
            cv2.imwrite(str(folder / f"{path.parent.name}-{path.name}"), image)
    elif make == "one class":
        (faces / "happy").rename(folder / "happy")
        for path in sorted((folder / "happy").iterdir())[3:]:
            path.unlink()
    done = CliRunner().invoke(app, ["calibrate", str(folder)])
    assert isinstance(done.exception, CalibrationError), done.output
    assert done.exception.exit_code == 3
    assert finding in str(done.exception)


def test_what_comes_next_can_be_copied_when_the_folder_has_a_space(faces: Path, tmp_path: Path) -> None:
    moved = faces.rename(tmp_path / "my faces")
    done = CliRunner().invoke(app, ["calibrate", str(moved)], env={"COLUMNS": "400"})
    assert done.exit_code == 0, done.output
    assert f"--calibration '{moved}'" in done.output
