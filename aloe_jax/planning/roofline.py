"""The shortest time of a step: what its arithmetic, its memory traffic and its exchanges take at the chip's peak."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from aloe_jax.parallel.chips import Slice
from aloe_jax.planning.demand import Demand
from aloe_jax.planning.geometry import Geometry


@dataclass(frozen=True)
class Roofline:
    """Seconds of one step; each bound as if the other two cost nothing."""

    compute: float
    memory: float
    axes: dict[str, float] = field(default_factory=dict)  # of exchanges, by mesh axes or "network"

    @property
    def interconnect(self) -> float:
        """Exchanges along different axes one after the other, the network beside them."""
        return max(sum(time for name, time in self.axes.items() if name != NETWORK), self.axes.get(NETWORK, 0.0))

    @property
    def bound(self) -> float:
        """The step takes at least as long."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def limit(self) -> str:
        """What bounds it."""
        times = {"compute": self.compute, "memory": self.memory, "interconnect": self.interconnect}
        return max(times, key=lambda name: times[name])

    @property
    def serial(self) -> float:
        """The step takes so long if nothing runs beside anything else."""
        return max(self.compute, self.memory) + sum(self.axes.values())


NETWORK = "network between slices"


def roofline(flops: float, demand: Demand, where: Slice, geometry: Geometry) -> Roofline:
    """The bounds of a step of `flops` computed operations over all chips, of which each has `demand`."""
    axes: dict[str, float] = defaultdict(float)
    for each in demand.exchanges:
        within, between = geometry.seconds(each)
        if within:
            axes[" x ".join(each.axes)] += within
        if between:
            axes[NETWORK] += between
    return Roofline(flops / where.chips / where.chip.flops, demand.traffic / where.chip.bandwidth, dict(axes))
