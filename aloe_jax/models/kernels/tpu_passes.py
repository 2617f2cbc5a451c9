"""The passes of the TPU kernel for the interval mask: forward, and backward for queries, and for keys and values.

Dao et al. 2022 (arXiv 2205.14135): a running softmax forward; backward (algorithm 4) scores are computed again from
their log-sum-exp, for the queries' gradient by blocks of queries, for the keys' and values' by blocks of keys, summed
over the query heads that read a key head.

A block's scores are keys down, queries across: [keys, queries]. What belongs to a query (running maximum, sum,
log-sum-exp) is then one row of lanes, what belongs to a key one column, and neither is ever turned. The output is
accumulated turned, [H, queries], and turned back once for every block of queries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple  # noqa: TID251  see Ref

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from aloe_jax.models.kernels.schedule import FIRST, LAST, MASKED, Mask, Visits, block_kinds, visits

Ref = Any  # a block in fast memory: Pallas has no public type for it
Index = jax.Array | int
HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite: the difference of two such scores is a number

dot = partial(lax.dot_general, preferred_element_type=jnp.float32)
PLAIN = (((1,), (0,)), ((), ()))  # a @ b
RIGHT_TURNED = (((1,), (1,)), ((), ()))  # a @ b.T
LEFT_TURNED = (((0,), (0,)), ((), ()))  # a.T @ b


def forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, scale: float, block: int, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """query [B,N,T,H], key and value [B,K,T,H] -> the output [B,N,T,H] and, of every query, the log-sum-exp of its
    scores, float32 [B,N,1,T]. T is a multiple of `block`, H of 128."""
    batch, heads, length, size = query.shape
    todo = visits(block_kinds(mask, block))
    blocks = _specs(_by_query(heads // key.shape[1]), block, size, mask)
    prefetched, arrays = _scalars(todo, mask), [query, key, value, *_mask_arrays(mask)]
    return pl.pallas_call(
        partial(_forward_kernel, scale=scale),
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
        cost_estimate=_cost(2, query, arrays),
        interpret=interpret,
        name="interval_attention",
    )(*prefetched, *arrays)


def _forward_kernel(*refs: Ref, scale: float) -> None:
    _row, major, minor, flags, window, query, key, value, *hidden, out, normaliser, top, total, mixed = refs
    visit = pl.program_id(1)
    flag = flags[visit]

    @pl.when(flag & FIRST != 0)
    def _() -> None:
        top[...] = jnp.full(top.shape, HIDDEN, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        mixed[...] = jnp.zeros(mixed.shape, jnp.float32)

    def add(masked: bool) -> None:
        score = _scores(query, key, hidden, window, scale, (major[visit], minor[visit]), masked)
        higher = jnp.maximum(top[...], score.max(axis=0, keepdims=True))
        # A query that has seen no key yet adds ones now; its first visible key shrinks them to nothing.
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
    # Of every query, the mean of its weights' gradients under its weights: what the softmax subtracts from all of them.
    mean = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(axis=3)[:, :, None]
    arrays = [query, key, value, d_out, normaliser, mean, *_mask_arrays(mask)]

    todo, blocks = visits(kinds), _specs(_by_query(heads // key_heads), block, size, mask)
    prefetched = _scalars(todo, mask)
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
        cost_estimate=_cost(3, query, arrays),
        interpret=interpret,
        name="interval_attention_d_query",
    )(*prefetched, *arrays)  # fmt: skip

    todo, blocks = visits(kinds.swapaxes(1, 2)), _specs(_by_key(heads // key_heads), block, size, mask)
    prefetched = _scalars(todo, mask)
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
        cost_estimate=_cost(4, query, arrays),
        interpret=interpret,
        name="interval_attention_d_key",
    )(*prefetched, *arrays)  # fmt: skip
    return d_query, d_key, d_value


def _query_kernel(*refs: Ref, scale: float) -> None:
    _row, major, minor, flags, window, query, key, value, d_out, normaliser, mean, *hidden, d_query, sum_query = refs
    visit = pl.program_id(1)
    flag = flags[visit]

    @pl.when(flag & FIRST != 0)
    def _() -> None:
        sum_query[...] = jnp.zeros(sum_query.shape, jnp.float32)

    def add(masked: bool) -> None:
        score = _scores(query, key, hidden, window, scale, (major[visit], minor[visit]), masked)
        weight = jnp.exp(score - normaliser[...])
        d_score = weight * (dot(value[...], d_out[...], RIGHT_TURNED) - mean[...])
        sum_query[...] += dot(key[...], d_score.astype(key.dtype), LEFT_TURNED)  # [H, queries]

    pl.when(flag & MASKED != 0)(partial(add, True))
    pl.when(flag & MASKED == 0)(partial(add, False))

    @pl.when(flag & LAST != 0)
    def _() -> None:
        d_query[...] = (scale * sum_query[...]).T.astype(d_query.dtype)


def _key_kernel(*refs: Ref, scale: float) -> None:
    _row, major, minor, flags, window, query, key, value, d_out, normaliser, mean, *rest = refs
    *hidden, d_key, d_value, sum_key, sum_value = rest
    visit, member = pl.program_id(1), pl.program_id(2)
    flag = flags[visit]

    @pl.when((flag & FIRST != 0) & (member == 0))
    def _() -> None:
        sum_key[...] = jnp.zeros(sum_key.shape, jnp.float32)
        sum_value[...] = jnp.zeros(sum_value.shape, jnp.float32)

    def add(masked: bool) -> None:
        score = _scores(query, key, hidden, window, scale, (minor[visit], major[visit]), masked)
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


def _mask_arrays(mask: Mask) -> list[jax.Array]:
    """Ends as a column; with a window, positions as a column (of keys) and as a row (of queries)."""
    if mask.positions is None:
        return [mask.ends[:, :, None]]
    return [mask.ends[:, :, None], mask.positions[:, :, None], mask.positions[:, None]]


def _scalars(todo: Visits, mask: Mask) -> list[jax.Array]:
    """What goes to scalar memory: row, major and minor block and flags of every visit, and the window."""
    window = jnp.int32(0) if mask.window is None else mask.window
    return [todo.row, todo.major, todo.minor, todo.flags, window.reshape(1)]


# Grid indices and scalar references -> row, query head, key head, query block, key block.
Blocks = tuple[Index, Index, Index, Index, Index]
Locate = Callable[..., Blocks]


def _by_query(group: int) -> Locate:
    """Grid (query heads, visits): the major block is of queries; `group` query heads read a key head."""

    def locate(head: Index, visit: Index, row: Ref, major: Ref, minor: Ref, *_: Ref) -> Blocks:
        return row[visit], head, head // group, major[visit], minor[visit]

    return locate


def _by_key(group: int) -> Locate:
    """Grid (key heads, visits, query heads of a key head): the major block is of keys."""

    def locate(head: Index, visit: Index, member: Index, row: Ref, major: Ref, minor: Ref, *_: Ref) -> Blocks:
        return row[visit], head * group + member, head, minor[visit], major[visit]

    return locate


class Specs(NamedTuple):
    """The block that a step of the grid takes of each kind of array."""

    query: pl.BlockSpec  # of [B,N,T,H]
    key: pl.BlockSpec  # of [B,K,T,H]
    statistic: pl.BlockSpec  # of [B,N,1,T]: a number for every query and head
    mask: list[pl.BlockSpec]  # of _mask_arrays


def _specs(locate: Locate, block: int, size: int, mask: Mask) -> Specs:
    """Blocks of `block` tokens and heads of `size`, where `locate` says."""

    def spec(shape: tuple[int | None, ...], at: Callable[..., tuple[Index, ...]]) -> pl.BlockSpec:
        return pl.BlockSpec(shape, lambda *indices: at(*locate(*indices)))

    column = spec((None, block, 1), lambda row, n, k, queries, keys: (row, keys, 0))
    along = spec((None, 1, block), lambda row, n, k, queries, keys: (row, 0, queries))
    return Specs(
        query=spec((None, None, block, size), lambda row, n, k, queries, keys: (row, n, queries, 0)),
        key=spec((None, None, block, size), lambda row, n, k, queries, keys: (row, k, keys, 0)),
        statistic=spec((None, None, 1, block), lambda row, n, k, queries, keys: (row, n, 0, queries)),
        mask=[column] if mask.positions is None else [column, column, along],
    )


def _scores(
    query: Ref, key: Ref, hidden: list[Ref], window: Ref, scale: float, blocks: tuple[Index, Index], masked: bool
) -> jax.Array:
    """Scaled scores of one block, float32 [keys, queries]; `blocks` are the indices of its queries and its keys.

    `hidden` are blocks of _mask_arrays; with `masked` the pairs that they hide score HIDDEN.
    """
    product = dot(key[...], query[...], RIGHT_TURNED) * scale
    if not masked:
        return product
    keys, queries = product.shape
    q = blocks[0] * queries + lax.broadcasted_iota(jnp.int32, product.shape, 1)
    k = blocks[1] * keys + lax.broadcasted_iota(jnp.int32, product.shape, 0)
    ends, *positions = hidden
    seen = (k <= q) & (q < ends[...])
    if positions:
        seen = seen & (positions[1][...] - positions[0][...] < window[0])
    return jnp.where(seen, product, HIDDEN)


def _cost(products: int, query: jax.Array, arrays: list[jax.Array]) -> pl.CostEstimate:
    """Of a causal mask, the most that there can be: `products` matrix products a block."""
    batch, heads, length, size = query.shape
    pairs = batch * heads * length * length // 2
    return pl.CostEstimate(
        flops=2 * products * pairs * size,
        transcendentals=pairs,
        bytes_accessed=sum(array.size * array.dtype.itemsize for array in arrays),
    )
