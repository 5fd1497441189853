"""Does a heat map mean something? Delete what it marks, and watch the score.

After Petsiuk et al., "RISE: Randomized Input Sampling for Explanation", 2018 (deletion curve), and Hooker et al., "A
Benchmark for Interpretability Methods in Deep Neural Networks", 2019 (against chance). Pixels are deleted in the order
of the heat, hottest first, by giving them the picture's own mean. The same number of pixels is deleted

* **elsewhere**: the same heat map, shifted around the picture's edges and mirrored at random. Area and shape are the
  same at every step, only the place differs;
* **by another's map**: the heat map of another face. Faces are alike, so that a map which only ever marks the middle
  would pass the first comparison and fails this one.

A map means something when deleting by it lowers the score more than both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_fer.core.spec import Frozen

FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
HEADLINE = 0.2
"""The deleted share of the picture that is quoted as a sentence."""
ENOUGH = 8
"""From so many faces on, intervals are over faces; of fewer, over the random places."""

Score = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""float32 (n, C, H, W) -> softmax scores (n, classes)."""
Progress = Callable[[int, int], None]


class Against(Frozen):
    """The map against one way to choose as many other pixels.

    Attributes:
        curve: mean score of the explained class at each of :data:`FRACTIONS`.
        gain: how much lower the score is when the map's pixels are deleted, averaged over all shares (the area between
            the curves), in points of score (0..100).
        interval: 95 % bootstrap of ``gain``.
        gain_at_headline: the same at :data:`HEADLINE` alone.
        holds: the interval lies above zero.
    """

    curve: tuple[float, ...]
    gain: float
    interval: tuple[float, float]
    gain_at_headline: float
    holds: bool


class DeletionCheck(Frozen):
    """Outcome of the check.

    Attributes:
        faces: how many were used; ``places``: random places for each.
        without_heat: faces that were left out because nothing in the layer speaks for their class.
        fractions: shares of the picture that were deleted.
        curve: mean score of the explained class when the map's pixels are deleted.
        elsewhere: against the same map at random places.
        others: against other faces' maps; ``None`` with fewer than :data:`ENOUGH` faces.
        interval_over: what the bootstrap resamples.
        holds: both comparisons hold, as far as they were made.
    """

    faces: int
    places: int
    without_heat: int
    fractions: tuple[float, ...]
    curve: tuple[float, ...]
    elsewhere: Against
    others: Against | None
    interval_over: Literal["faces", "places"]
    holds: bool

    def sentence(self) -> str:
        """The outcome in words, whichever it is."""
        low, high = self.elsewhere.interval
        over = f"{self.faces} faces" if self.interval_over == "faces" else f"{self.places} random places"
        text = (
            f"deleting what the map marks lowers the score by {self.elsewhere.gain:.1f} points more than deleting as "
            f"much elsewhere (95 %: {low:.1f} to {high:.1f}, {over})"
        )
        if self.others is not None:
            low, high = self.others.interval
            text += (
                f", and by {self.others.gain:.1f} points more than deleting by another face's map "
                f"({low:.1f} to {high:.1f})"
            )
        if self.holds:
            return f"Holds: {text}."
        if not self.elsewhere.holds:
            return f"DOES NOT HOLD: {text}. Do not read this map as where the network looks."
        return (
            f"HOLDS IN PART: {text}. The map marks where faces are told apart in general, "
            "not what is particular to this one."
        )


