"""Single models measured again, in place of their older cases: for when one network has changed and the others have
not.

Only whole models are exchanged. Ratios compare cases of the same rounds, so that a case which was measured today and
its baseline of last week would make a figure that nobody measured.
"""

from __future__ import annotations

from edge_fer import __version__
from edge_fer.backends.host import cpu_identity
from edge_fer.bench.plan import Plan
from edge_fer.bench.results import BenchResult, Remeasured, mark_pareto, package_versions
from edge_fer.core.errors import BadInputError, UsageError

PACE = ("run", "threads", "batches", "rounds", "min_seconds", "min_iterations", "warm_up_seconds")
"""What of two plans must agree, beside the models themselves."""


def check_mergeable(base: BenchResult, plan: Plan, data: str | None) -> None:
    """Refuse, before anything is measured, a run whose cases may not stand beside those of ``base``.

    Args:
        plan: what is to be measured: some models of the plan of ``base``.
        data: what accuracy is to be measured on, as results call it.

    Raises:
        BadInputError: another machine, or other versions, so that nothing of it can be repeated here.
        UsageError: other models or settings than those of ``base``.
    """
    if base.device_identity != cpu_identity():
        raise BadInputError(
            f"The result is of another device, {base.device_identity}: its cases can only be measured again there.",
            fix="Measure its whole plan here, without --merge.",
        )
    now = {"edge-fer": __version__, **package_versions()}
    then = {"edge-fer": base.edge_fer_version, **base.packages}
    if other := [
        f"{name} {then.get(name, 'absent')}" for name in sorted({*now, *then}) if now.get(name) != then.get(name)
    ]:
        raise BadInputError(
            f"The result is of other versions ({', '.join(other)}): beside its cases new ones would mislead.",
            fix="Measure the whole plan again, without --merge.",
        )
    if foreign := [model.name for model in plan.models if model not in base.plan.models]:
        raise UsageError(
            f"The result's plan does not have {', '.join(foreign)} as it is to be measured now.",
            fix="Name the plan that the result was made with, and no --model.",
        )
    if differing := [name for name in PACE if getattr(plan, name) != getattr(base.plan, name)]:
        raise UsageError(
            f"The result was measured with another {', '.join(name.replace('_', ' ') for name in differing)}.",
            fix="Name the plan that the result was made with, and change nothing of it but --only.",
        )
    trained = [model.name for model in plan.models if model.bundle is not None]
    if trained and base.data is not None and data != base.data:
        raise UsageError(
            f"{', '.join(trained)} has an accuracy on {base.data} in the result, which would be lost.",
            fix="Give the same --data and --split.",
        )


def merge(base: BenchResult, fresh: BenchResult, command: str = "") -> BenchResult:
    """``base`` with the models of ``fresh`` in place of its own; every case says when it was measured.

    Camera and peaks stay those of ``base``. Bounds on other devices follow the networks as they are now; what a real
    device has measured stays.

    Args:
        fresh: a result whose plan :func:`check_mergeable` accepted.
        command: the line that repeats ``fresh``.
    """
    models = {model.name for model in fresh.plan.models}
    new = {case.case.key: case for case in fresh.cases}
    older = {
        case.case.key: case.model_copy(update={"measured_utc": case.measured_utc or base.measured_utc})
        for case in base.cases
        if case.case.model not in models
    }
    found = older | new
    bounds = {(bound.profile, bound.model, bound.precision, bound.batch): bound for bound in fresh.bounds}
    later = Remeasured(
        models=tuple(model.name for model in fresh.plan.models),
        measured_utc=fresh.measured_utc,
        before=fresh.before,
        after=fresh.after,
        disturbance=fresh.disturbance,
        command=command,
    )
    # An older run of which nothing is left in the table has nothing to tell.
    kept = tuple(
        run.model_copy(update={"models": left})
        for run in base.remeasured
        if (left := tuple(name for name in run.models if name not in models))
    )
    update = {
        "cases": mark_pareto(tuple(found[case.key] for case in base.plan.cases() if case.key in found)),
        "bounds": tuple(
            bound
            if (now := bounds.get((bound.profile, bound.model, bound.precision, bound.batch))) is None
            else now.model_copy(update={"measured_ms": bound.measured_ms, "measured_by": bound.measured_by})
            for bound in base.bounds
        ),
        "remeasured": (*kept, later),
    }
    return base.model_copy(update=update)
