"""``edge-fer explain``: pictures, folders and mistakes; the check stands wherever the heat is shown."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_networks import Corner, contract
from typer.testing import CliRunner

from edge_fer.backends.face_detector import open_face_detector
from edge_fer.cli.main import app
from edge_fer.cli.run import DEMO
from edge_fer.core.errors import BadInputError, CheckpointError, EdgeFerError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.data.class_folders import read_image
from edge_fer.evaluate.explain import Faces, as_pictures, explain, find_faces, spread
from edge_fer.evaluate.explain_figures import draw_explanation, draw_feature_maps, verdict
from edge_fer.evaluate.grad_cam import Explainer


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["explain", *arguments])
    if isinstance(done.exception, EdgeFerError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of the demo, and a wall."""
    folder = tmp_path_factory.mktemp("photos")
    capture = cv2.VideoCapture(str(DEMO))
    for name in ("a.png", "b.jpg"):
        cv2.imwrite(str(folder / name), capture.read()[1])
    capture.release()
    cv2.imwrite(str(folder / "wall.png"), np.full((200, 200), 90, np.uint8))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("data")
    for name in EMOTIONS:
        (root / name).mkdir()
        for i in range(3):
            cv2.imwrite(str(root / name / f"{i}.png"), rng.integers(0, 255, (48, 48), dtype=np.uint8))
    return root


def test_the_faces_of_a_folder_are_found_explained_and_checked(photos: Path, tmp_path: Path) -> None:
    shown = run(str(photos), "--detector", "haar", "--out", str(tmp_path))
    record = json.loads((tmp_path / "explanation.json").read_text())
    assert record["kind"] == "edge-fer-explanation"
    assert [face["id"] for face in record["faces"]] == ["a.png", "b.jpg"]
    assert "wall.png" in shown
    assert {face["predicted"] for face in record["faces"]} == {"happy"}
    assert record["check"]["faces"] == 2
    assert record["check"]["elsewhere"]["holds"] == record["check"]["holds"]
    assert [stage["shape"][0] for stage in record["stages"]] == [32, 64, 160, 320]
    assert all(len(channels) == 4 for face in record["faces"] for channels in face["channels"])
    for word in ("Holds" if record["check"]["holds"] else "DOES NOT HOLD", "deleting what the map marks"):
        assert word in " ".join(shown.split())
    for name in ("explanation.png", "feature-maps.png"):
        image = cv2.imread(str(tmp_path / name))
        assert image is not None
        assert image.std() > 20


def test_a_photograph_of_many_megapixels_has_its_face_where_the_small_one_has_it(photos: Path) -> None:
    """The project's detector takes pictures up to 4096 pixels wide; cameras make larger ones."""
    small = read_image(photos / "a.png")
    large = np.repeat(np.repeat(small, 6, axis=0), 6, axis=1)
    detector = open_face_detector("edge-fer-face", min_face_px=24)
    try:
        (at_small, _), (at_large, _) = find_faces(small, detector), find_faces(large, detector)
    finally:
        detector.close()
    assert large.shape[1] > 4096
    assert len(at_large) == len(at_small) == 1
    side = at_small[0, 2] - at_small[0, 0]
    np.testing.assert_allclose(at_large[0] / 6, at_small[0], atol=0.15 * side)


def test_mistakes_of_a_dataset_come_surest_first(dataset: Path, tmp_path: Path) -> None:
    run("--data", str(dataset), "--mistakes", "--limit", "5", "--check", "9", "--out", str(tmp_path))
    record = json.loads((tmp_path / "explanation.json").read_text())
    faces = record["faces"]
    assert len(faces) == 5
    assert all(face["predicted"] != face["label"] for face in faces)
    sure = [max(face["scores"].values()) for face in faces]
    assert sure == sorted(sure, reverse=True)
    assert record["checked"].startswith("9 of ")
    assert record["check"]["faces"] + record["check"]["without_heat"] == 9
    assert str(dataset) not in json.dumps(record), "a report tells nothing about the machine's folders"