def deletion_check(
    score: Score,
    inputs: NDArray[np.float32],
    heat: NDArray[np.float32],
    classes: NDArray[np.int64],
    *,
    places: int = 4,
    seed: int = 0,
    resamples: int = 2000,
    progress: Progress | None = None,
) -> DeletionCheck | None:
    """Run the check; ``None`` when no face has heat.

    Args:
        score: the network.
        inputs: float32 (n, C, H, W).
        heat: float32 (n, H, W), 0 or more; rows that are all zero are left out and counted.
        classes: int64 (n,), whose score is watched.
        places: random places for every face.
    """
    kept = np.flatnonzero(heat.reshape(len(heat), -1).max(axis=1) > 0)
    if not len(kept):
        return None
    rng = np.random.default_rng(seed)
    shown, hot, chosen = inputs[kept], heat[kept], classes[kept]
    n = len(kept)
    own = np.empty((n, len(FRACTIONS)))
    elsewhere = np.empty((n, places, len(FRACTIONS)))
    compare_others = n >= ENOUGH
    others = np.empty((n, len(FRACTIONS)))
    for i in range(n):
        maps = [hot[i], *(_moved(hot[i], rng) for _ in range(places))]
        if compare_others:
            maps.append(hot[(i + 1 + rng.integers(n - 1)) % n])
        curves = _curves(score, shown[i], np.stack(maps), int(chosen[i]), rng)
        own[i], elsewhere[i] = curves[0], curves[1 : 1 + places]
        if compare_others:
            others[i] = curves[-1]
        if progress is not None:
            progress(i + 1, n)
    over_faces = n >= ENOUGH
    gaps = elsewhere - own[:, None]
    against = _against(
        elsewhere.mean(axis=(0, 1)), gaps.mean(axis=1) if over_faces else gaps.mean(axis=0), rng, resamples
    )
    against_others = _against(others.mean(axis=0), others - own, rng, resamples) if compare_others else None
    return DeletionCheck(
        faces=n,
        places=places,
        without_heat=len(inputs) - n,
        fractions=FRACTIONS,
        curve=tuple(float(v) for v in own.mean(axis=0)),
        elsewhere=against,
        others=against_others,
        interval_over="faces" if over_faces else "places",
        holds=against.holds and (against_others is None or against_others.holds),
    )


def hottest_first(heat: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
    """Flat indices of all pixels of a map (H, W), the hottest first; ties fall by lot."""
    return np.asarray(np.lexsort((rng.random(heat.size), -heat.ravel())), np.int64)


def deleted(picture: NDArray[np.float32], order: NDArray[np.int64], fraction: float) -> NDArray[np.float32]:
    """The picture (C, H, W) with the first ``fraction`` of its pixels, in this order, at the picture's mean."""
    flat = picture.reshape(len(picture), -1).copy()
    flat[:, order[: round(fraction * len(order))]] = picture.mean(axis=(1, 2))[:, None]
    return flat.reshape(picture.shape)


def _curves(
    score: Score,
    picture: NDArray[np.float32],
    maps: NDArray[np.float32],
    chosen: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Scores (maps, fractions) of one class while one picture is deleted by each of several maps."""
    batch = []
    for heat in maps:
        order = hottest_first(heat, rng)
        batch += [deleted(picture, order, fraction) for fraction in FRACTIONS]
    return score(np.stack(batch))[:, chosen].reshape(len(maps), len(FRACTIONS))


def _moved(heat: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The map at another place: shifted around the edges by at least a quarter of a side, and mirrored by lot."""
    height, width = heat.shape
    while True:
        dy, dx = int(rng.integers(height)), int(rng.integers(width))
        if 4 * min(dy, height - dy) >= height or 4 * min(dx, width - dx) >= width:
            break
    moved = np.roll(heat, (dy, dx), axis=(0, 1))
    return moved[:, ::-1] if rng.random() < 0.5 else moved


def _against(
    curve: NDArray[np.float64], gaps: NDArray[np.float64], rng: np.random.Generator, resamples: int
) -> Against:
    """Sum one comparison up from gaps (units, fractions), whose units are resampled."""
    steps = np.diff(np.asarray(FRACTIONS))
    areas = 100 * ((gaps[:, 1:] + gaps[:, :-1]) / 2 * steps).sum(axis=1)
    draws = rng.integers(len(areas), size=(resamples, len(areas)))
    low, high = np.quantile(areas[draws].mean(axis=1), [0.025, 0.975])
    return Against(
        curve=tuple(float(v) for v in curve),
        gain=float(areas.mean()),
        interval=(float(low), float(high)),
        gain_at_headline=float(100 * gaps[:, FRACTIONS.index(HEADLINE)].mean()),
        holds=bool(low > 0),
    )
