"""The backward pass of the TPU kernel for the interval mask: scores are computed again from their log-sum-exp.

Dao et al. 2022 (arXiv 2205.14135), algorithm 4, in two kernels: the queries' gradient by blocks of queries, the keys'
and values' by blocks of keys, summed over the query heads that read a key head.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from aloe_jax.models.kernels.schedule import FIRST, LAST, MASKED, Mask, block_kinds, visits
from aloe_jax.models.kernels.tpu_blocks import (
    LEFT_TURNED,
    PLAIN,
    RIGHT_TURNED,
    Ref,
    by_key,
    by_query,
    cost,
    dot,
    mask_arrays,
    scalars,
    scores,
    specs,
)


def backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: Mask,
    out: jax.Array,
    normaliser: jax.Array,
    d_out: jax.Array,
    scale: float,
    block: int,
    interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of query, key and value, from the output [B,N,T,H], its gradient and the log-sum-exp [B,N,1,T]."""
    heads, size = query.shape[1], query.shape[3]
    key_heads = key.shape[1]
    kinds = block_kinds(mask, block)
    # Of every query, the mean of its weights' gradients under its weights: what the softmax takes off each of them.
    mean = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(axis=3)[:, :, None]
    arrays = [query, key, value, d_out, normaliser, mean, *mask_arrays(mask)]

    todo, blocks = visits(kinds), specs(by_query(heads // key_heads), block, size, mask)
    prefetched = scalars(todo, mask)
    d_query = pl.pallas_call(
        partial(_query_kernel, scale=scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(prefetched),
            grid=(heads, todo.total),
            in_specs=[
                blocks.query, blocks.key, blocks.key, blocks.query, blocks.statistic, blocks.statistic, *blocks.mask,
            ],
            out_specs=blocks.query,
            scratch_shapes=[pltpu.VMEM((size, block), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=cost(3, query, arrays),
        interpret=interpret,
        name="interval_attention_d_query",
    )(*prefetched, *arrays)  # fmt: skip

    todo, blocks = visits(kinds.swapaxes(1, 2)), specs(by_key(heads // key_heads), block, size, mask)
    prefetched = scalars(todo, mask)
    d_key, d_value = pl.pallas_call(
        partial(_key_kernel, scale=scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(prefetched),
            grid=(key_heads, todo.total, heads // key_heads),
            in_specs=[
                blocks.query, blocks.key, blocks.key, blocks.query, blocks.statistic, blocks.statistic, *blocks.mask,
            ],
            out_specs=[blocks.key, blocks.key],
            scratch_shapes=[pltpu.VMEM((block, size), jnp.float32), pltpu.VMEM((block, size), jnp.float32)],
        ),
        out_shape=[jax.ShapeDtypeStruct(key.shape, key.dtype), jax.ShapeDtypeStruct(value.shape, value.dtype)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        cost_estimate=cost(4, query, arrays),
        interpret=interpret,
        name="interval_attention_d_key",
    )(*prefetched, *arrays)  # fmt: skip
    return d_query, d_key, d_value


def _query_kernel(
    row: Ref,
    major: Ref,
    minor: Ref,
    flags: Ref,
    window: Ref,
    query: Ref,
    key: Ref,
    value: Ref,
    d_out: Ref,
    normaliser: Ref,
    mean: Ref,
    *rest: Ref,
    scale: float,
) -> None:
    *hidden, d_query, sum_query = rest
    visit = pl.program_id(1)
    flag = flags[visit]

    @pl.when(flag & FIRST != 0)
    def _() -> None:
        sum_query[...] = jnp.zeros(sum_query.shape, jnp.float32)

    def add(masked: bool) -> None:
        score = scores(query, key, hidden, window, scale, (major[visit], minor[visit]), masked)
        weight = jnp.exp(score - normaliser[...])
        d_score = weight * (dot(value[...], d_out[...], RIGHT_TURNED) - mean[...])
        sum_query[...] += dot(key[...], d_score.astype(key.dtype), LEFT_TURNED)  # [H, queries]

    pl.when(flag & MASKED != 0)(partial(add, True))
    pl.when(flag & MASKED == 0)(partial(add, False))

    @pl.when(flag & LAST != 0)
    def _() -> None:
        d_query[...] = (scale * sum_query[...]).T.astype(d_query.dtype)


def _key_kernel(
    row: Ref,
    major: Ref,
    minor: Ref,
    flags: Ref,
    window: Ref,
    query: Ref,
    key: Ref,
    value: Ref,
    d_out: Ref,
    normaliser: Ref,
    mean: Ref,
    *rest: Ref,
    scale: float,
) -> None:
    *hidden, d_key, d_value, sum_key, sum_value = rest
    visit, member = pl.program_id(1), pl.program_id(2)
    flag = flags[visit]

    @pl.when((flag & FIRST != 0) & (member == 0))
    def _() -> None:
        sum_key[...] = jnp.zeros(sum_key.shape, jnp.float32)
        sum_value[...] = jnp.zeros(sum_value.shape, jnp.float32)

    def add(masked: bool) -> None:
        score = scores(query, key, hidden, window, scale, (minor[visit], major[visit]), masked)
        weight = jnp.exp(score - normaliser[...])
        sum_value[...] += dot(weight.astype(d_out.dtype), d_out[...], PLAIN)
        d_score = weight * (dot(value[...], d_out[...], RIGHT_TURNED) - mean[...])
        sum_key[...] += dot(d_score.astype(query.dtype), query[...], PLAIN)

    pl.when(flag & MASKED != 0)(partial(add, True))
    pl.when(flag & MASKED == 0)(partial(add, False))

    @pl.when((flag & LAST != 0) & (member == pl.num_programs(2) - 1))
    def _() -> None:
        d_key[...] = (scale * sum_key[...]).astype(d_key.dtype)
        d_value[...] = sum_value[...].astype(d_value.dtype)