def test_a_dataset_is_gone_through_evenly_and_a_class_can_be_named(dataset: Path, tmp_path: Path) -> None:
    arguments = ("--limit", "7", "--check", "8", "--class", "happiness", "--layer", "stages.1", "--out", str(tmp_path))
    run("--data", str(dataset), *arguments)
    record = json.loads((tmp_path / "explanation.json").read_text())
    assert record["layer"] == "stages.1"
    assert {face["explained"] for face in record["faces"]} == {"happy"}
    assert {face["label"] for face in record["faces"]} == set(EMOTIONS)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((), UsageError, "what to explain"),
        (("face.png", "--data", "."), UsageError, "either"),
        (("face.png", "--mistakes"), UsageError, "--mistakes"),
        (("face.png", "--layer", "nowhere"), UsageError, "no layer"),
        (("face.png", "--class", "joyful"), UsageError, "joyful"),
        (("face.png", "--model", "none.safetensors"), CheckpointError, r"none\.safetensors"),
        (("face.png", "--detector", "haar"), BadInputError, r"face\.png"),
    ],
)
def test_what_cannot_be_done_is_told(
    arguments: tuple[str, ...], error: type[EdgeFerError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        run(*arguments, "--out", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_wall_has_no_face_and_the_way_out_is_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no face in wall\.png") as caught:
        run(str(photos / "wall.png"), "--detector", "haar", "--out", str(tmp_path))
    assert "--detector none" in caught.value.fix
    run(str(photos / "wall.png"), "--detector", "none", "--out", str(tmp_path))


def corner_faces(n: int) -> Faces:
    inputs = np.random.default_rng(0).uniform(0, 0.1, (n, 1, 8, 8)).astype(np.float32)
    inputs[:, :, :4, :4] += 0.8
    return Faces(tuple(f"face {i}" for i in range(n)), inputs, np.full(n, -1, np.int64))


@pytest.mark.parametrize("n", [1, 4, 5, 12])
def test_the_verdict_is_in_the_picture_whatever_it_is(n: int) -> None:
    """The map of this network says nothing about the class "sad", which is the absence of light."""
    explainer, faces = Explainer(Corner(), contract()), corner_faces(n)
    for explained_class in (0, 1):
        explanation, pictures = explain(explainer, faces, faces, source="test", explained_class=explained_class)
        figure = draw_explanation(explanation, pictures)
        texts = [text.get_text() for text in figure.texts]
        outcome = verdict(explanation).partition(": ")[0]
        assert outcome in texts
        if explained_class == 1:
            assert explanation.check is None
            assert outcome == "NOT CHECKED"
            assert not any(face.evidence for face in explanation.faces)
        first, second = draw_feature_maps(explanation, pictures).axes
        assert first.get_images()[0].get_array().shape[0] == 120 * min(n, 8), "a row for each face, of the first eight"
        assert second.get_title(loc="left") == "conv\n1 x 8 x 8"


def test_a_network_s_input_is_shown_as_the_picture_that_it_was() -> None:
    from edge_fer.core.spec import PreprocessSpec
    from edge_fer.runtime.preprocess import face_pixels, normalise_into

    spec = PreprocessSpec(size_hw=(8, 8), colour="rgb", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    bgr = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    inputs = np.empty((1, 3, 8, 8), np.float32)
    normalise_into(inputs[0], face_pixels(bgr, spec), spec)
    np.testing.assert_array_equal(as_pictures(inputs, spec)[0], bgr[..., ::-1])


@pytest.mark.parametrize(("count", "wanted"), [(1, 5), (5, 5), (100, 7), (3, 1)])
def test_indices_are_spread_over_all(count: int, wanted: int) -> None:
    found = spread(count, wanted)
    assert len(found) == min(count, wanted)
    assert found[0] == 0
    assert found[-1] == (count - 1 if wanted > 1 else 0)


@pytest.mark.slow
def test_on_real_faces_the_default_networks_maps_hold(fer2013: Path, tmp_path: Path) -> None:
    run("--data", str(fer2013), "--split", "test", "--limit", "4", "--check", "60", "--out", str(tmp_path))
    check = json.loads((tmp_path / "explanation.json").read_text())["check"]
    assert check["holds"]
    assert check["elsewhere"]["gain"] > 10
    assert check["others"]["gain"] > 1
