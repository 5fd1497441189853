"""The roofline: what no implementation could beat, from a network's layers and a device's peaks.

Per layer the larger of arithmetic and memory time, summed (Williams et al., "Roofline", 2009, applied layer by layer as
the layers depend on each other). Direct convolution: Winograd and FFT need fewer operations and are not considered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edge_fer.bench.layers import LayerCost
from edge_fer.bench.profiles import DeviceProfile, Peak
from edge_fer.core.spec import Frozen

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
"""Of a value, weight or activation, in memory."""


class LayerBound(Frozen):
    """Milliseconds of one layer for a whole batch, and what they are made of."""

    layer: LayerCost
    compute_ms: float
    memory_ms: float

    @property
    def bound_ms(self) -> float:
        return max(self.compute_ms, self.memory_ms)


class ModelledBound(Frozen):
    """A network on a device: modelled, or measured there and submitted.

    Attributes:
        profile: key of the device.
        bound_ms: modelled lower bound of a call; nobody measured it.
        memory_share: part of ``bound_ms`` in layers that memory limits, 0..1.
        measured_ms: median of a submitted measurement, which stands in the table instead of the bound.
        measured_by: device and runtime of that measurement.
    """

    profile: str
    device: str
    model: str
    precision: str
    batch: int
    gmac: float
    bound_ms: float
    memory_share: float
    measured_ms: float | None = None
    measured_by: str = ""

    @property
    def kind(self) -> Literal["modelled bound", "measured"]:
        return "modelled bound" if self.measured_ms is None else "measured"


def layer_bounds(
    costs: Sequence[LayerCost], precision: str, *, ops_per_s: float, bytes_per_s: float, batch: int = 1
) -> tuple[LayerBound, ...]:
    """Bounds of every layer. Weights are read once a call, activations once a sample."""
    size = BYTES[precision]
    return tuple(
        LayerBound(
            layer=cost,
            compute_ms=1e3 * 2 * cost.macs * batch / ops_per_s,
            memory_ms=1e3 * size * (cost.weights + cost.moved * batch) / bytes_per_s,
        )
        for cost in costs
    )


def total_ms(bounds: Sequence[LayerBound]) -> float:
    return sum(bound.bound_ms for bound in bounds)


def working_set_bytes(costs: Sequence[LayerCost], precision: str, batch: int = 1) -> int:
    """All weights and the largest layer's activations: what a cache would have to hold between two calls."""
    return BYTES[precision] * (sum(c.weights for c in costs) + batch * max((c.moved for c in costs), default=0))


def model_bound(
    profile_key: str, profile: DeviceProfile, model: str, costs: Sequence[LayerCost], precision: str, batch: int = 1
) -> ModelledBound | None:
    """The bound of one network on a device, or ``None`` where the profile has no peak for the precision."""
    peak: Peak | None = profile.ops.get(precision)
    if peak is None:
        return None
    bounds = layer_bounds(costs, precision, ops_per_s=peak.value, bytes_per_s=profile.bandwidth.value, batch=batch)
    whole = total_ms(bounds)
    return ModelledBound(
        profile=profile_key,
        device=profile.name,
        model=model,
        precision=precision,
        batch=batch,
        gmac=sum(cost.macs for cost in costs) / 1e9,
        bound_ms=whole,
        memory_share=sum(b.bound_ms for b in bounds if b.memory_ms > b.compute_ms) / whole,
    )
