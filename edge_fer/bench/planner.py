"""``edge-fer plan``: from a time budget and measurements on this machine to the settings of ``edge-fer run``.

What :mod:`edge_fer.bench.setups` ranks first is tried: the loop runs on a camera that delivers a frame each budget,
with as many faces as were asked for. A choice that loses frames there is put aside for a cheaper one, and the report
says so.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from edge_fer.backends.choose import candidates
from edge_fer.bench.camera import CameraResult, measure_camera
from edge_fer.bench.conditions import disturbance, ticks
from edge_fer.bench.crowd import write_crowd
from edge_fer.bench.detector_timing import DetectorTiming, TimingOrder, time_detector
from edge_fer.bench.measure import Outcome, run_plan
from edge_fer.bench.plan import CameraPlan, ModelEntry, Plan
from edge_fer.bench.setups import EngineTiming, Setup, accurate_enough, rank_setups
from edge_fer.core.bundle import Bundle, find_bundle, open_bundle
from edge_fer.core.errors import BundleError, DeviceError, EdgeFerError
from edge_fer.core.spec import Frozen, ModelSpec
from edge_fer.core.threads import usable_threads
from edge_fer.runtime.detectors.smallest_face import default_min_face

ENGINE_BATCH = 8
"""Faces that ``edge-fer run`` puts into one call."""
DETECTORS = ("edge-fer-face", "haar")
CHECK_S = 6.0
TRIALS = 3
"""Choices that are tried in the loop before the planner gives up."""
CHEAPER = 0.75
"""The next choice to try is expected to cost at most this part of the one that did not hold."""
MOST_DROPPED = 0.02
"""Part of the frames that a choice may drop when it is tried."""
FASTEST_CAMERA = 240.0


class PlanReport(Frozen):
    """The choice with everything that it was made from.

    Attributes:
        check: the loop run with it, on as many faces and at the pace of the budget; ``None`` when it was not tried.
        held: whether it kept up there; ``None`` likewise.
        problems: what speaks against it, as sentences.
    """

    budget_ms: float
    faces: int
    min_accuracy: float | None
    setup: Setup
    engines: tuple[EngineTiming, ...]
    detectors: tuple[DetectorTiming, ...]
    check: CameraResult | None = None
    held: bool | None = None
    problems: tuple[str, ...] = ()

    def why(self) -> tuple[str, ...]:
        """The choice in sentences, for people and for the comments of the config."""
        setup = self.setup
        engine, faces = setup.engine, f"{self.faces} face{'s' * (self.faces > 1)}"
        accuracy = "unknown accuracy"
        if engine.top1 is not None:
            accuracy = f"top-1 {engine.top1:.1%} ({engine.accuracy_from})"
        found = [
            f"Budget {self.budget_ms:g} ms a frame for {faces}: expected {setup.expected_ms:.2f} ms, from measurements "
            "on this machine.",
            f"{engine.engine} on {engine.backend} {engine.precision}, {engine.threads} "
            f"thread{'s' * (engine.threads > 1)}: {engine.ms:.2f} ms for {faces} (p90), {accuracy}.",
            f"Detector {setup.detector.detector}: {setup.detector.p90_ms:.2f} ms a search (p90), every "
            f"{'frame' if setup.interval == 1 else f'{setup.interval} frames'}.",
        ]
        if self.check is not None:
            found.append(
                f"Tried in the loop for {self.check.seconds:.0f} s with {faces} a frame, "
                f"{_camera_fps(self.budget_ms):.3g} frames a second: {_tried(self.check)}."
            )
        return (*found, *self.problems)


def _camera_fps(budget_ms: float) -> float:
    """Of the camera at whose pace a choice is tried."""
    return min(FASTEST_CAMERA, 1e3 / budget_ms)


def _tried(check: CameraResult) -> str:
    return (
        f"{check.dropped} of {check.frames + check.dropped} frames dropped, frame age p50 {check.age.p50:.1f}, p99 "
        f"{check.age.p99:.1f} ms, {check.faces / check.frames:.1f} faces found a frame"
    )


def make_plan(
    *,
    budget_ms: float,
    faces: int,
    min_accuracy: float | None = None,
    models: Sequence[str] = (),
    detectors: Sequence[str] = DETECTORS,
    frame_hw: tuple[int, int] = (720, 1280),
    min_face: int | None = None,
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
        min_face: the smallest face wanted, pixels; ``None`` is what ``edge-fer run`` takes.
        data: labelled faces; without them the accuracy that the bundle records is used.

    Raises:
        DeviceError: see :func:`rank_setups`.
        EdgeFerError: a model cannot be opened.
    """
    bundles = {name: open_bundle(find_bundle(name)) for name in models} or _shipped()
    for bundle in bundles.values():
        bundle.manifest.classifier  # noqa: B018 (raises what is wrong with a detector's bundle)
    began = ticks()
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
    if data is None:  # then the bundles' records decide, and what they rule out need not be measured first
        accurate_enough([_engine_timing(Outcome(case), bundles[case.model], 1) for case in plan.cases()], min_accuracy)
    outcomes = run_plan(plan, data=data, split=split, progress=progress)
    engines = tuple(_engine_timing(one, bundles[one.case.model], math.ceil(faces / batch)) for one in outcomes)
    orders = [
        TimingOrder(
            detector=name,
            frame_hw=frame_hw,
            faces=faces,
            min_face=min_face,
            bundle=str(next(iter(bundles.values())).path),
        )
        for name in detectors
    ]
    rounds_of: dict[str, list[DetectorTiming]] = {}
    for turn in range(rounds):
        for index, order in enumerate(orders):
            progress(f"detector {order.detector}, round {turn + 1} of {rounds}", index, len(orders))
            if not any(timing.error for timing in rounds_of.get(order.detector, ())):
                rounds_of.setdefault(order.detector, []).append(time_detector(order))
    timings = tuple(_median_timing(found) for found in rounds_of.values())
    taken = disturbance(began, ticks())
    problems = [f"{one.detector} is not used: {one.error}" for one in timings if one.error]
    problems += [
        f"{one.detector} found {one.found:.0%} of the {faces} faces of the frames that it was timed on."
        for one in timings
        if one.found is not None and one.found < 0.9
    ]
    busy = []
    if taken is not None and taken.doubtful:
        busy = [
            f"Other work took {taken.others + taken.stolen:.0%} of the processor while this was measured: on a quiet "
            "machine the choice may be another one."
        ]
    problems += busy
    try:
        setups = rank_setups(engines, timings, budget_ms=budget_ms, faces=faces, min_accuracy=min_accuracy)
    except DeviceError as error:
        raise DeviceError(" ".join([error.message, *busy]), fix=error.fix) from None
    report = PlanReport(
        budget_ms=budget_ms,
        faces=faces,
        min_accuracy=min_accuracy,
        setup=setups[0],
        engines=engines,
        detectors=timings,
        problems=tuple(problems),
    )
    return try_out(report, setups, frame_hw, min_face, progress) if check else report


