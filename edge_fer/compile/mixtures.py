"""Int8 forms that leave a kind of layer in floating point, because on this machine that may be faster.

Int8 pays where arithmetic dominates. A depthwise convolution reads almost as much as it computes, the first
convolution has a handful of input channels, and a dense layer over pixels stands between normalisations that stay in
floating point: there, converting to int8 and back can cost more than int8 saves, and which runtime suffers from what
changes with its version. So it is measured, for each kind as a whole.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from edge_fer.backends.race import Timing
from edge_fer.compile.graph import Graph
from edge_fer.compile.plan import Plan
from edge_fer.compile.quantize_int8 import is_depthwise
from edge_fer.core.engine import INPUT

MARGIN = 1.03
"""How many times as fast as int8 throughout a mixture must be: below that, the simpler form is kept."""


def kinds(graph: Graph, plan: Plan) -> dict[str, frozenset[str]]:
    """Layers of a plan by kind, for the kinds that int8 may not pay for; names are for people.

    A kind that is all of the plan is left out: without it nothing would be int8.
    """
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        if node.name not in plan.layers:
            continue
        if node.op_type != "Conv":
            found.setdefault("dense layers", set()).add(node.name)
        elif is_depthwise(node, graph.array(node.input[1])):
            found.setdefault("depthwise convolutions", set()).add(node.name)
        elif node.input[0] == INPUT:
            found.setdefault("the first convolution", set()).add(node.name)
    return {kind: frozenset(names) for kind, names in found.items() if names != set(plan.layers)}


def gain(whole: Sequence[Timing], mixture: Sequence[Timing]) -> float:
    """How many times as fast a mixture is as int8 throughout, each on the backend that is the fastest with it.

    Args:
        whole, mixture: timings on the same backends, of the same rounds. Without times there is no gain: 0.

    Returns:
        the lower quartile over rounds of the ratio within a round: a mixture has to be faster in most of them.
    """
    best = [min((t for t in side if t.rounds_us), key=_median, default=None) for side in (whole, mixture)]
    if best[1] is None:
        return 0.0
    if best[0] is None:
        return float("inf")
    ratios = sorted(a / b for a, b in zip(best[0].rounds_us, best[1].rounds_us, strict=False))
    return ratios[len(ratios) // 4]


def promising(found: Mapping[str, float]) -> list[str]:
    """Kinds whose mixture is faster than int8 throughout, the most gainful first."""
    return sorted((kind for kind, value in found.items() if value >= MARGIN), key=lambda kind: -found[kind])


def _median(timing: Timing) -> float:
    return statistics.median(timing.rounds_us)


__all__ = ["MARGIN", "gain", "kinds", "promising"]
