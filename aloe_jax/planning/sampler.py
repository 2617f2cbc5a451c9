"""The sampler's two programs, prefill and decode, compiled for a slice like the training step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from aloe_jax.models.spec import Compute
from aloe_jax.parallel.mesh import RULES, sharding
from aloe_jax.parallel.topology import compile_for
from aloe_jax.planning.demand import Demand, measured
from aloe_jax.planning.geometry import Geometry
from aloe_jax.planning.plan import Subject, mesh_of
from aloe_jax.planning.roofline import Roofline, roofline
from aloe_jax.sampling import programs
from aloe_jax.sampling.cache import PAGE, block_sizes
from aloe_jax.sampling.draw import checked_settings

GIB = 2**30
ENDS = 8  # ids that end a reply: as many as a session pads them to


@dataclass(frozen=True)
class SamplerPlan:
    """What replies drawn on the slice need: `rows` conversations of up to `length` tokens at a time."""

    rows: int
    length: int
    cache: int  # bytes of keys and values on one chip
    read: int  # tokens that a call of prefill reads, over all rows
    prefill: tuple[Demand, Roofline]
    decode: tuple[Demand, Roofline]  # of one token in every row
    memory: float  # bytes of a chip

    @property
    def fits(self) -> bool:
        """Whether both do."""
        return max(self.prefill[0].peak, self.decode[0].peak) <= self.memory

    def __str__(self) -> str:
        drawing, reading = self.decode[1], self.prefill[1]
        peak = max(self.prefill[0].peak, self.decode[0].peak)
        lines = [
            ("sampler", f"{self.rows} conversations of up to {self.length:,} tokens at a time"),
            ("memory", f"{peak / GIB:.2f} GiB a chip of {self.memory / GIB:.2f}: "
             f"{'fits' if self.fits else 'DOES NOT FIT'}; the cache is {self.cache / GIB:.2f} of it"),
            ("prefill", f"at most {self.read / reading.bound:,.0f} tokens/s, by {reading.limit}"),
            ("decode", f"at most {self.rows / drawing.bound:,.0f} tokens/s, by {drawing.limit}: "
             f"{drawing.bound * 1e3:.2f} ms a token of every conversation"),
        ]  # fmt: skip
        return "\n".join(f"{name:<12} {text}" for name, text in lines)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "rows": self.rows,
            "length": self.length,
            "cache": self.cache,
            "fits": self.fits,
            "prefill": {"peak": self.prefill[0].peak, "tokens": self.read} | asdict(self.prefill[1]),
            "decode": {"peak": self.decode[0].peak, "tokens": self.rows} | asdict(self.decode[1]),
        }


def plan_sampler(subject: Subject, rows: int, length: int, options: Mapping[str, Any] | None = None) -> SamplerPlan:
    """Compile prefill and decode for the mesh of `subject`, with weights in the compute type and without adapters.

    `rows` are rounded up to a multiple of what the mesh splits rows over, as Sampler does.
    """
    mesh = mesh_of(subject.settings, subject.where, real=True)
    shards = math.prod(mesh.shape[axis] for axis in RULES["batch"])
    rows = -(-rows // shards) * shards
    group = max(1, rows // shards // 2) * shards
    dtype = subject.settings.model.compute_dtype
    model = subject.spec.abstract(dtype, mesh, Compute(dtype=dtype))
    graph, params = model.graph, model.trained
    given = _Abstract(mesh)

    def place(axes: tuple[str | None, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        return given.array(leaf.shape, leaf.dtype, axes)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        made = jax.eval_shape(lambda params: programs.unstack(graph, params), params)
        empty = jax.eval_shape(
            lambda: programs.new_cache(subject.spec, rows, tuple(block_sizes(length, undivided=False)), dtype)
        )
    layers = jax.tree.map(lambda leaf, axes: place(axes, leaf), made, subject.spec.unstacked_axes())
    cache = jax.tree.map(lambda leaf: place(("batch", "kv_heads", *(None,) * (leaf.ndim - 2)), leaf), empty)
    geometry = Geometry(subject.where, mesh)

    def bounds(compiled: Any, tokens: int) -> tuple[Demand, Roofline]:
        demand = measured(compiled, mesh)
        heads = subject.spec.forward_flops(tokens, tokens * length)
        return demand, roofline(heads, demand, subject.where, geometry)

    same = {"shards": shards, "dtype": dtype}
    prefill = compile_for(
        mesh, _bound(programs.prefill, graph, same), params, layers, cache,
        given.rows(group), given.rows(group, PAGE), given.rows(group), given.rows(group),
        donate=(2,), options=options,
    )  # fmt: skip
    row: Any = given.rows
    drawing = programs.DrawnRows(
        row(rows), row(rows), row(rows), row(rows, dtype=jnp.uint32), row(rows, length)
    )  # fmt: skip
    settings = jax.tree.map(given.scalar, checked_settings(1.0, 0, 1.0, 0.0, 1.0))
    ids: Any = given.array((ENDS,), jnp.int32, (None,))
    ends = programs.Ends(ids, given.scalar(np.int32(0)), given.scalar(np.bool_(0)))
    decode = compile_for(
        mesh, _bound(programs.decode, graph, same), params, layers, cache, drawing, settings, ends,
        donate=(2,), options=options,
    )  # fmt: skip
    held = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache)
    )
    reading, made_tokens = bounds(prefill, group * PAGE), bounds(decode, rows)
    return SamplerPlan(rows, length, held, group * PAGE, reading, made_tokens, subject.where.chip.memory)


@dataclass(frozen=True)
class _Abstract:
    """Arrays that do not exist, on a mesh."""

    mesh: Mesh

    def array(self, shape: tuple[int, ...], dtype: Any, axes: tuple[str | None, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(self.mesh, axes, shape))

    def rows(self, *shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return self.array(shape, dtype, ("batch", *(None,) * (len(shape) - 1)))

    def scalar(self, value: Any) -> Any:
        return self.array((), jnp.asarray(value).dtype, ())


def _bound(program: Any, graph: Any, same: Mapping[str, Any]) -> Any:
    """The program with what is no array."""
    return lambda *arrays: program(graph, *arrays, **same)
