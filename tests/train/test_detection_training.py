"""Teaching the detector: who answers for which face, what it costs, and that a run goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from older_states import leave_recipe

from edge_fer.core.errors import BadInputError, CheckpointError, UsageError
from edge_fer.core.spec import DetectorSpec
from edge_fer.data.detection.compose import Picture
from edge_fer.data.detection.labels import FaceLabels
from edge_fer.models.checkpoint import load_detector
from edge_fer.models.face_pyramid import FacePyramid
from edge_fer.runtime.detectors.places import Decoder
from edge_fer.train.detection_loop import DetectorTrainer
from edge_fer.train.detection_loss import Targets, assign, complete_iou_loss, decode, detection_loss, places
from edge_fer.train.detection_recipe import DetectionRecipe, load_detection_recipe
from edge_fer.train.recipe import load_recipe, recipe_task

SIDE = 64
SPEC = DetectorSpec(name="tiny", arch="face_pyramid", size_hw=(SIDE, SIDE))


def targets(boxes: list[list[float]], kind: list[int]) -> Targets:
    box = torch.tensor([boxes], dtype=torch.float32)
    return Targets(box, torch.zeros(1, len(boxes), 5, 2), torch.tensor([kind], dtype=torch.int8))


def test_torch_and_numpy_read_the_same_faces_from_the_same_numbers() -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=SPEC.output_shape).astype(np.float32)
    logits, boxes, landmarks = decode(torch.from_numpy(raw)[None], *places(SIDE, SIDE))
    order = np.argsort(-raw[0], kind="stable")
    found = Decoder(SPEC).decode(raw, 1e-6)
    np.testing.assert_allclose(found.scores, torch.sigmoid(logits)[0].numpy()[order], rtol=1e-5)
    np.testing.assert_allclose(found.boxes_xyxy, boxes[0].numpy()[order], atol=1e-3)
    assert found.landmarks is not None
    np.testing.assert_allclose(found.landmarks, landmarks[0].numpy()[order], atol=1e-3)


@given(x=st.floats(2, 60), y=st.floats(2, 60), side=st.floats(5, 60), seed=st.integers(0, 100))
@settings(max_examples=60)
def test_every_face_has_a_place_that_answers_for_it(x: float, y: float, side: float, seed: int) -> None:
    centres, strides = places(SIDE, SIDE)
    raw = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, *SPEC.output_shape)).astype(np.float32))
    scores, boxes, _ = decode(raw, centres, strides)
    wanted = targets([[x - side / 2, y - side / 2, x + side / 2, y + side / 2]], [1])
    owner, quality, skip = assign(scores, boxes, centres, strides, wanted)
    assert (owner == 0).any()
    assert quality[owner == 0].max() <= 1.0 + 1e-5
    assert not quality[owner < 0].any()
    assert not skip.any()


def test_padding_and_ignored_places_answer_for_nothing_and_cost_nothing() -> None:
    centres, strides = places(SIDE, SIDE)
    raw = torch.zeros(1, *SPEC.output_shape)
    raw[:, 0] = 3.0  # everything claims to be a face
    scores, boxes, _ = decode(raw, centres, strides)
    everywhere = targets([[0, 0, SIDE, SIDE], [0, 0, 0, 0]], [-1, 0])
    owner, _, skip = assign(scores, boxes, centres, strides, everywhere)
    assert (owner < 0).all()
    assert skip.all()
    loss = detection_loss(raw, everywhere, centres, strides, box_weight=1, landmark_weight=1)
    assert loss.total.item() == 0.0
    nothing = targets([[0, 0, 0, 0]], [0])
    assert detection_loss(raw, nothing, centres, strides, box_weight=1, landmark_weight=1).total.item() > 1.0


def test_unknown_landmarks_teach_nothing_and_the_face_is_taught_all_the_same() -> None:
    centres, strides = places(SIDE, SIDE)
    raw = torch.from_numpy(np.random.default_rng(1).normal(size=(1, *SPEC.output_shape)).astype(np.float32))
    known = targets([[8, 8, 40, 44]], [1])
    unknown = Targets(known.boxes, torch.full_like(known.landmarks, torch.nan), known.kind)

    def taught(wanted: Targets, weight: float) -> tuple[float, torch.Tensor]:
        answer = raw.clone().requires_grad_()
        loss = detection_loss(answer, wanted, centres, strides, box_weight=1, landmark_weight=weight)
        loss.total.backward()
        assert answer.grad is not None
        return loss.total.item(), answer.grad

    cost, way = taught(unknown, 9.0)
    without_cost, without_way = taught(known, 0.0)
    assert cost == pytest.approx(without_cost)
    torch.testing.assert_close(way, without_way)
    assert way.abs().sum() > 0


def test_boxes_that_fit_cost_nothing_and_the_cost_grows_with_the_distance() -> None:
    wanted = torch.tensor([[10.0, 10, 30, 40]])
    gaps = [float(complete_iou_loss(wanted + shift, wanted)) for shift in (0.0, 1.0, 5.0, 40.0)]
    assert gaps[0] == pytest.approx(0, abs=1e-6)
    assert gaps == sorted(gaps)
    assert gaps[-1] > 1.0


def faces_and_scenes() -> tuple[list[Picture], list[Picture]]:
    rng = np.random.default_rng(0)
    none = FaceLabels(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))
    scenes = [Picture(cv2.resize(rng.integers(0, 255, (6, 8), dtype=np.uint8), (120, 90)), none) for _ in range(24)]
    crop = np.full((96, 96), 150, np.uint8)
    for point in ((32, 40), (64, 40)):
        cv2.circle(crop, point, 9, 20, -1)
    cv2.ellipse(crop, (48, 72), (16, 5), 0, 0, 360, 20, -1)
    points = np.array([[[32, 40], [64, 40], [48, 56], [36, 72], [60, 72]]], np.float32)
    labels = FaceLabels(np.array([[12, 12, 84, 90]], np.float32), points, np.ones(1, np.float32))
    return scenes, [Picture(crop, labels)] * 24


def recipe(epochs: int) -> DetectionRecipe:
    return DetectionRecipe.model_validate(
        {
            "task": "detection",
            "model": SPEC.model_dump(),
            "model_options": {"widths": [8, 8, 12, 12], "neck": 8},
            "epochs": epochs,
            "epoch_size": 128,
            "batch_size": 16,
            "amp": "none",
            "optimizer": {"kind": "adamw", "lr": 0.005, "weight_decay": 0.0, "warmup_epochs": 0.1},
            "compose": {"size": SIDE, "face_px": [14, 40], "wild_rotation": 0, "dark": 0, "blur": 0, "noise": 0},
        }
    )


def test_a_few_epochs_lower_the_loss_and_an_interrupted_run_ends_the_same(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    scenes, faces = faces_and_scenes()

    def trainer(out: str) -> DetectorTrainer:
        return DetectorTrainer(recipe(3), scenes, faces, [], tmp_path / out, workers=0)

    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = trainer("whole")
    whole.run(lambda row: None)
    assert whole.log[-1].loss < whole.log[0].loss
    trainer("parts").run_epoch()
    second = trainer("parts")
    leave_recipe(tmp_path / "parts", without=("small_faces_certain",))  # as a version before that key left it
    assert second.resume()
    second.run(lambda row: None)
    for name, tensor in whole.ema.state_dict().items():
        torch.testing.assert_close(second.ema.state_dict()[name], tensor, msg=name)
    assert [row.loss for row in second.log] == [row.loss for row in whole.log]
    found = load_detector(tmp_path / "whole" / "last.safetensors")
    assert found.spec == SPEC
    fresh = DetectorTrainer(recipe(1), scenes, faces, [], tmp_path / "x", workers=0, init=found.model.state_dict())
    assert fresh.validate(batches=1) < whole.log[0].val_loss
    with pytest.raises(CheckpointError, match=r"belong to another network.*size mismatch"):
        wider = recipe(1).model_copy(update={"model_options": {"widths": [8, 8, 12, 12], "neck": 16}})
        DetectorTrainer(wider, scenes, faces, [], tmp_path / "y", workers=0, init=found.model.state_dict())
    with pytest.raises(CheckpointError, match="begun with other data"):
        DetectorTrainer(recipe(3), scenes[::-1], faces, [], tmp_path / "whole", workers=0).resume()
    with pytest.raises(CheckpointError, match="another recipe"):
        DetectorTrainer(recipe(4), scenes, faces, [], tmp_path / "whole", workers=0).resume()


def test_the_shipped_recipes_are_a_detectors_and_known_as_such() -> None:
    for name in ("detector", "detector-finish", "detector-polish", "detector-expressions"):
        assert recipe_task(name) == "detection"
        assert load_detection_recipe(name).model.name == "edge-fer-face"
    assert recipe_task("compact") == "classification"
    with pytest.raises(BadInputError, match="not a valid recipe"):
        load_recipe("detector")
    with pytest.raises(UsageError, match="No recipe"):
        load_detection_recipe("nobody")


def test_the_network_stays_within_its_budget() -> None:
    assert sum(p.numel() for p in FacePyramid().parameters()) == 108_869 <= 120_000
