"""A whole benchmark: the cases of a plan, the camera, this machine's peaks, and bounds on other devices."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_fer.backends.host import cpu_identity
from edge_fer.bench.camera import measure_camera
from edge_fer.bench.conditions import disturbance, look, ticks
from edge_fer.bench.device import describe_machine
from edge_fer.bench.jobs import measure
from edge_fer.bench.layers import LayerCost, layer_costs
from edge_fer.bench.measure import Progress, check_gpu, prepare_models, run_plan
from edge_fer.bench.peaks import CpuPeaks, best_of, measure_compute, measure_memory, measure_peaks
from edge_fer.bench.plan import Plan
from edge_fer.bench.prepare import PreparedModel
from edge_fer.bench.profiles import DeviceProfile, device_profiles, find_profile
from edge_fer.bench.results import BenchResult, CaseResult, Surroundings, summarise
from edge_fer.bench.roofline import ModelledBound, layer_bounds, model_bound, total_ms, working_set_bytes
from edge_fer.core.errors import BadInputError, EdgeFerError

OVERHEAD_S = 0.1


def run_benchmark(
    plan: Plan,
    *,
    data: Path | None = None,
    split: str | None = None,
    data_name: str | None = None,
    roofline: bool = False,
    profiles: Sequence[str] = (),
    submitted: Sequence[BenchResult] = (),
    base: BenchResult | None = None,
    progress: Progress,
) -> tuple[BenchResult, list[str]]:
    """Measure everything that is asked for.

    Args:
        data, split: labelled faces for accuracy, called ``data_name`` in the result.
        roofline: measure this processor's peaks, and relate every case to the bound that they give. Memory is
            measured between the rounds, when the cases are.
        profiles: keys of device profiles to model.
        submitted: results of real devices; each stands in for its profile's bounds.
        base: an older result whose peaks and device profiles are to be used; see :mod:`edge_fer.bench.merge`.

    Returns:
        the result, and what could not be measured beside the cases, as sentences.

    Raises:
        UsageError: no such profile.
        BadInputError: a submitted result is of no device that has a profile.
    """
    older = () if base is None else tuple(bound.profile for bound in base.bounds)
    wanted = dict.fromkeys([*profiles, *(profile_of(result) for result in submitted), *older])
    devices = {key: find_profile(key) for key in wanted}
    problems: list[str] = []
    clock = statistics.median(measure(_nothing, OVERHEAD_S, 1000)) / 1e3
    machine = describe_machine()
    before, began = look(machine.noise), ticks()
    check_gpu(plan)
    found: list[CpuPeaks] = [base.peaks] if base is not None and base.peaks is not None else []

    def between() -> None:
        if roofline:
            found.append(measure_memory(plan.threads, progress))

    with tempfile.TemporaryDirectory(prefix="edge-fer-bench-", ignore_cleanup_errors=True) as folder:
        models = prepare_models(plan, Path(folder), progress)
        outcomes = run_plan(plan, data=data, split=split, progress=progress, models=models, between=between)
        taken = disturbance(began, ticks())
        costs = _costs(models, problems) if roofline or devices or found else {}
    after = look(describe_machine().noise)
    around = Surroundings(machine=machine, before=before, after=after, disturbance=taken, clock_overhead_us=clock)
    result = summarise(plan, outcomes, data_name, around)
    if plan.camera is not None:
        progress(f"camera to label, {plan.camera.seconds:g} s", 0, 1)
        try:
            result = result.model_copy(update={"camera": measure_camera(plan.camera)})
        except EdgeFerError as error:
            problems.append(f"No camera figures: {error}")
    if roofline:
        try:
            found.append(measure_compute(plan.threads, progress))
        except EdgeFerError as error:
            problems.append(f"No roofline: {error}")
            found.clear()
    if found:
        peaks = best_of(*found)
        cases = tuple(with_bound(case, costs, peaks) for case in result.cases)
        result = result.model_copy(update={"peaks": peaks, "cases": cases})
    bounds = replace_by_measured(modelled(plan, devices, costs), [*submitted, result])
    return result.model_copy(update={"bounds": bounds}), problems


def with_roofline(result: BenchResult, progress: Progress) -> tuple[BenchResult, list[str]]:
    """A result of this machine with this machine's peaks, measured now, and every case related to its bound. Where the
    result has peaks already, the better ones count.

    Returns:
        the result, and what could not be done, as sentences.

    Raises:
        BadInputError: it was measured on another device.
        EdgeFerError: the peaks cannot be measured.
    """
    if result.device_identity != cpu_identity():
        raise BadInputError(
            f"The result is of another device, {result.device_identity}: its peaks can only be measured there.",
            fix="Leave --roofline out, or measure the plan here: edge-fer bench --plan PLAN.yaml --roofline",
        )
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="edge-fer-bench-", ignore_cleanup_errors=True) as folder:
        costs = _costs(prepare_models(result.plan, Path(folder), progress), problems)
    peaks = best_of(*([] if result.peaks is None else [result.peaks]), measure_peaks(result.plan.threads, progress))
    cases = tuple(with_bound(case, costs, peaks) for case in result.cases)
    return result.model_copy(update={"peaks": peaks, "cases": cases}), problems


def _nothing() -> None: ...


def _costs(models: Mapping[str, PreparedModel | str], problems: list[str]) -> dict[str, tuple[LayerCost, ...]]:
    """Layer costs of every model that could be prepared."""
    found = {}
    for name, model in models.items():
        if isinstance(model, str):
            continue  # told in the line of its cases
        try:
            found[name] = layer_costs(model.onnx["fp32"])
        except ModuleNotFoundError as error:
            problems.append(
                f"No bounds: {error.name} is not installed. Install it with: pip install 'edge-fer[compile]'"
            )
            return {}
        except (EdgeFerError, KeyError) as error:
            problems.append(f"No bound of {name}: {error}")
    return found


def with_bound(case: CaseResult, costs: Mapping[str, Sequence[LayerCost]], peaks: CpuPeaks) -> CaseResult:
    """The case with the bound that this machine's peaks give, where they are known for its precision and threads."""
    layers = costs.get(case.case.model)
    if layers is None or case.p50_ms is None or case.gpu:
        return case
    precision, threads, batch = case.case.precision, case.case.threads, case.case.batch
    ops = peaks.ops_per_s(precision, threads)
    rate = peaks.bytes_per_s(working_set_bytes(layers, precision, batch), threads)
    if ops is None or rate is None:
        return case
    bounds = layer_bounds(layers, precision, ops_per_s=ops, bytes_per_s=rate, batch=batch)
    return case.model_copy(update={"bound_ms": total_ms(bounds)})


