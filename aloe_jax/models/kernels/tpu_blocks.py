"""What the TPU kernels for the interval mask share: how arrays are cut into blocks, and the scores of a block.

A block's scores are keys down, queries across: [keys, queries]. What belongs to a query (running maximum, sum,
log-sum-exp) is then one row of lanes, what belongs to a key one column, and neither is ever turned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple  # noqa: TID251  see Ref

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from aloe_jax.models.kernels.schedule import Mask, Visits

Ref = Any  # a block in fast memory: Pallas has no public type for it
Index = jax.Array | int
HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite: the difference of two such scores is a number

dot = partial(lax.dot_general, preferred_element_type=jnp.float32)
PLAIN = (((1,), (0,)), ((), ()))  # a @ b
RIGHT_TURNED = (((1,), (1,)), ((), ()))  # a @ b.T
LEFT_TURNED = (((0,), (0,)), ((), ()))  # a.T @ b


def mask_arrays(mask: Mask) -> list[jax.Array]:
    """Ends as a column; with a window, positions as a column (of keys) and as a row (of queries)."""
    if mask.positions is None:
        return [mask.ends[:, :, None]]
    return [mask.ends[:, :, None], mask.positions[:, :, None], mask.positions[:, None]]


def scalars(todo: Visits, mask: Mask) -> list[jax.Array]:
    """What goes to scalar memory: row, major and minor block and flags of every visit, and the window."""
    window = jnp.int32(0) if mask.window is None else mask.window
    return [todo.row, todo.major, todo.minor, todo.flags, window.reshape(1)]


# Grid indices and scalar references -> row, query head, key head, query block, key block.
Blocks = tuple[Index, Index, Index, Index, Index]
Locate = Callable[..., Blocks]


def by_query(group: int) -> Locate:
    """Grid (query heads, visits): the major block is of queries; `group` query heads read a key head."""

    def locate(head: Index, visit: Index, row: Ref, major: Ref, minor: Ref, *_: Ref) -> Blocks:
        return row[visit], head, head // group, major[visit], minor[visit]

    return locate


def by_key(group: int) -> Locate:
    """Grid (key heads, visits, query heads of a key head): the major block is of keys."""

    def locate(head: Index, visit: Index, member: Index, row: Ref, major: Ref, minor: Ref, *_: Ref) -> Blocks:
        return row[visit], head * group + member, head, minor[visit], major[visit]

    return locate


class Specs(NamedTuple):
    """The block that a step of the grid takes of each kind of array."""

    query: pl.BlockSpec  # of [B,N,T,H]
    key: pl.BlockSpec  # of [B,K,T,H]
    statistic: pl.BlockSpec  # of [B,N,1,T]: a number for every query and head
    mask: list[pl.BlockSpec]  # of mask_arrays


def specs(locate: Locate, block: int, size: int, mask: Mask) -> Specs:
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


def scores(
    query: Ref, key: Ref, hidden: list[Ref], window: Ref, scale: float, blocks: tuple[Index, Index], masked: bool
) -> jax.Array:
    """Scaled scores of one block, float32 [keys, queries]; `blocks` are the indices of its queries and its keys.

    `hidden` are blocks of mask_arrays; with `masked` the pairs that they hide score HIDDEN.
    """
    product = dot(key[...], query[...], RIGHT_TURNED) * scale
    if not masked:
        return product
    keys, queries = product.shape
    q = blocks[0] * queries + lax.broadcasted_iota(jnp.int32, product.shape, 1)
    k = blocks[1] * keys + lax.broadcasted_iota(jnp.int32, product.shape, 0)
    ends, *places = hidden
    seen = (k <= q) & (q < ends[...])
    if places:
        seen = seen & (places[1][...] - places[0][...] < window[0])
    return jnp.where(seen, product, HIDDEN)


def cost(products: int, query: jax.Array, arrays: list[jax.Array]) -> pl.CostEstimate:
    """Of a causal mask, the most that there can be: `products` matrix products a block."""
    batch, heads, length, size = query.shape
    pairs = batch * heads * length * length // 2
    return pl.CostEstimate(
        flops=2 * products * pairs * size,
        transcendentals=pairs,
        bytes_accessed=sum(array.size * array.dtype.itemsize for array in arrays),
    )
