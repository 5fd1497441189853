"""The own detector's arithmetic, on an engine that finds white rectangles, so that the right answer is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_fer.core.engine import INPUT, OUTPUT
from edge_fer.core.errors import UsageError
from edge_fer.core.faces import Faces, iou
from edge_fer.core.spec import DetectorSpec
from edge_fer.runtime.detectors.face_pyramid import SIZES_KEPT, FacePyramidDetector
from edge_fer.runtime.detectors.places import NMS_IOU, Decoder, suppress
from edge_fer.runtime.detectors.pyramid_input import picture_into

SPEC = DetectorSpec(name="white", arch="face_pyramid")


def sized(size_hw: tuple[int, int]) -> DetectorSpec:
    return SPEC.model_copy(update={"size_hw": size_hw})


def write_face(raw: NDArray[np.float32], spec: DetectorSpec, box: NDArray[np.float64], logit: float) -> None:
    """Let the place of the finest stride at the box's centre answer for it; landmarks at its corners and centre."""
    stride = spec.strides[0]
    centre = (box[:2] + box[2:]) / 2
    column, row = (np.clip(centre // stride, 0, np.array(spec.size_hw[::-1]) // stride - 1)).astype(int)
    place = row * (spec.size_hw[1] // stride) + column
    origin = (np.array([column, row]) + 0.5) * stride
    raw[0, place] = logit
    raw[1:3, place] = (centre - origin) / stride
    raw[3:5, place] = np.log((box[2:] - box[:2]) / stride)
    points = np.array([box[:2], [box[2], box[1]], centre, [box[0], box[3]], box[2:]])
    raw[5:, place] = ((points - origin) / stride).ravel()


class WhiteFinder:
    """An engine whose network finds the one white rectangle of its input, to a fraction of a pixel."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self.manifest = SimpleNamespace(detector=sized(size_hw))
        self.input = np.zeros((1, 1, *size_hw), np.float32)
        self.output = np.zeros((1, *self.manifest.detector.output_shape), np.float32)
        self.closed = False

    @property
    def slots(self) -> Sequence[WhiteFinder]:
        return (self,)

    @property
    def inputs(self) -> Mapping[str, NDArray[np.float32]]:
        return {INPUT: self.input}

    @property
    def outputs(self) -> Mapping[str, NDArray[np.float32]]:
        return {OUTPUT: self.output}

    def submit(self, slot: WhiteFinder, n: int) -> None:
        spec = self.manifest.detector
        self.output[:] = -9.0
        light = (self.input[0, 0] * spec.std + spec.mean).clip(0, 1) * (self.input[0, 0] > 0.1)
        if light.max() < 0.3:
            return
        rows, columns = light.max(axis=1), light.max(axis=0)
        top, left = np.flatnonzero(rows > 0.05)[0], np.flatnonzero(columns > 0.05)[0]
        box = np.array([left, top, left + columns.sum(), top + rows.sum()], np.float64)
        write_face(self.output[0], spec, box, 4.0)

    def wait(self, slot: WhiteFinder) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def white(height: int, width: int, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


@given(
    size=st.sampled_from([(32, 32), (96, 96), (64, 160), (320, 320)]),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    w=st.floats(9, 300),
    h=st.floats(9, 300),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_for_a_place_is_what_decoding_reads(
    size: tuple[int, int], x: float, y: float, w: float, h: float
) -> None:
    spec = sized(size)
    raw = np.full(spec.output_shape, -9.0, np.float32)
    centre = np.array([x * size[1], y * size[0]])
    half = np.array([w / 2, h / 2])
    box = np.concatenate([centre - half, centre + half])
    write_face(raw, spec, box, 2.0)
    faces = Decoder(spec).decode(raw, 0.5)
    np.testing.assert_allclose(faces.boxes_xyxy, box[None], atol=0.05)
    np.testing.assert_allclose(faces.scores, [1 / (1 + np.exp(-2.0))], rtol=1e-5)
    assert faces.landmarks is not None
    np.testing.assert_allclose(faces.landmarks[0, 2], centre, atol=0.05)
    np.testing.assert_allclose(faces.landmarks[0, 4], box[2:], atol=0.05)


def test_places_run_over_the_fine_grid_first() -> None:
    spec = sized((64, 96))
    assert spec.places == 8 * 12 + 4 * 6 + 2 * 3
    raw = np.full(spec.output_shape, -9.0, np.float32)
    last = spec.places - 1
    raw[:, last] = 0.0
    raw[0, last] = 3.0
    found = Decoder(spec).decode(raw, 0.5)
    np.testing.assert_allclose(found.boxes_xyxy, [[64, 32, 96, 64]])


@given(st.lists(st.tuples(*[st.floats(0, 60)] * 2, *[st.floats(4, 40)] * 2, st.floats(0.3, 1)), max_size=25))
@settings(deadline=None)
def test_suppression_keeps_the_best_of_each_heap_and_nothing_beside_it(rows: list[tuple[float, ...]]) -> None:
    rows = sorted(rows, key=lambda row: -row[4])
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in rows], np.float32).reshape(-1, 4)
    faces = Faces(boxes, np.array([row[4] for row in rows], np.float32))
    kept: list[int] = []
    for i in range(len(boxes)):
        if all(iou(boxes[i : i + 1], boxes[j : j + 1])[0, 0] < NMS_IOU for j in kept):
            kept.append(i)
    found = suppress(faces)
    np.testing.assert_array_equal(found.scores, faces.scores[kept])
    for box, i in zip(found.boxes_xyxy, kept, strict=True):
        assert iou(box[None], boxes[i : i + 1])[0, 0] > 0.5


@given(
    height=st.integers(40, 900),
    width=st.integers(40, 900),
    min_face=st.integers(16, 120),
    place=st.tuples(st.floats(0.1, 0.5), st.floats(0.1, 0.5), st.floats(0.2, 0.4)),
)
@settings(max_examples=40, deadline=None)
def test_boxes_come_back_in_the_pixels_of_the_frame(
    height: int, width: int, min_face: int, place: tuple[float, float, float]
) -> None:
    x, y = int(place[0] * width), int(place[1] * height)
    side = max(12, int(place[2] * min(height, width)))
    box = (x, y, min(width, x + side), min(height, y + side))
    detector = FacePyramidDetector(WhiteFinder, SPEC, min_face_px=min_face)
    faces = detector.detect(white(height, width, box))
    if min(box[2] - box[0], box[3] - box[1]) < min_face:
        return
    size = detector.size_for(height, width)
    pixel = max(1.0, height / size[0], width / size[1])
    assert len(faces) == 1
    np.testing.assert_allclose(faces.boxes_xyxy[0], box, atol=1.5 * pixel + 0.5)


@pytest.mark.parametrize("min_face", [20, 40, 80, 160])
def test_a_larger_smallest_face_makes_the_working_picture_smaller(min_face: int) -> None:
    detector = FacePyramidDetector(WhiteFinder, SPEC, min_face_px=min_face)
    height, width = detector.size_for(720, 1280)
    assert height % 32 == width % 32 == 0
    assert abs(width - 1280 * min(1, 20 / min_face)) <= 32


def test_the_engine_of_a_size_is_opened_once() -> None:
    opened = []

    def open_at(size_hw: tuple[int, int]) -> WhiteFinder:
        opened.append(size_hw)
        return WhiteFinder(size_hw)

    detector = FacePyramidDetector(open_at, SPEC, min_face_px=40)
    detector.warm_up(480, 640)
    for _ in range(3):
        detector.detect(white(480, 640, (100, 100, 180, 180)))
        detector.detect_near(white(480, 640, (100, 100, 180, 180)), np.array([[98, 96, 178, 176]], np.float32))
    assert len(opened) == len(set(opened)) == 2
    detector.close()


def test_pictures_of_many_sizes_keep_a_few_engines() -> None:
    """A folder of photographs is no reason to fill the memory."""
    opened: list[WhiteFinder] = []

    def open_at(size_hw: tuple[int, int]) -> WhiteFinder:
        opened.append(WhiteFinder(size_hw))
        return opened[-1]

    detector = FacePyramidDetector(open_at, SPEC, min_face_px=20)
    detector.detect_near(white(480, 640, (100, 100, 180, 180)), np.array([[98, 96, 178, 176]], np.float32))
    for side in range(320, 320 + 32 * 3 * SIZES_KEPT, 32):
        assert len(detector.detect(white(320, side, (100, 100, 180, 180)))) == 1
    assert sum(not one.closed for one in opened) == SIZES_KEPT + 1, "the search near faces has an engine of its own"
    assert not opened[0].closed
    detector.close()
    assert all(one.closed for one in opened)


@pytest.mark.parametrize("order", [1, -1])
def test_a_folder_of_large_and_small_pictures_is_searched_by_each_ones_own_height(order: int) -> None:
    detector = FacePyramidDetector(WhiteFinder, SPEC, min_face_px=None)
    sizes = [(2700, 1800), (540, 960), (240, 320)]
    for height, width in sizes[::order]:
        side = height // 6
        box = (20, 30, 20 + side, 30 + side)
        (found,) = detector.detect(white(height, width, box)).boxes_xyxy
        np.testing.assert_allclose(found, box, atol=side / 10)
    assert "a ninth of each picture's height" in detector.name
    assert detector.size_for(5400, 9600) == detector.size_for(1080, 1920), "as many pixels whatever the camera"


def test_a_picture_longer_than_any_engine_is_made_to_fit_among_others_and_refused_as_a_frame() -> None:
    detector = FacePyramidDetector(WhiteFinder, SPEC, min_face_px=20)
    assert max(detector.size_for(4512, 6016)) == 4096
    assert max(detector.coarse_size_for(540, 40_000) or (0,)) <= 4096
    with pytest.raises(UsageError, match="--min-face 30"):
        detector.warm_up(4512, 6016)
    FacePyramidDetector(WhiteFinder, SPEC, min_face_px=None).warm_up(64, 20_000)


def test_the_search_near_a_face_follows_it_and_loses_what_has_gone() -> None:
    detector = FacePyramidDetector(WhiteFinder, SPEC, min_face_px=40)
    last = np.array([[100, 100, 180, 180], [500, 300, 560, 360]], np.float32)
    found = detector.detect_near(white(480, 640, (120, 108, 200, 188)), last)
    assert len(found) == 1
    np.testing.assert_allclose(found.boxes_xyxy[0], [120, 108, 200, 188], atol=3)
    assert found.landmarks is not None
    np.testing.assert_allclose(found.landmarks[0, 2], [160, 148], atol=3)


@pytest.mark.parametrize("box", [(0, 0, 50, 60), (590, 420, 640, 480)])
def test_the_search_near_a_face_at_the_edge_stays_inside(box: tuple[int, int, int, int]) -> None:
    detector = FacePyramidDetector(WhiteFinder, SPEC, min_face_px=40)
    found = detector.detect_near(white(480, 640, box), np.array([box], np.float32) + 4)
    np.testing.assert_allclose(found.boxes_xyxy, [box], atol=3)
    gone = np.array([[700, 500, 760, 560]], np.float32)
    assert len(detector.detect_near(white(480, 640, box), gone)) == 0


def test_an_empty_picture_has_no_face() -> None:
    detector = FacePyramidDetector(WhiteFinder, SPEC)
    assert len(detector.detect(np.zeros((240, 320, 3), np.uint8))) == 0
    assert len(detector.detect_near(np.zeros((240, 320, 3), np.uint8), np.zeros((0, 4), np.float32))) == 0


def test_the_picture_lies_in_the_upper_left_and_the_rest_is_mid_grey() -> None:
    spec = sized((64, 96))
    row = np.full((1, 64, 96), np.nan, np.float32)
    geometry = picture_into(row, np.full((100, 100, 3), 255, np.uint8), spec)
    assert geometry.scale_x == geometry.scale_y == 0.64
    np.testing.assert_allclose(row[0, :, :64], (1 - spec.mean) / spec.std, atol=1e-5)
    np.testing.assert_allclose(row[0, :, 64:], (128 / 255 - spec.mean) / spec.std, atol=1e-5)
