"""``edge-fer plan``: from a time budget and measurements on this machine to the settings of ``edge-fer run``.

A frame costs the classifier's call for all faces, a crop a face, and a full search spread over the frames until the
next one. Both calls count with their 90th percentile, and a fifth of the budget is left to decoding, tracking and
drawing. Among what fits, accuracy comes first; then the detector that is named first, the shorter interval, fewer
threads, less time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edge_fer.backends.choose import candidates
from edge_fer.bench.camera import CameraResult, measure_camera
from edge_fer.bench.detector_timing import DetectorTiming, TimingOrder, time_detector
from edge_fer.bench.device import usable_threads
from edge_fer.bench.measure import Outcome, run_plan
from edge_fer.bench.plan import CameraPlan, ModelEntry, Plan
from edge_fer.core.bundle import Bundle, find_bundle, open_bundle
from edge_fer.core.errors import BundleError, DeviceError, EdgeFerError
from edge_fer.core.spec import Frozen, ModelSpec
from edge_fer.runtime.run_config import RunConfig

HEADROOM = 0.8
"""Part of the budget that measured work may fill."""
LONGEST_INTERVAL = 10
"""Frames between two searches: at 30 a second a new face waits a third of a second at most."""
TIE = 0.005
"""Accuracies that differ by less than this fraction count as equal: a few thousand faces cannot tell them apart."""
ENGINE_BATCH = 8
"""Faces that ``edge-fer run`` puts into one call."""
DETECTORS = ("edge-fer-face", "haar")
CHECK_S = 6.0


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

    def config(self) -> RunConfig:
        return RunConfig.model_validate(
            {
                "engine": self.engine.engine,
                "backend": self.engine.backend,
                "precision": self.engine.precision,
                "threads": self.engine.threads,
                "detector": self.detector.detector,
                "detect_every": self.interval,
            }
        )


class PlanReport(Frozen):
    """The choice with everything that it was made from; ``check`` is the loop run with it, on the project's clip."""

    budget_ms: float
    faces: int
    min_accuracy: float | None
    setup: Setup
    engines: tuple[EngineTiming, ...]
    detectors: tuple[DetectorTiming, ...]
    check: CameraResult | None = None
    problems: tuple[str, ...] = ()

    def why(self) -> tuple[str, ...]:
        """The choice in sentences, for people and for the comments of the config."""
        setup = self.setup
        accuracy = "unknown accuracy"
        if setup.engine.top1 is not None:
            accuracy = f"top-1 {setup.engine.top1:.1%} ({setup.engine.accuracy_from})"
        found = [
            f"Budget {self.budget_ms:g} ms a frame for {self.faces} faces: expected {setup.expected_ms:.2f} ms, "
            "from measurements on this machine.",
            f"{setup.engine.engine} on {setup.engine.backend} {setup.engine.precision}, {setup.engine.threads} "
            f"threads: {setup.engine.ms:.2f} ms for {self.faces} faces (p90), {accuracy}.",
            f"Detector {setup.detector.detector}: {setup.detector.p90_ms:.2f} ms a search (p90), every "
            f"{'frame' if setup.interval == 1 else f'{setup.interval} frames'}.",
        ]
        if self.check is not None:
            found.append(
                f"Checked on the project's clip, one face, {self.check.camera}: frame age p50 "
                f"{self.check.age.p50:.1f}, p99 {self.check.age.p99:.1f} ms, {self.check.dropped} of "
                f"{self.check.frames + self.check.dropped} frames dropped."
            )
        return tuple(found)


def frame_ms(engine: EngineTiming, detector: DetectorTiming, interval: int, faces: int) -> float:
    """Expected time of a frame; both timings must have been measured."""
    assert engine.ms is not None
    assert detector.p90_ms is not None
    return engine.ms + faces * (detector.crop_ms or 0.0) + detector.p90_ms / interval


def choose_setup(
    engines: Sequence[EngineTiming],
    detectors: Sequence[DetectorTiming],
    *,
    budget_ms: float,
    faces: int,
    min_accuracy: float | None = None,
) -> Setup:
    """Pick the best that fits; see the module's description for the order.

    Raises:
        DeviceError: nothing fits, or nothing is accurate enough; the message names the nearest.
    """
    timed = [engine for engine in engines if engine.ms is not None]
    finders = [detector for detector in detectors if detector.p90_ms is not None]
    if not timed or not finders:
        reasons = [f"{one.engine} {one.backend} {one.precision}: {one.error}" for one in engines if one.error]
        reasons += [f"{one.detector}: {one.error}" for one in detectors if one.error]
        raise DeviceError(f"Nothing could be measured here: {'; '.join(reasons) or 'no engine and no detector'}.")
    enough = [e for e in timed if min_accuracy is None or (e.top1 is not None and e.top1 >= min_accuracy)]
    if not enough:
        known = [e for e in timed if e.top1 is not None]
        best = max(known, key=lambda e: e.top1 or 0.0, default=None)
        nearest = "; no accuracy is known" if best is None else f"; the best is {best.engine} with {best.top1:.1%}"
        raise DeviceError(
            f"Nothing here is known to reach a top-1 of {min_accuracy:.1%}{nearest}.",
            fix="Give labelled faces with --data, or lower --min-accuracy.",
        )
    setups = []
    for engine in enough:
        for detector in finders:
            for interval in range(1, LONGEST_INTERVAL + 1):
                cost = frame_ms(engine, detector, interval, faces)
                if cost <= HEADROOM * budget_ms:
                    setups.append(Setup(engine=engine, detector=detector, interval=interval, expected_ms=cost))
                    break
    if not setups:
        cost, engine, detector = min(
            ((frame_ms(e, d, LONGEST_INTERVAL, faces), e, d) for e in enough for d in finders), key=lambda one: one[0]
        )
        raise DeviceError(
            f"Nothing measured here labels {faces} faces within {budget_ms:g} ms ({HEADROOM:.0%} of it for the work). "
            f"The nearest is {engine.engine} on {engine.backend} {engine.precision} with {detector.detector}: "
            f"{cost:.1f} ms.",
            fix="Allow more time, fewer faces or a lower --min-accuracy.",
        )
    best_top1 = max(setup.engine.top1 or 0.0 for setup in setups)
    order = {detector.detector: place for place, detector in enumerate(detectors)}
    return min(
        (setup for setup in setups if (setup.engine.top1 or 0.0) >= best_top1 - TIE),
        key=lambda s: (order[s.detector.detector], s.interval, s.engine.threads, s.expected_ms),
    )