def modelled(
    plan: Plan, devices: Mapping[str, DeviceProfile], costs: Mapping[str, Sequence[LayerCost]]
) -> tuple[ModelledBound, ...]:
    """Bounds of every model of the plan on every device, in each precision that the device has a peak for."""
    return tuple(
        bound
        for key, device in devices.items()
        for name, layers in costs.items()
        for batch in plan.batches
        for precision in device.ops
        if (bound := model_bound(key, device, name, layers, precision, batch)) is not None
    )


def profile_of(result: BenchResult) -> str:
    """Key of the profile of the device that a result, or a case of it, is from.

    Raises:
        BadInputError: there is none.
    """
    devices = dict.fromkeys(case.gpu or result.device for case in result.cases) or {result.device: None}
    for key, profile in device_profiles().profiles.items():
        if any(profile.is_named_by(device) for device in devices):
            return key
    raise BadInputError(
        f"The submitted result is from {' and '.join(devices)}, which no device profile describes.",
        fix=f"Profiles: {', '.join(device_profiles().profiles)}.",
    )


def replace_by_measured(bounds: Sequence[ModelledBound], submitted: Sequence[BenchResult]) -> tuple[ModelledBound, ...]:
    """Put the fastest measurement of the same model, precision and faces on its device in place of each bound."""
    replaced = []
    for bound in bounds:
        found = [
            (case.p50_ms, f"{case.gpu or result.device}, {case.case.runtime}")
            for result in submitted
            for case in result.cases
            if case.p50_ms is not None
            and find_profile(bound.profile).is_named_by(case.gpu or result.device)
            and (case.case.model, case.case.precision, case.case.batch) == (bound.model, bound.precision, bound.batch)
        ]
        if found:
            fastest, where = min(found)
            bound = bound.model_copy(update={"measured_ms": fastest, "measured_by": where})
        replaced.append(bound)
    return tuple(replaced)
