"""What one step asks of one chip: memory, traffic of that memory, and exchanges with other chips."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple  # noqa: TID251  see AnyMesh

from jax.sharding import Mesh
from jax.stages import Compiled

from aloe_jax.parallel.collectives import collectives
from aloe_jax.parallel.program_text import Program
from aloe_jax.planning.traffic import memory_traffic

# A Mesh, or where there are no devices an AbstractMesh, with the same axes and sizes. JAX has no public type for both.
AnyMesh = Any


class Transfer(NamedTuple):
    """All exchanges of one kind along the same mesh axes, over a step."""

    kind: str
    axes: tuple[str, ...]
    dtype: str
    bytes: float  # that a chip sends


@dataclass(frozen=True)
class Demand:
    """Of one chip in one step; bytes."""

    source: Literal["compiled", "estimated"]
    peak: int  # the most memory at one time
    arguments: int  # of that, what stays in memory between steps: parameters, optimizer state, batch
    traffic: float  # read from and written to memory
    exchanges: tuple[Transfer, ...]

    @property
    def temporaries(self) -> int:
        """Of the peak, what a step needs while it runs."""
        return max(0, self.peak - self.arguments)


SENT = {  # of an array of which n chips have a part or a copy: how much one of them sends
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}


def exchange(kind: str, axes: Sequence[str], dtype: str, size: float, mesh: AnyMesh) -> Transfer:
    """The exchange of an array of `size` bytes: the whole one that is gathered, reduced or scattered."""
    members = math.prod(mesh.shape[axis] for axis in axes)
    return Transfer(kind, tuple(axes), dtype, SENT[kind](members) * size if members > 1 else 0.0)


def summed(exchanges: Sequence[Transfer]) -> tuple[Transfer, ...]:
    """One entry for every kind, axes and type, largest first."""
    totals: dict[tuple[str, tuple[str, ...], str], float] = defaultdict(float)
    for each in exchanges:
        totals[each[:3]] += each.bytes
    made = (Transfer(*key, total) for key, total in totals.items() if total)
    return tuple(sorted(made, key=lambda each: -each.bytes))


def measured(compiled: Compiled, mesh: Mesh) -> Demand:
    """What the compiled program of a step says; a loop's body counts as often as it runs."""
    memory = compiled.memory_analysis()
    assert memory is not None
    program = Program.read(compiled.as_text() or "")
    made = [
        exchange(each.kind, each.axes, each.dtype, each.bytes * each.times, mesh)
        for each in collectives(compiled, mesh)
        if each.axes
    ]
    return Demand(
        "compiled",
        peak=memory.peak_memory_in_bytes,
        arguments=memory.argument_size_in_bytes,
        traffic=memory_traffic(program),
        exchanges=summed(made),
    )
