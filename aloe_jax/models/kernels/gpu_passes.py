"""The passes of the GPU kernel for the interval mask: forward, and backward for queries, and for keys and values.

Dao 2023 (arXiv 2307.08691). A program reads whole rows of keys (or queries) through pointers, a block at a time, as
its list of blocks says. Scores are kept in units of log 2, since GPUs have an instruction for powers of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any  # noqa: TID251  see Ref

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from aloe_jax.models.kernels.schedule import Lists, Mask, block_kinds, lists

Ref = Any  # a row, or a block of one, in a GPU's memory: Pallas has no public type for it
HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite: the difference of two such scores is a number
PARAMETERS = triton.CompilerParams(num_warps=4, num_stages=2)

dot = partial(lax.dot_general, preferred_element_type=jnp.float32)
PLAIN = (((1,), (0,)), ((), ()))  # a @ b
RIGHT_TURNED = (((1,), (1,)), ((), ()))  # a @ b.T
LOG2_E = math.log2(math.e)


def forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, scale: float, block: int, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """query [B,T,N,H], key and value [B,T,K,H] -> the output [B,T,N,H] and, of every query, the log-sum-exp of its
    scores in units of log 2, float32 [B,N,T]. T is a multiple of `block`, H a power of two."""
    batch, length, heads, size = query.shape
    group = heads // key.shape[2]
    todo = lists(block_kinds(mask, block))
    of_query = pl.BlockSpec((None, block, None, size), lambda i, n, b: (b, i, n, 0))
    of_key = pl.BlockSpec((None, length, None, size), lambda i, n, b: (b, 0, n // group, 0))
    return pl.pallas_call(
        partial(_forward_kernel, scale=scale),
        grid=(length // block, heads, batch),
        in_specs=[of_query, of_key, of_key, *_mask_specs(mask, todo)],
        out_specs=[of_query, pl.BlockSpec((None, None, block), lambda i, n, b: (b, n, i))],
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
        ],
        compiler_params=PARAMETERS,
        interpret=interpret,
        name="interval_attention",
    )(query, key, value, *_mask_arrays(mask, todo))


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
    """Gradients of query, key and value, from the output [B,T,N,H], its gradient and the log-sum-exp [B,N,T]."""
    batch, length, heads, size = query.shape
    key_heads = key.shape[2]
    group = heads // key_heads
    kinds = block_kinds(mask, block)
    # Of every query, the mean of its weights' gradients under its weights: what the softmax subtracts from all of them.
    mean = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(axis=3).swapaxes(1, 2)  # [B,N,T]
    arrays = [query, key, value, d_out, normaliser, mean]
    call = partial(pl.pallas_call, compiler_params=PARAMETERS, interpret=interpret)

    todo = lists(kinds)
    of_query = pl.BlockSpec((None, block, None, size), lambda i, n, b: (b, i, n, 0))
    of_key = pl.BlockSpec((None, length, None, size), lambda i, n, b: (b, 0, n // group, 0))
    statistic = pl.BlockSpec((None, None, block), lambda i, n, b: (b, n, i))
    d_query = call(
        partial(_query_kernel, scale=scale),
        grid=(length // block, heads, batch),
        in_specs=[of_query, of_key, of_key, of_query, statistic, statistic, *_mask_specs(mask, todo)],
        out_specs=of_query,
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        name="interval_attention_d_query",
    )(*arrays, *_mask_arrays(mask, todo))

    todo = lists(kinds.swapaxes(1, 2))
    of_query = pl.BlockSpec((None, length, group, size), lambda j, k, b: (b, 0, k, 0))
    of_key = pl.BlockSpec((None, block, None, size), lambda j, k, b: (b, j, k, 0))
    statistic = pl.BlockSpec((None, group, length), lambda j, k, b: (b, k, 0))
    d_key, d_value = call(
        partial(_key_kernel, scale=scale),
        grid=(length // block, key_heads, batch),
        in_specs=[of_query, of_key, of_key, of_query, statistic, statistic, *_mask_specs(mask, todo)],
        out_specs=[of_key, of_key],
        out_shape=[jax.ShapeDtypeStruct(key.shape, key.dtype), jax.ShapeDtypeStruct(value.shape, value.dtype)],
        name="interval_attention_d_key",
    )(*arrays, *_mask_arrays(mask, todo))
    return d_query, d_key, d_value


def _mask_arrays(mask: Mask, todo: Lists) -> list[jax.Array]:
    """The list of blocks, how many of it are whole and seen; ends; with a window, positions and it."""
    counts = jnp.stack([todo.full, todo.seen], axis=2)  # [B,n,2]
    if mask.positions is None or mask.window is None:
        return [todo.minor, counts, mask.ends]
    return [todo.minor, counts, mask.ends, mask.positions, mask.window.reshape(1)]


def _mask_specs(mask: Mask, todo: Lists) -> list[pl.BlockSpec]:
    """For grids (major blocks, heads, rows)."""
    blocks, length = todo.minor.shape[2], mask.ends.shape[1]
    row = pl.BlockSpec((None, length), lambda i, n, b: (b, 0))
    listed = [
        pl.BlockSpec((None, None, blocks), lambda i, n, b: (b, i, 0)),
        pl.BlockSpec((None, None, 2), lambda i, n, b: (b, i, 0)),
    ]
    return [*listed, row] if mask.window is None else [*listed, row, row, pl.BlockSpec((1,), lambda i, n, b: (0,))]


def _visit[S](listed: Ref, counts: Ref, add: Callable[[bool, jax.Array, S], S], sums: S) -> S:
    """`sums` after add(masked, minor block, sums) for every block of the list."""
    whole, seen = counts[0], counts[1]
    sums = lax.fori_loop(0, whole, lambda at, sums: add(False, listed[at], sums), sums)
    return lax.fori_loop(whole, seen, lambda at, sums: add(True, listed[at], sums), sums)


def _hide(scores: jax.Array, q: jax.Array, k: jax.Array, mask: list[Ref]) -> jax.Array:
    """HIDDEN where query q does not see key k, one a row of tokens, the other a column; mask as in _mask_arrays."""
    ends, *near = mask
    seen = (k <= q) & (q < ends[k])
    if near:
        positions, window = near
        seen = seen & (positions[q] - positions[k] < window[0])
    return jnp.where(seen, scores, HIDDEN)


def _tokens(block: jax.Array, size: int) -> jax.Array:
    return block * size + jnp.arange(size, dtype=jnp.int32)


def _forward_kernel(query: Ref, key: Ref, value: Ref, listed: Ref, counts: Ref, *rest: Ref, scale: float) -> None:
    *mask, out, normaliser = rest
    queries = query[...]
    block, size = queries.shape
    mine = _tokens(pl.program_id(0), block)

    def add(
        masked: bool, minor: jax.Array, sums: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        top, total, mixed = sums
        there = pl.ds(minor * block, block)
        score = dot(queries, key[there, :], RIGHT_TURNED) * (scale * LOG2_E)  # [queries, keys]
        if masked:
            score = _hide(score, mine[:, None], _tokens(minor, block)[None], mask)
        higher = jnp.maximum(top, score.max(axis=1))
        # A query that has seen no key yet adds ones now; its first visible key shrinks them to nothing.
        weight, shrink = jnp.exp2(score - higher[:, None]), jnp.exp2(top - higher)
        mixed = shrink[:, None] * mixed + dot(weight.astype(value.dtype), value[there, :], PLAIN)
        return higher, shrink * total + weight.sum(axis=1), mixed

    none = jnp.zeros((block,), jnp.float32)
    top, total, mixed = _visit(listed, counts, add, (none + HIDDEN, none, jnp.zeros((block, size), jnp.float32)))
    out[...] = (mixed / total[:, None]).astype(out.dtype)
    normaliser[...] = top + jnp.log2(total)


def _query_kernel(*refs: Ref, scale: float) -> None:
    query, key, value, d_out, normaliser, mean, listed, counts, *mask, d_query = refs
    queries, d_outs = query[...], d_out[...]
    normalisers, means = normaliser[...][:, None], mean[...][:, None]
    block, size = queries.shape
    mine = _tokens(pl.program_id(0), block)

    def add(masked: bool, minor: jax.Array, total: jax.Array) -> jax.Array:
        there = pl.ds(minor * block, block)
        keys = key[there, :]
        score = dot(queries, keys, RIGHT_TURNED) * (scale * LOG2_E)  # [queries, keys]
        if masked:
            score = _hide(score, mine[:, None], _tokens(minor, block)[None], mask)
        weight = jnp.exp2(score - normalisers)
        d_score = weight * (dot(d_outs, value[there, :], RIGHT_TURNED) - means)
        return total + dot(d_score.astype(keys.dtype), keys, PLAIN)

    total = _visit(listed, counts, add, jnp.zeros((block, size), jnp.float32))
    d_query[...] = (scale * total).astype(d_query.dtype)


def _key_kernel(*refs: Ref, scale: float) -> None:
    query, key, value, d_out, normaliser, mean, listed, counts, *mask, d_key, d_value = refs
    keys, values = key[...], value[...]
    block, size = keys.shape
    mine = _tokens(pl.program_id(0), block)

    Sums = tuple[jax.Array, jax.Array]  # of key and of value

    def of_head(member: jax.Array, sums: Sums) -> Sums:
        def add(masked: bool, minor: jax.Array, sums: Sums) -> Sums:
            sum_key, sum_value = sums
            there = pl.ds(minor * block, block)
            queries, d_outs = query[there, member, :], d_out[there, member, :]
            score = dot(keys, queries, RIGHT_TURNED) * (scale * LOG2_E)  # [keys, queries]
            if masked:
                score = _hide(score, _tokens(minor, block)[None], mine[:, None], mask)
            weight = jnp.exp2(score - normaliser[member, there][None])
            sum_value = sum_value + dot(weight.astype(d_outs.dtype), d_outs, PLAIN)
            d_score = weight * (dot(values, d_outs, RIGHT_TURNED) - mean[member, there][None])
            return sum_key + dot(d_score.astype(queries.dtype), queries, PLAIN), sum_value

        return _visit(listed, counts, add, sums)

    nothing = jnp.zeros((block, size), jnp.float32)
    sum_key, sum_value = lax.fori_loop(0, query.shape[1], of_head, (nothing, nothing))
    d_key[...] = (scale * sum_key).astype(d_key.dtype)
    d_value[...] = sum_value.astype(d_value.dtype)