def make_plan(
    *,
    budget_ms: float,
    faces: int,
    min_accuracy: float | None = None,
    models: Sequence[str] = (),
    detectors: Sequence[str] = DETECTORS,
    frame_hw: tuple[int, int] = (720, 1280),
    data: Path | None = None,
    split: str | None = None,
    rounds: int = 3,
    seconds: float = 0.3,
    check: bool = True,
    progress: Callable[[str, int, int], None],
) -> PlanReport:
    """Measure what is here, choose, and try the choice in the loop.

    Args:
        models: bundles; empty means all that ship with the project.
        detectors: in order of preference; what cannot be opened is left out and told.
        data: labelled faces; without them the accuracy that the bundle records is used.

    Raises:
        DeviceError: see :func:`choose_setup`.
        EdgeFerError: a model cannot be opened.
    """
    bundles = {name: open_bundle(find_bundle(name)) for name in models} or _shipped()
    for bundle in bundles.values():
        bundle.manifest.classifier  # noqa: B018 (raises what is wrong with a detector's bundle)
    counts = tuple(sorted({1, max(1, usable_threads() // 2), usable_threads()}))
    pairs = dict.fromkeys(pair for bundle in bundles.values() for pair in candidates(bundle, "auto", "auto"))
    batch = min(faces, ENGINE_BATCH)
    plan = Plan(
        name="plan",
        models=tuple(ModelEntry(name=name, bundle=str(bundle.path)) for name, bundle in bundles.items()),
        run=tuple(f"{backend}:{precision}" for backend, precision in pairs),
        threads=counts,
        batches=(batch,),
        rounds=rounds,
        min_seconds=seconds,
        warm_up_seconds=seconds / 2,
        timeout_s=120.0 + 4 * seconds,
    )
    outcomes = run_plan(plan, data=data, split=split, progress=progress)
    engines = tuple(_engine_timing(one, bundles[one.case.model], math.ceil(faces / batch)) for one in outcomes)
    timings = []
    for index, name in enumerate(detectors):
        progress(f"detector {name}", index, len(detectors))
        timings.append(
            time_detector(TimingOrder(detector=name, frame_hw=frame_hw, bundle=str(next(iter(bundles.values())).path)))
        )
    setup = choose_setup(engines, timings, budget_ms=budget_ms, faces=faces, min_accuracy=min_accuracy)
    report = PlanReport(
        budget_ms=budget_ms,
        faces=faces,
        min_accuracy=min_accuracy,
        setup=setup,
        engines=engines,
        detectors=tuple(timings),
        problems=tuple(f"{one.detector} is not used: {one.error}" for one in timings if one.error),
    )
    if not check:
        return report
    progress(f"trying it for {CHECK_S:g} s", 0, 1)
    try:
        tried = measure_camera(
            CameraPlan(
                seconds=CHECK_S,
                engine=setup.engine.engine,
                backend=setup.engine.backend,
                precision=setup.engine.precision,
                detector=setup.detector.detector,
                detect_every=setup.interval,
                threads=setup.engine.threads,
            )
        )
    except EdgeFerError as error:
        return report.model_copy(update={"problems": (*report.problems, f"The choice could not be tried: {error}")})
    return report.model_copy(update={"check": tried})


def _shipped() -> dict[str, Bundle]:
    """Every classifier that ships with the project, by name."""
    found = {}
    for path in sorted(find_bundle().parent.glob("*/manifest.json")):
        try:
            bundle = open_bundle(path.parent)
        except BundleError:
            continue  # a built engine, or a half-made folder of a developer's
        if isinstance(bundle.manifest.model, ModelSpec):
            found[path.parent.name] = bundle
    return found


def _engine_timing(outcome: Outcome, bundle: Bundle, calls: int) -> EngineTiming:
    case = outcome.case
    top1, source = outcome.top1, "measured now"
    if top1 is None:
        records = [r for r in bundle.manifest.accuracy if r.precision == case.precision]
        records.sort(key=lambda record: record.backend != case.runtime)  # this backend's own record first
        if records:
            top1, source = records[0].top1, f"recorded by the bundle on {records[0].data} with {records[0].backend}"
    samples = [sample for r in outcome.rounds_ns for sample in r]
    return EngineTiming(
        engine=case.model,
        backend=case.runtime,
        precision=case.precision,
        threads=case.threads,
        ms=None if outcome.error or not samples else calls * float(np.percentile(samples, 90)) / 1e6,
        top1=top1,
        accuracy_from="" if top1 is None else source,
        error=outcome.error,
    )
