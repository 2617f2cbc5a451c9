"""The forward pass of the TPU kernel for the interval mask: attention with a running softmax.

Dao et al. 2022 (arXiv 2205.14135). The output is accumulated turned, [H, queries], so that the running maximum and
sum, a row each, scale it as they are; it is turned back once for every block of queries.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from aloe_jax.models.kernels.schedule import FIRST, LAST, MASKED, Mask, block_kinds, visits
from aloe_jax.models.kernels.tpu_blocks import (
    HIDDEN,
    LEFT_TURNED,
    Ref,
    by_query,
    cost,
    dot,
    mask_arrays,
    scalars,
    scores,
    specs,
)


def forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, scale: float, block: int, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """query [B,N,T,H], key and value [B,K,T,H] -> the output [B,N,T,H] and, of every query, the log-sum-exp of its
    scores, float32 [B,N,1,T]. T is a multiple of `block`, H of 128."""
    batch, heads, length, size = query.shape
    todo = visits(block_kinds(mask, block))
    blocks = specs(by_query(heads // key.shape[1]), block, size, mask)
    prefetched, arrays = scalars(todo, mask), [query, key, value, *mask_arrays(mask)]
    return pl.pallas_call(
        partial(_kernel, scale=scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(prefetched),
            grid=(heads, todo.total),
            in_specs=[blocks.query, blocks.key, blocks.key, *blocks.mask],
            out_specs=[blocks.query, blocks.statistic],
            scratch_shapes=[
                pltpu.VMEM((1, block), jnp.float32),
                pltpu.VMEM((1, block), jnp.float32),
                pltpu.VMEM((size, block), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct((batch, heads, 1, length), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=cost(2, query, arrays),
        interpret=interpret,
        name="interval_attention",
    )(*prefetched, *arrays)


def _kernel(
    row: Ref,
    major: Ref,
    minor: Ref,
    flags: Ref,
    window: Ref,
    query: Ref,
    key: Ref,
    value: Ref,
    *rest: Ref,
    scale: float,
) -> None:
    *hidden, out, normaliser, top, total, mixed = rest
    visit = pl.program_id(1)
    flag = flags[visit]

    @pl.when(flag & FIRST != 0)
    def _() -> None:
        top[...] = jnp.full(top.shape, HIDDEN, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        mixed[...] = jnp.zeros(mixed.shape, jnp.float32)

    def add(masked: bool) -> None:
        score = scores(query, key, hidden, window, scale, (major[visit], minor[visit]), masked)
        higher = jnp.maximum(top[...], score.max(axis=0, keepdims=True))
        # A query that has seen no key yet adds ones here; its first visible key shrinks them to nothing.
        weight = jnp.exp(score - higher)
        shrink = jnp.exp(top[...] - higher)
        top[...] = higher
        total[...] = shrink * total[...] + weight.sum(axis=0, keepdims=True)
        mixed[...] = shrink * mixed[...] + dot(value[...], weight.astype(value.dtype), LEFT_TURNED)

    pl.when(flag & MASKED != 0)(partial(add, True))
    pl.when(flag & MASKED == 0)(partial(add, False))

    @pl.when(flag & LAST != 0)
    def _() -> None:
        out[...] = (mixed[...] / total[...]).T.astype(out.dtype)
        normaliser[...] = top[...] + jnp.log(total[...])
