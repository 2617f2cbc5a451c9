"""The shortest time of a step: what its arithmetic, its memory traffic and its exchanges take at the chip's peak.

How fast chips along a mesh axis exchange follows from the links of the slice that they have between them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jax.sharding import Mesh

from aloe_jax.parallel.chips import Slice
from aloe_jax.parallel.mesh import AXES
from aloe_jax.planning.demand import AnyMesh, Demand, Transfer


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
    """The bounds of a step of `flops` computed operations over all chips; `demand` is that of one."""
    axes: dict[str, float] = defaultdict(float)
    for each in demand.exchanges:
        within, between = geometry.seconds(each)
        if within:
            axes[" x ".join(each.axes)] += within
        if between:
            axes[NETWORK] += between
    return Roofline(flops / where.chips / where.chip.flops, demand.traffic / where.chip.bandwidth, dict(axes))


class Geometry:
    """Positions of the mesh's devices in the slice: the real ones, or in the order of the mesh where there are none."""

    def __init__(self, where: Slice, mesh: AnyMesh) -> None:
        self.where = where
        self.sizes = tuple(mesh.shape[axis] for axis in AXES)
        if isinstance(mesh, Mesh) and hasattr(mesh.devices.flat[0], "coords") and where.chip.is_tpu:
            positions = [(getattr(d, "slice_index", 0) or 0, *d.coords[: len(where.sides)]) for d in mesh.devices.flat]
            self.positions = np.array(positions)
            self.positions[:, 1:] -= self.positions[:, 1:].min(axis=0)
        else:
            order = np.arange(where.chips)
            self.positions = np.stack(np.unravel_index(order, (where.slices, *where.sides)), axis=1)
        self.positions = self.positions.reshape(
            *self.sizes, -1
        )  # [data,fsdp,tensor,1 + sides]: slice, then coordinates

    def seconds(self, each: Transfer) -> tuple[float, float]:
        """How long an exchange takes at least: (over links within slices, over the network between them).

        Chips along one side of a slice pass pieces on from neighbour to neighbour, in both directions where the side
        is a ring, so what each sends shares the links of all sides that the group spans.
        """
        within, between = self.spans(each.axes)
        members = int(np.prod([self.sizes[AXES.index(axis)] for axis in each.axes]))
        chip, inner = self.where.chip, members // between
        if between == 1:
            return each.bytes / self.speed(within), 0.0
        # First within every slice, then a chip's share between slices.
        whole = each.bytes * members / (members - 1)
        network = whole * (between - 1) / between / inner / chip.network
        return (whole * (inner - 1) / inner / self.speed(within) if inner > 1 else 0.0), network

    def speed(self, sides: Sequence[tuple[int, int]]) -> float:
        """Bytes a second that a chip sends along these (side, chips) at best."""
        chip = self.where.chip
        if not chip.is_tpu:
            return chip.link
        links = sum(2 if self.where.closed(side) and chips == self.where.sides[side] else 1 for side, chips in sides)
        return max(1, links) * chip.link

    def spans(self, axes: Sequence[str]) -> tuple[list[tuple[int, int]], int]:
        """The sides that a group along these axes spans, with their numbers of chips, and its number of slices."""
        index = tuple(slice(None) if axis in axes else 0 for axis in AXES)
        group = self.positions[index].reshape(-1, self.positions.shape[-1])
        counts = [len(np.unique(column)) for column in group.T]
        return [(side, count) for side, count in enumerate(counts[1:]) if count > 1], counts[0]
