"""Augmentation changes what it says and nothing else."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_fer.train.augment import AugmentSpec, augment, mix, motion_kernels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_change_asked_for_is_no_change() -> None:
    x = torch.rand(4, 1, 48, 48, generator=seeded())
    out = augment(x, AugmentSpec(flip=False), seeded(), (48, 48))
    torch.testing.assert_close(out, x, atol=1e-5, rtol=0)


def test_a_smaller_size_is_a_window_at_the_same_scale() -> None:
    x = torch.rand(2, 1, 48, 48, generator=seeded())
    out = augment(x, AugmentSpec(flip=False), seeded(), (40, 40))
    torch.testing.assert_close(out, x[:, :, 4:44, 4:44], atol=1e-5, rtol=0)


def test_flipping_mirrors_about_half_of_the_images() -> None:
    x = torch.rand(1, 1, 48, 48, generator=seeded()).repeat(200, 1, 1, 1)
    out = augment(x, AugmentSpec(flip=True), seeded(), (48, 48))
    mirrored = (out - x.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4
    kept = (out - x).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert bool((mirrored ^ kept).all())
    assert 60 < int(mirrored.sum()) < 140


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(40, 40), (48, 48)]))
def test_pixels_stay_in_range_and_the_seed_decides(seed: int, size: tuple[int, int]) -> None:
    spec = AugmentSpec(
        rotate_deg=20, scale=(0.7, 1.3), aspect=0.2, shift=0.2, brightness=0.5, contrast=0.5, gamma=0.5,
        noise=0.2, blur_probability=0.5, erase_probability=0.8,
    )  # fmt: skip
    x = torch.rand(5, 1, 48, 48, generator=seeded(1))
    first, second = (augment(x.clone(), spec, seeded(seed), size) for _ in range(2))
    assert first.shape == (5, 1, *size)
    assert float(first.min()) >= 0.0
    assert float(first.max()) <= 1.0
    assert torch.equal(first, second)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_mixing_keeps_targets_a_distribution_and_weighs_pixels_like_targets(seed: int, cutmix: float) -> None:
    spec = AugmentSpec(mix_probability=1.0, cutmix_share=cutmix, mixup_alpha=0.4)
    ids = torch.arange(6)
    x = ids.float().view(6, 1, 1, 1).expand(6, 1, 24, 24).clone()
    targets = torch.nn.functional.one_hot(ids, 6).float()
    mixed, soft = mix(x, targets, spec, seeded(seed))
    torch.testing.assert_close(soft.sum(1), torch.ones(6))
    # Each image is a constant equal to its index, so the mean pixel must equal the target's expectation.
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), soft @ ids.float(), atol=1e-4, rtol=0)


def test_motion_blur_smears_along_a_line_and_keeps_the_light() -> None:
    kernels = motion_kernels(64, 8, seeded())
    assert kernels.shape == (64, 9, 9)
    torch.testing.assert_close(kernels.sum(dim=(1, 2)), torch.ones(64))
    at = torch.arange(9.0) - 4
    y, x = torch.meshgrid(at, at, indexing="ij")
    for kernel in kernels:
        moments = torch.stack([(kernel * a * b).sum() for a, b in ((x, x), (x, y), (x, y), (y, y))]).view(2, 2)
        across, along = torch.linalg.eigvalsh(moments).tolist()
        assert across < 0.35  # about a pixel wide, whatever the angle
        assert along > across - 1e-6
    flat = torch.full((4, 3, 16, 16), 0.4)
    out = augment(flat, AugmentSpec(flip=False, motion_blur_probability=1.0), seeded(), (16, 16))
    torch.testing.assert_close(out, flat, atol=1e-4, rtol=0)
    point = torch.zeros(8, 1, 17, 17)
    point[:, :, 8, 8] = 1.0
    out = augment(point, AugmentSpec(flip=False, motion_blur_probability=1.0), seeded(), (17, 17))
    torch.testing.assert_close(out.sum(dim=(1, 2, 3)), torch.ones(8), atol=1e-3, rtol=0)
    assert (out[:, 0, 8, 8] < 0.9).all()
