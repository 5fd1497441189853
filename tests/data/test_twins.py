"""Near-duplicates: copies are found through what happens to copies, and other pictures are left alone."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from dataset_makers import pattern
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_fer.data.perceptual_hash import (
    LARGEST_RADIUS,
    correlation,
    difference_hash,
    hamming,
    mini_correlations,
    miniature,
    mirrored,
    near_pairs,
    thumbnail,
)
from edge_fer.data.twins import Pair, TwinSpec, find_twins, groups_of


def twins(images: list[np.ndarray], spec: TwinSpec | None = None) -> list[Pair]:
    hashes = np.array([difference_hash(image) for image in images], np.uint64)
    thumbs = [thumbnail(image) for image in images]
    minis = np.stack([miniature(image) for image in images])
    return find_twins(hashes, minis, lambda i: thumbs[i], spec or TwinSpec())


def every_pair(a: np.ndarray, b: np.ndarray, radius: int) -> set[tuple[int, int]]:
    return {(i, j) for i in range(len(a)) for j in range(len(b)) if bin(int(a[i]) ^ int(b[j])).count("1") <= radius}


@given(
    seed=st.integers(0, 1000),
    radius=st.integers(0, LARGEST_RADIUS),
    crowded=st.booleans(),
)
@settings(max_examples=60)
def test_the_fast_search_finds_what_comparing_everything_finds(seed: int, radius: int, crowded: bool) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**63, 8, dtype=np.uint64)
    hashes = rng.choice(centres, 120)
    for _ in range(int(rng.integers(0, 14)) if crowded else 24):
        hashes ^= np.uint64(1) << rng.integers(0, 64, len(hashes), dtype=np.uint64)
    half = len(hashes) // 2
    a, b = hashes[:half], hashes[half:]
    found: set[tuple[int, int]] = set()
    for i, j in near_pairs(a, b, radius):
        found |= set(zip(i.tolist(), j.tolist(), strict=True))
    assert found == every_pair(a, b, radius)


def test_bits_are_counted_right() -> None:
    a = np.array([0, 2**64 - 1, 0b1011, 1 << 63], np.uint64)
    assert hamming(a, np.zeros(4, np.uint64)).tolist() == [0, 64, 3, 1]


@pytest.mark.parametrize("radius", [-1, LARGEST_RADIUS + 1])
def test_a_radius_for_which_the_search_is_not_exact_is_refused(radius: int) -> None:
    with pytest.raises(ValueError, match="radius"):
        list(near_pairs(np.zeros(1, np.uint64), np.zeros(1, np.uint64), radius))


def test_the_hash_of_the_mirrored_picture_follows_from_the_hash() -> None:
    hashes = np.array([difference_hash(pattern(seed)) for seed in range(50)], np.uint64)
    turned = np.array([difference_hash(pattern(seed)[:, ::-1]) for seed in range(50)], np.uint64)
    # Neighbours that are equal after rounding count the same way in both.
    assert hamming(mirrored(hashes), turned).max() <= 4


def jpeg(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_UNCHANGED)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "recompressed": jpeg,
    "enlarged": lambda image: cv2.resize(image, (96, 96), interpolation=cv2.INTER_CUBIC),
    "darker": lambda image: (image * 0.6).astype(np.uint8),
    "coloured": lambda image: cv2.cvtColor(image, cv2.COLOR_GRAY2BGR),
    "blurred": lambda image: cv2.GaussianBlur(image, (5, 5), 0),
    "noisy": lambda image: np.clip(
        image + np.random.default_rng(0).normal(0, 6, image.shape), 0, 255
    ).astype(np.uint8),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_a_twin_and_nothing_else_is(change: str) -> None:
    originals = [pattern(seed) for seed in range(40)]
    copies = [CHANGES[change](image) for image in originals]
    found = twins([*originals, *copies])
    assert {(pair.i, pair.j) for pair in found} == {(n, n + 40) for n in range(40)}


def test_equal_copies_and_mirror_images_are_called_so() -> None:
    images = [pattern(seed) for seed in range(10)]
    found = twins([*images, images[3].copy(), np.ascontiguousarray(images[5][:, ::-1])])
    assert [(pair.i, pair.j, pair.kind) for pair in found] == [(3, 10, "copy"), (5, 11, "mirrored")]
    assert [pair.kind for pair in twins([*images, images[5][:, ::-1]], TwinSpec(mirrored=False))] == []


def test_one_hash_does_not_make_twins() -> None:
    """Two pictures whose rows rise from left to right: the same bits, different pixels."""
    steps = np.linspace(10, 240, 48)
    one = np.tile(steps, (48, 1)).astype(np.uint8)
    other = one.copy()
    other[24:] = np.linspace(200, 240, 48).astype(np.uint8)
    assert difference_hash(one) == difference_hash(other)
    assert twins([one, other]) == []


def test_correlation_allows_for_a_shift_and_flat_pictures_have_none() -> None:
    image = thumbnail(pattern(1, 60, 60))
    assert correlation(image, image) == pytest.approx(1, abs=1e-4)
    assert correlation(image, np.roll(image, (2, -3), axis=(0, 1))) > 0.99
    other = np.roll(image, (3, 1), axis=(0, 1)) // 2 + 30
    assert correlation(other, image) == correlation(image, other)
    assert correlation(np.full((48, 48), 9, np.uint8), image) == 0


def test_miniatures_correlate_much_as_thumbnails_do() -> None:
    images = [pattern(seed) for seed in range(30)]
    others = [np.roll(image, 2, axis=1) for image in images[:15]] + [pattern(seed) for seed in range(100, 115)]
    quick = mini_correlations(*(np.stack([miniature(image) for image in row]) for row in (images, others)))
    exact = [correlation(thumbnail(a), thumbnail(b)) for a, b in zip(images, others, strict=True)]
    assert abs(quick - np.clip(exact, 0, 1)).max() < 0.12
    flat = np.full((1, 16, 16), 80, np.uint8)
    assert mini_correlations(flat, miniature(images[0])[None]).tolist() == [0]


def test_pairs_connect_groups() -> None:
    pairs = [Pair(i, j, 0, 1.0, "near") for i, j in ((5, 6), (1, 3), (3, 5))]
    assert groups_of(8, pairs).tolist() == [0, 1, 2, 1, 4, 1, 1, 7]
