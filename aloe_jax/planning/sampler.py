"""The sampler's two programs, prefill and decode, compiled for a slice like the training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import jax
import numpy as np
from jax.stages import Compiled

from aloe_jax.models.spec import Compute
from aloe_jax.parallel.device_bytes import bytes_on_a_device
from aloe_jax.parallel.mesh import RULES
from aloe_jax.parallel.topology import compile_for, tpu_mesh
from aloe_jax.planning.demand import Demand, measured
from aloe_jax.planning.plan import Subject
from aloe_jax.planning.roofline import Geometry, Roofline, roofline
from aloe_jax.sampling import programs
from aloe_jax.sampling.cache import PAGE
from aloe_jax.sampling.draw import checked_settings
from aloe_jax.sampling.shapes import cache_shapes, layer_shapes, on_mesh, rows_read

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

    def as_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {
            "rows": self.rows,
            "length": self.length,
            "cache": self.cache,
            "fits": self.fits,
            "prefill": {"peak": self.prefill[0].peak, "tokens": self.read} | asdict(self.prefill[1]),
            "decode": {"peak": self.decode[0].peak, "tokens": self.rows} | asdict(self.decode[1]),
        }


def plan_sampler(subject: Subject, rows: int, length: int, options: Mapping[str, object] | None = None) -> SamplerPlan:
    """Compile prefill and decode for the mesh of `subject`, with weights in the compute type and without adapters.

    `rows` are rounded up to a multiple of what the mesh splits rows over, as Sampler does.
    """
    mesh = tpu_mesh(subject.where.text, subject.settings.mesh, subject.where.slices)
    shards = math.prod(mesh.shape[axis] for axis in RULES["batch"])
    rows = -(-rows // shards) * shards
    group = rows_read(rows // shards, "tpu") * shards
    dtype = subject.settings.model.compute_dtype
    model = subject.spec.abstract(dtype, mesh, Compute(dtype=dtype))
    graph, params = model.graph, model.trained

    def by_rows(*shape: int, dtype: type[np.generic] = np.int32) -> jax.ShapeDtypeStruct:
        return on_mesh(jax.ShapeDtypeStruct(shape, dtype), ("batch", *(None,) * (len(shape) - 1)), mesh)

    layers = layer_shapes(subject.spec, dtype, dtype, None, mesh)
    cache = cache_shapes(subject.spec, rows, length, dtype, mesh)
    geometry = Geometry(subject.where, mesh)

    def bounds(compiled: Compiled, tokens: int) -> tuple[Demand, Roofline]:
        demand = measured(compiled, mesh)
        heads = subject.spec.forward_flops(tokens, tokens * length)
        return demand, roofline(heads, demand, subject.where, geometry)

    same = {"shards": shards, "dtype": dtype}
    prefill = compile_for(
        mesh, _bound(programs.prefill, graph, same), params, layers, cache,
        by_rows(group), by_rows(group, PAGE), by_rows(group), by_rows(group),
        donate=(2,), options=options,
    )  # fmt: skip
    # `_make`: shapes instead of arrays.
    drawn = programs.DrawnRows._make(
        [by_rows(rows), by_rows(rows), by_rows(rows), by_rows(rows, dtype=np.uint32), by_rows(rows, length)]
    )
    settings = jax.tree.map(lambda value: on_mesh(value, (), mesh), checked_settings(1.0, 0, 1.0, 0.0, 1.0))
    ids = on_mesh(jax.ShapeDtypeStruct((ENDS,), np.int32), (None,), mesh)
    ends = programs.Ends._make([ids, on_mesh(np.int32(0), (), mesh), on_mesh(np.bool_(0), (), mesh)])
    decode = compile_for(
        mesh, _bound(programs.decode, graph, same), params, layers, cache, drawn, settings, ends,
        donate=(2,), options=options,
    )  # fmt: skip
    kept = bytes_on_a_device(cache)
    reading, made_tokens = bounds(prefill, group * PAGE), bounds(decode, rows)
    return SamplerPlan(rows, length, kept, group * PAGE, reading, made_tokens, subject.where.chip.memory)


def _bound(program: Callable[..., object], graph: object, same: Mapping[str, object]) -> Callable[..., object]:
    """The program with what is no array."""
    return lambda *arrays: program(graph, *arrays, **same)
