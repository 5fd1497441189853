"""What a picture must not be: each limit is the recipe's, and the finding tells the figure."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_makers import pattern

from edge_fer.data.quality import BRIGHT, DARK, FLAT, SMALL, QualitySpec, find_anomaly

SPEC = QualitySpec(smallest_px=24, std=12, dark=20, bright=235)


@pytest.mark.parametrize(
    ("image", "side", "kind"),
    [
        (pattern(1), 48, None),
        (np.dstack([pattern(1)] * 3), 48, None),
        (pattern(1), 23, SMALL),
        (pattern(1) // 16, 48, DARK),
        (255 - pattern(1) // 16, 48, BRIGHT),
        (100 + pattern(1) // 16, 48, FLAT),
    ],
)
def test_each_kind_is_told_apart(image: np.ndarray, side: int, kind: str | None) -> None:
    found = find_anomaly(image, side, SPEC)
    assert (found and found[0]) == kind


def test_the_limits_are_the_recipes() -> None:
    dim = (pattern(1) // 4).astype(np.uint8)
    mean, std = dim.mean(), dim.std()
    assert find_anomaly(dim, 48, SPEC.model_copy(update={"dark": mean - 1, "std": std - 1})) is None
    kind, detail = find_anomaly(dim, 48, SPEC.model_copy(update={"dark": mean + 1})) or ("", "")
    assert kind == DARK
    assert f"mean {mean:.1f}" in detail
    assert (find_anomaly(dim, 48, SPEC.model_copy(update={"std": std + 1})) or ("",))[0] == FLAT
