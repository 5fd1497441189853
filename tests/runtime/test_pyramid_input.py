"""Making pictures smaller in halves: the average of their pixels, in memory that is kept."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_fer.runtime.detectors.pyramid_input import Shrinker


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), factor=st.sampled_from([1, 2, 4, 8, 16]),
    colour=st.sampled_from(["gray", "bgr"]),
)  # fmt: skip
def test_powers_of_two_give_the_average_of_the_pixels(rows: int, columns: int, factor: int, colour: str) -> None:
    picture = noise(factor * rows, factor * columns)
    small = Shrinker(colour)(picture, (columns, rows))
    average = picture.reshape(rows, factor, columns, factor, 3).astype(np.float64).mean(axis=(1, 3))
    if colour == "gray":
        average = average @ (0.114, 0.587, 0.299)
    assert small.shape == average.shape
    # Each of the steps rounds to whole values.
    np.testing.assert_allclose(small, average, atol=2.5)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(2, 400), width=st.integers(2, 400), to_height=st.integers(1, 300), to_width=st.integers(1, 300)
)
def test_other_factors_give_what_one_step_gives_of_a_smooth_picture(
    height: int, width: int, to_height: int, to_width: int
) -> None:
    y, x = np.mgrid[:height, :width]
    one = 255 * (x + y) / (height + width)
    picture = np.repeat(one[..., None], 3, axis=2).astype(np.uint8)
    shrinks = height >= to_height and width >= to_width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    whole = cv2.resize(picture, (to_width, to_height), interpolation=how)
    halves = Shrinker("bgr")(picture, (to_width, to_height))
    step = 255 / (height + width)
    assert np.abs(halves.astype(int) - whole).max() <= 3 + step


@pytest.mark.parametrize("colour", ["gray", "bgr"])
def test_the_same_memory_serves_one_picture_after_the_other(colour: str) -> None:
    shrink = Shrinker(colour)
    first = shrink(noise(720, 1280), (320, 180))
    address = first.ctypes.data
    kept = first.copy()
    assert shrink(noise(360, 640), (160, 90)).shape[:2] == (90, 160)
    again = shrink(noise(720, 1280), (320, 180))
    assert again.ctypes.data == address
    np.testing.assert_array_equal(again, kept)


def test_a_picture_of_the_wanted_size_is_taken_as_it_is() -> None:
    picture = noise(24, 32)
    np.testing.assert_array_equal(Shrinker("bgr")(picture, (32, 24)), picture)
    np.testing.assert_array_equal(Shrinker("gray")(picture, (32, 24)), cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
