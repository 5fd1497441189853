"""Box arithmetic against a definition that counts pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_fer.core.faces import Faces, iou

coordinate = st.integers(0, 12)


@st.composite
def boxes(draw: st.DrawFn) -> np.ndarray:
    x1, x2 = sorted((draw(coordinate), draw(coordinate)))
    y1, y2 = sorted((draw(coordinate), draw(coordinate)))
    return np.array([x1, y1, x2, y2], np.float32)


def cells(box: np.ndarray) -> set[tuple[int, int]]:
    return {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))}


@given(boxes(), boxes())
def test_iou_equals_counting_cells(a: np.ndarray, b: np.ndarray) -> None:
    union = cells(a) | cells(b)
    expected = len(cells(a) & cells(b)) / len(union) if union else 0.0
    assert iou(a[None], b[None])[0, 0] == pytest.approx(expected)


def test_iou_of_nothing_is_an_empty_matrix() -> None:
    assert iou(np.zeros((0, 4), np.float32), np.zeros((3, 4), np.float32)).shape == (0, 3)


def test_faces_refuse_arrays_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match="boxes_xyxy"):
        Faces(np.zeros((2, 4), np.float32), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="landmarks"):
        Faces(np.zeros((1, 4), np.float32), np.zeros(1, np.float32), np.zeros((1, 4, 2), np.float32))
