"""The crop equals its definition, and the loop's pixels equal training's."""

from __future__ import annotations

import gc
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_fer.core.spec import PreprocessSpec
from edge_fer.runtime.preprocess import FaceCropper, face_pixels, normalise_into, square_around

GRAY = PreprocessSpec(size_hw=(24, 24), colour="gray", mean=(0.5,), std=(0.25,), margin=0.1)
RGB = PreprocessSpec(size_hw=(24, 24), colour="rgb", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), interpolation="linear")


def reference(image: np.ndarray, box: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Pixel by pixel: clamp every coordinate of the square into the frame."""
    left, top, side = square_around(box, spec.margin)
    rows = np.clip(np.arange(top, top + side), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, image.shape[1] - 1)
    pixels = face_pixels(np.ascontiguousarray(image[rows][:, columns]), spec).astype(np.float64)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    mean, std = (np.array(v)[:, None, None] for v in (spec.mean, spec.std))
    return np.asarray((planes / 255 - mean) / std)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(8, 70), st.integers(8, 70), st.floats(-60, 120), st.floats(-60, 120), st.floats(0.5, 90),
    st.floats(0.5, 90), st.sampled_from([GRAY, RGB]),
)  # fmt: skip
def test_a_crop_equals_its_definition_wherever_the_box_lies(
    height: int, width: int, left: float, top: float, wide: float, high: float, spec: PreprocessSpec
) -> None:
    image = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    box = np.array([left, top, left + wide, top + high], np.float32)
    out = np.empty((spec.channels, *spec.size_hw), np.float32)
    FaceCropper(spec).crop_into(out, image, box)
    np.testing.assert_allclose(out, reference(image, box, spec), atol=1e-5)


@settings(max_examples=60)
@given(
    st.integers(20, 90), st.integers(20, 90), st.floats(-40, 100), st.floats(-40, 100), st.floats(4, 90),
    st.floats(-180, 180), st.sampled_from([GRAY, RGB]),
)  # fmt: skip
def test_a_levelled_face_is_its_square_turned_back_about_its_centre(
    height: int, width: int, left: float, top: float, wide: float, angle: float, upright: PreprocessSpec
) -> None:
    """Turned by itself, pixel by pixel: every pixel of the square is read where the turn takes it, between its four
    neighbours and with the border repeated."""
    spec = upright.model_copy(update={"alignment": "eyes"})
    image = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = np.asarray(cv2.GaussianBlur(image, (5, 5), 0))
    box = np.array([left, top, left + wide, top + wide], np.float32)
    out = np.empty((spec.channels, *spec.size_hw), np.float32)
    FaceCropper(spec).crop_into(out, image, box, angle)
    x0, y0, side = square_around(box, spec.margin)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    v, u = np.mgrid[:side, :side] - (side - 1) / 2
    x = np.clip(x0 + (side - 1) / 2 + cos * u - sin * v, 0, width - 1)
    y = np.clip(y0 + (side - 1) / 2 + sin * u + cos * v, 0, height - 1)
    x1, y1 = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    fx, fy = (x - x1)[..., None], (y - y1)[..., None]
    rows = [(1 - fx) * image[y1 + down, x1] + fx * image[y1 + down, x1 + 1] for down in (0, 1)]
    turned = np.round((1 - fy) * rows[0] + fy * rows[1]).astype(np.uint8)
    want = np.empty_like(out)
    normalise_into(want, face_pixels(turned, spec), spec)
    # OpenCV turns in steps of a thirty-second of a pixel.
    assert np.abs(out - want).max() * 255 * min(spec.std) < 6
    level, square = np.empty_like(out), np.empty_like(out)
    FaceCropper(spec).crop_into(level, image, box, 0.0)
    FaceCropper(upright).crop_into(square, image, box)
    np.testing.assert_array_equal(level, square)


def test_only_a_contract_with_level_eyes_takes_an_angle() -> None:
    out, image = np.empty((1, 24, 24), np.float32), np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(ValueError, match="does not level the eyes"):
        FaceCropper(GRAY).crop_into(out, image, np.array([5, 5, 30, 30], np.float32), 3.0)


def test_the_loop_sees_the_pixels_that_evaluation_sees() -> None:
    image = np.random.default_rng(1).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    spec = PreprocessSpec(size_hw=(48, 48), colour="gray", mean=(0.508,), std=(0.255,))
    evaluated, looped = np.empty((1, 48, 48), np.float32), np.empty((1, 48, 48), np.float32)
    normalise_into(evaluated, face_pixels(image, spec), spec)
    FaceCropper(spec).crop_into(looped, image, np.array([0, 0, 48, 48], np.float32))
    np.testing.assert_array_equal(evaluated, looped)


def test_colours_arrive_in_the_order_of_the_contract() -> None:
    blue = np.zeros((24, 24, 3), np.uint8)
    blue[..., 0] = 255
    out = np.empty((3, 24, 24), np.float32)
    normalise_into(out, face_pixels(blue, RGB), RGB)
    assert out[0].max() == pytest.approx((0 - 0.4) / 0.2)
    assert out[2].min() == pytest.approx((1 - 0.6) / 0.3)


def test_normalisation_of_known_values() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    spec = PreprocessSpec(size_hw=(16, 16), colour="gray", mean=(0.5,), std=(0.25,))
    out = np.empty((1, 16, 16), np.float32)
    normalise_into(out, ramp, spec)
    np.testing.assert_allclose(out[0].ravel(), (np.arange(256) / 255 - 0.5) / 0.25, atol=1e-6)


def test_shrinking_averages_and_enlarging_interpolates() -> None:
    checker = np.kron(np.indices((24, 24)).sum(0) % 2, np.ones((2, 2))).astype(np.uint8) * 255
    spec = PreprocessSpec(size_hw=(12, 12), colour="gray", mean=(0.5,), std=(0.25,))
    small = face_pixels(checker, spec)
    assert set(np.unique(small)) <= {127, 128}
    big = face_pixels(checker[:8, :8], spec)
    np.testing.assert_array_equal(big, cv2.resize(checker[:8, :8], (12, 12), interpolation=cv2.INTER_LINEAR))


@settings(deadline=None)
@given(st.floats(-500, 500), st.floats(-500, 500), st.floats(1, 400), st.floats(1, 400), st.floats(0, 1))
def test_the_square_is_centred_on_the_box_and_holds_it(
    left: float, top: float, wide: float, high: float, margin: float
) -> None:
    box = np.array([left, top, left + wide, top + high], np.float32)
    x, y, side = square_around(box, margin)
    assert side == pytest.approx(max(wide, high) * (1 + 2 * margin), abs=1)
    assert x + side / 2 == pytest.approx(left + wide / 2, abs=1)
    assert y + side / 2 == pytest.approx(top + high / 2, abs=1)


@pytest.mark.parametrize("spec", [GRAY, RGB])
def test_cropping_reuses_its_buffers(spec: PreprocessSpec) -> None:
    """Faces of all sizes, inside and across the edge: no picture is allocated on the way, and nothing stays behind."""
    image = np.random.default_rng(3).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    boxes = [np.array([x, x / 2, x + side, x / 2 + side], np.float32) for x in (-50, 90, 400) for side in (240, 300)]
    cropper, out = FaceCropper(spec), np.empty((spec.channels, *spec.size_hw), np.float32)

    def crop_all(times: int) -> None:
        for _ in range(times):
            for box in boxes:
                cropper.crop_into(out, image, box)

    crop_all(2)
    tracemalloc.start()
    try:
        crop_all(2)
        gc.collect()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        crop_all(50)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 240 * 240
    gc.collect()
    assert after - before < 2000