def _median_timing(rounds: Sequence[DetectorTiming]) -> DetectorTiming:
    """Medians over the rounds; the first error, if there is one."""
    failed = next((one for one in rounds if one.error), None)
    if failed is not None:
        return failed

    def median(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    return DetectorTiming(
        detector=rounds[0].detector,
        p50_ms=median(one.p50_ms for one in rounds),
        p90_ms=median(one.p90_ms for one in rounds),
        found=median(one.found for one in rounds),
        crop_ms=median(one.crop_ms for one in rounds),
    )


def try_out(
    report: PlanReport,
    setups: Sequence[Setup],
    frame_hw: tuple[int, int],
    min_face: int | None,
    progress: Callable[[str, int, int], None],
    loop: Callable[[CameraPlan], CameraResult] = measure_camera,
) -> PlanReport:
    """Run the loop with the choice, and with cheaper ones while it does not keep up.

    Args:
        setups: all that fits, the best first.
        loop: what runs the loop.

    Returns:
        the report with the first setup that kept up, or else with the one that dropped the fewest frames.
    """
    problems = list(report.problems)
    tried: list[tuple[Setup, CameraResult]] = []
    with tempfile.TemporaryDirectory(prefix="edge-fer-plan-", ignore_cleanup_errors=True) as folder:
        clip = Path(folder) / f"{report.faces}-faces.mp4"
        try:
            write_crowd(clip, report.faces, frame_hw)
            setup: Setup | None = setups[0]
            while setup is not None and len(tried) < TRIALS:
                progress(f"trying it for {CHECK_S:g} s", len(tried), TRIALS)
                check = loop(_camera(setup, report, clip, min_face or default_min_face(frame_hw[0])))
                tried.append((setup, check))
                if check.dropped <= MOST_DROPPED * (check.frames + check.dropped):
                    break
                problems.append(
                    f"{_name(setup)} was to cost {setup.expected_ms:.1f} ms, but in the loop {_tried(check)}."
                )
                limit = CHEAPER * setup.expected_ms
                setup = next((one for one in setups if one.expected_ms <= limit), None)
        except EdgeFerError as error:
            problems.append(f"The choice could not be tried: {error}")
    if not tried:
        return report.model_copy(update={"problems": tuple(problems)})
    held = tried[-1][1].dropped <= MOST_DROPPED * (tried[-1][1].frames + tried[-1][1].dropped)
    setup, check = tried[-1] if held else min(tried, key=lambda one: one[1].dropped)
    if not held:
        problems.append(
            f"Nothing that was tried keeps up with a frame each {report.budget_ms:g} ms here; this drops the fewest. "
            "Allow more time, or fewer or smaller frames."
        )
    update = {"setup": setup, "check": check, "held": held, "problems": tuple(problems)}
    return report.model_copy(update=update)


def _name(setup: Setup) -> str:
    engine = setup.engine
    return (
        f"{engine.engine} on {engine.backend} {engine.precision} with {setup.detector.detector} every "
        f"{setup.interval} frame{'s' * (setup.interval > 1)}"
    )


def _camera(setup: Setup, report: PlanReport, clip: Path, min_face: int) -> CameraPlan:
    return CameraPlan(
        seconds=CHECK_S,
        fps=_camera_fps(report.budget_ms),
        clip=str(clip),
        engine=setup.engine.engine,
        backend=setup.engine.backend,
        precision=setup.engine.precision,
        detector=setup.detector.detector,
        detect_every=setup.interval,
        min_face=min_face,
        threads=setup.engine.threads,
    )


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
