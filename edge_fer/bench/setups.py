"""Which settings fit a time budget, from timings alone.

A frame costs the classifier's call for all faces, a crop a face, and a full search spread over the frames until the
next one. Both calls count with their 90th percentile, and a fifth of the budget is left to decoding, tracking and
drawing. Among what fits, accuracy comes first; then the detector that is named first, the shorter interval, fewer
threads, less time.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_fer.bench.detector_timing import DetectorTiming
from edge_fer.core.errors import DeviceError
from edge_fer.core.spec import Frozen
from edge_fer.runtime.run_config import RunConfig

HEADROOM = 0.8
"""Part of the budget that measured work may fill."""
LONGEST_INTERVAL = 10
"""Frames between two searches: at 30 a second a new face waits a third of a second at most."""
TIE = 0.005
"""Accuracies that differ by less than this fraction count as equal: a few thousand faces cannot tell them apart."""


class EngineTiming(Frozen):
    """One way to classify all faces of a frame.

    Attributes:
        engine: bundle, as ``edge-fer run --engine`` takes it.
        ms: 90th percentile of the calls that label all faces.
        top1: of this backend and precision on labelled faces, or ``None``.
        accuracy_from: where that is known from.
        error: why there is no time, or empty.
    """

    engine: str
    backend: str
    precision: str
    threads: int
    ms: float | None
    top1: float | None
    accuracy_from: str = ""
    error: str = ""


class Setup(Frozen):
    """What was chosen, and what a frame is expected to cost with it."""

    engine: EngineTiming
    detector: DetectorTiming
    interval: int
    expected_ms: float

    def config(self, min_face: int | None = None) -> RunConfig:
        """``min_face``: where the user named one."""
        return RunConfig.model_validate(
            {
                "engine": self.engine.engine,
                "backend": self.engine.backend,
                "precision": self.engine.precision,
                "threads": self.engine.threads,
                "detector": self.detector.detector,
                "detect_every": self.interval,
                "min_face": min_face,
            }
        )


def frame_ms(engine: EngineTiming, detector: DetectorTiming, interval: int, faces: int) -> float:
    """Expected time of a frame; both timings must have been measured."""
    assert engine.ms is not None
    assert detector.p90_ms is not None
    return engine.ms + faces * (detector.crop_ms or 0.0) + detector.p90_ms / interval


def accurate_enough(engines: Sequence[EngineTiming], min_accuracy: float | None) -> list[EngineTiming]:
    """Those whose top-1 is known to be no lower; all of them where nothing is asked for.

    Raises:
        DeviceError: there are none; the message names the best.
    """
    enough = [e for e in engines if min_accuracy is None or (e.top1 is not None and e.top1 >= min_accuracy)]
    if not enough:
        best = max((e for e in engines if e.top1 is not None), key=lambda e: e.top1 or 0.0, default=None)
        nearest = "; no accuracy is known" if best is None else f"; the best is {best.engine} with {best.top1:.1%}"
        raise DeviceError(
            f"Nothing here is known to reach a top-1 of {min_accuracy:.1%}{nearest}.",
            fix="Give labelled faces with --data, or lower --min-accuracy.",
        )
    return enough


def rank_setups(
    engines: Sequence[EngineTiming],
    detectors: Sequence[DetectorTiming],
    *,
    budget_ms: float,
    faces: int,
    min_accuracy: float | None = None,
) -> tuple[Setup, ...]:
    """All that fits, the best first; see the module's description for the order.

    Raises:
        DeviceError: nothing fits, or nothing is accurate enough; the message names the nearest.
    """
    timed = [engine for engine in engines if engine.ms is not None]
    finders = [detector for detector in detectors if detector.p90_ms is not None]
    if not timed or not finders:
        reasons = [f"{one.engine} {one.backend} {one.precision}: {one.error}" for one in engines if one.error]
        reasons += [f"{one.detector}: {one.error}" for one in detectors if one.error]
        raise DeviceError(f"Nothing could be measured here: {'; '.join(reasons) or 'no engine and no detector'}.")
    enough = accurate_enough(timed, min_accuracy)
    every = [
        Setup(engine=e, detector=d, interval=interval, expected_ms=frame_ms(e, d, interval, faces))
        for e in enough
        for d in finders
        for interval in range(1, LONGEST_INTERVAL + 1)
    ]
    fitting = [setup for setup in every if setup.expected_ms <= HEADROOM * budget_ms]
    if not fitting:
        nearest_setup = min(every, key=lambda setup: setup.expected_ms)
        engine = nearest_setup.engine
        raise DeviceError(
            f"Nothing measured here labels {faces} face{'s' * (faces > 1)} within {budget_ms:g} ms ({HEADROOM:.0%} of "
            f"it for the work). The nearest is {engine.engine} on {engine.backend} {engine.precision} with "
            f"{nearest_setup.detector.detector}: {nearest_setup.expected_ms:.1f} ms.",
            fix="Allow more time, fewer faces or a lower --min-accuracy.",
        )
    best_top1 = max(setup.engine.top1 or 0.0 for setup in fitting)
    order = {detector.detector: place for place, detector in enumerate(detectors)}

    def rank(setup: Setup) -> tuple[float, int, int, int, float]:
        top1 = setup.engine.top1 or 0.0
        lost = 0.0 if top1 >= best_top1 - TIE else best_top1 - top1
        return lost, order[setup.detector.detector], setup.interval, setup.engine.threads, setup.expected_ms

    return tuple(sorted(fitting, key=rank))
