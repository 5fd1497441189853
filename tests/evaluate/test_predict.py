"""Predictions of whole datasets: every sample once, in order, with the live loop's pixels; labels matched by name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_fer.backends.canary import canary_gap
from edge_fer.backends.registry import installed_backends, open_engine
from edge_fer.core.bundle import Bundle
from edge_fer.core.engine import Engine
from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.core.labels import EMOTIONS
from edge_fer.data.samples import Image, Samples
from edge_fer.evaluate.predict import match_labels, predict, predict_module, softmax


def samples_of(images: list[Image], names: tuple[str, ...] = EMOTIONS, labels: list[int] | None = None) -> Samples:
    indices = np.arange(len(images)) % len(names) if labels is None else np.asarray(labels)
    ids = tuple(map(str, range(len(images))))
    return Samples(ids, indices.astype(np.int64), names, lambda i: images[i], "made by the test")


def faces(shipped: Bundle, n: int) -> list[Image]:
    """Different pictures of different sizes, grey and colour."""
    canary = shipped.canary().images_bgr
    found = []
    for i in range(n):
        image = np.roll(canary[i % len(canary)], i, axis=1)[: 40 + i]
        found.append(np.ascontiguousarray(image[..., 0] if i % 3 == 0 else image))
    return found


@pytest.fixture(scope="module", params=[status.name for status in installed_backends() if status.installed])
def engine(request: pytest.FixtureRequest, shipped: Bundle) -> Iterator[Engine]:
    (status,) = (one for one in installed_backends() if one.name == request.param)
    if "fp32" not in status.precisions:
        pytest.skip(status.detail)
    with open_engine(shipped, backend=request.param, precision="fp32", max_batch=4, slots=2) as opened:
        yield opened


@pytest.mark.parametrize("n", [1, 4, 5, 19])
def test_batches_and_slots_change_nothing(engine: Engine, shipped: Bundle, n: int) -> None:
    spec = shipped.manifest.model.preprocess
    images = faces(shipped, n)
    seen: list[tuple[int, int]] = []
    together = predict(engine, samples_of(images), spec, lambda done, total: seen.append((done, total)))
    one_by_one = np.concatenate([predict(engine, samples_of([image]), spec) for image in images])
    assert together.shape == (n, len(EMOTIONS))
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, one_by_one, atol=1e-4)
    assert seen[-1] == (n, n)
    assert seen == sorted(seen)


def test_the_canary_predicted_as_a_dataset_gives_the_canarys_logits(engine: Engine, shipped: Bundle) -> None:
    canary = shipped.canary()
    found = predict(engine, samples_of(list(canary.images_bgr)), shipped.manifest.model.preprocess)
    gap = float(np.abs(found - canary.logits["fp32"]).max())
    assert gap == pytest.approx(canary_gap(engine, canary), abs=1e-5)
    assert gap <= shipped.manifest.canary.tolerance["fp32"]


def test_a_broken_image_ends_the_evaluation_and_is_named(engine: Engine, shipped: Bundle) -> None:
    good = faces(shipped, 6)

    def read(i: int) -> Image:
        if i == 5:
            raise BadInputError("5.jpg is not an image")
        return good[i]

    broken = Samples(tuple("abcdef"), np.zeros(6, np.int64), EMOTIONS, read, "made by the test")
    with pytest.raises(BadInputError, match=r"5\.jpg"):
        predict(engine, broken, shipped.manifest.model.preprocess)
    # The engine is still good for the next caller.
    assert predict(engine, samples_of(good), shipped.manifest.model.preprocess).shape == (6, 7)


def test_torch_sees_the_same_pixels_as_an_engine(shipped: Bundle) -> None:
    torch = pytest.importorskip("torch", reason="the compile extra is not installed")
    spec = shipped.manifest.model.preprocess

    class Mean(torch.nn.Module):
        """Logits that are sums over the input, so that every pixel counts; dropout shows a forgotten eval()."""

        def __init__(self) -> None:
            super().__init__()
            self.dropout = torch.nn.Dropout(0.9)

        def forward(self, x):
            return self.dropout(x.flatten(1))[:, : 7 * 300].reshape(len(x), 7, 300).sum(2)

    images = faces(shipped, 5)
    found = predict_module(Mean(), samples_of(images), spec, batch_size=2, threads=1)
    assert found.shape == (5, 7)
    from edge_fer.runtime.preprocess import face_pixels, normalise_into

    expected = np.empty((5, spec.channels, *spec.size_hw), np.float32)
    for row, image in enumerate(images):
        normalise_into(expected[row], face_pixels(image, spec), spec)
    np.testing.assert_allclose(found, expected.reshape(5, -1)[:, :2100].reshape(5, 7, 300).sum(2), rtol=1e-3)


def test_a_network_that_gives_nan_is_refused(shipped: Bundle) -> None:
    torch = pytest.importorskip("torch", reason="the compile extra is not installed")

    class Broken(torch.nn.Module):
        def forward(self, x):
            return torch.full((len(x), 7), torch.nan)

    with pytest.raises(BadInputError, match="3 of 3"):
        predict_module(Broken(), samples_of(faces(shipped, 3)), shipped.manifest.model.preprocess, threads=1)


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)))
def test_softmax_is_a_distribution_that_keeps_the_order(logits: np.ndarray) -> None:
    found = softmax(logits)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    for row, scores in zip(logits, found, strict=True):
        assert scores[row.argmax()] == scores.max()
    np.testing.assert_allclose(softmax(logits + 7), found, atol=1e-6)


def blank(names: tuple[str, ...], labels: list[int]) -> Samples:
    return samples_of([np.zeros((8, 8), np.uint8)] * len(labels), names, labels)


def test_labels_are_matched_by_name_whatever_their_order() -> None:
    model = ("sad", "happy", "neutral")
    assert match_labels(blank(("Neutral", "happiness", "sadness"), [0, 1, 2, 1]), model).tolist() == [2, 1, 0, 1]


def test_classes_that_the_project_does_not_know_are_matched_by_their_own_names() -> None:
    assert match_labels(blank(("Contempt", "Awe"), [0, 1]), ("awe", "contempt")).tolist() == [1, 0]


def test_a_class_without_samples_need_not_be_known() -> None:
    assert match_labels(blank(("contempt", "happy"), [1, 1]), EMOTIONS).tolist() == [3, 3]


def test_samples_of_a_class_that_the_model_lacks_are_refused_with_their_number() -> None:
    with pytest.raises(UsageError, match=r"contempt \(2\)"):
        match_labels(blank(("contempt", "happy"), [0, 1, 0]), EMOTIONS)


def test_two_names_of_one_class_are_refused() -> None:
    with pytest.raises(UsageError, match="'happy' twice"):
        match_labels(blank(("happy", "happiness"), [0, 1]), EMOTIONS)
