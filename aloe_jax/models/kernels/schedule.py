"""Which blocks of the score matrix the interval mask leaves anything of, and the order in which kernels visit them.

A token tree laid out depth first empties most of [T,T]: everything above the diagonal, and below it every block
whose keys' subtrees end before its queries begin. Kernels go through the blocks that are left and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

EMPTY, PARTIAL, FULL = 0, 1, 2  # of a block: no pair is visible, some may be, all are
MASKED, FIRST, LAST = 1, 2, 4  # flags of a visit: its block needs the mask; it opens, it closes a run


class Mask(NamedTuple):
    """What a query sees: keys k with k <= q < ends[k] and, with a window, positions[q] - positions[k] < window.

    A token sees itself: ends[t] > t.
    """

    ends: jax.Array  # int32 [B,T]
    positions: jax.Array | None = None  # int32 [B or 1,T]
    window: jax.Array | None = None  # int32 scalar

    def padded(self, block: int) -> Mask:
        """For T of whole blocks, with positions [B,T]: a padding token sees itself, and no other token sees it."""
        batch, length = self.ends.shape
        tail = -length % block
        own = jnp.broadcast_to(length + 1 + jnp.arange(tail, dtype=jnp.int32), (batch, tail))
        ends, positions = jnp.concatenate([self.ends.astype(jnp.int32), own], axis=1), self.positions
        if positions is not None:
            positions = jnp.pad(positions.astype(jnp.int32), ((0, 0), (0, tail)), mode="edge")
            positions = jnp.broadcast_to(positions, ends.shape)
        return Mask(ends, positions, self.window)


def block_kinds(mask: Mask, block: int) -> jax.Array:
    """EMPTY, PARTIAL or FULL for every query block and key block of `block` tokens: int32 [B,T/block,T/block].

    T is a multiple of `block`. Without a window EMPTY is exact. With one it follows from the smallest and largest
    position in either block, so that a block of several branches may be PARTIAL with no visible pair.
    """
    ends = mask.ends.reshape(len(mask.ends), -1, block)  # [B,n,block]
    starts = block * jnp.arange(ends.shape[1], dtype=jnp.int32)
    queries, keys = starts[None, :, None], starts[None, None]
    # The first query of a block below the diagonal comes after every key: some key must reach it, or none is seen.
    some = (keys <= queries) & (ends.max(2)[:, None] > queries)
    every = (keys < queries) & (ends.min(2)[:, None] >= queries + block)
    if mask.positions is not None and mask.window is not None:
        at = mask.positions.reshape(len(mask.positions), -1, block)
        low, high = at.min(2), at.max(2)
        some &= low[:, :, None] - high[:, None] < mask.window
        every &= high[:, :, None] - low[:, None] < mask.window
    return jnp.where(some, jnp.where(every, FULL, PARTIAL), EMPTY).astype(jnp.int32)


class Visits(NamedTuple):
    """One list of blocks to visit, those of a row and of a major block in one run; int32 [S], the first `total` count.

    The major block is the one that a kernel accumulates for: of queries in the forward pass, of keys for their
    gradients.
    """

    row: jax.Array
    major: jax.Array
    minor: jax.Array
    flags: jax.Array  # MASKED + FIRST + LAST
    total: jax.Array  # scalar


def visits(kinds: jax.Array) -> Visits:
    """The blocks that are not EMPTY of kinds [B,n,n], major blocks down the middle axis, in order."""
    rows, blocks, _ = kinds.shape
    room = rows * blocks * (blocks + 1) // 2  # at or below the diagonal
    row, major, minor = (index.astype(jnp.int32) for index in jnp.nonzero(kinds, size=room, fill_value=0))
    total = (kinds != EMPTY).sum(dtype=jnp.int32)
    at, run = jnp.arange(room, dtype=jnp.int32), row * blocks + major
    opens = (at == 0) | (run != jnp.roll(run, 1))
    closes = (at == total - 1) | (run != jnp.roll(run, -1))
    flags = MASKED * (kinds[row, major, minor] == PARTIAL) + FIRST * opens + LAST * closes
    return Visits(row, major, minor, flags.astype(jnp.int32), total)


class Lists(NamedTuple):
    """For every major block the minor blocks to visit, FULL ones first; int32."""

    minor: jax.Array  # [B,n,n] of which the first `seen` count
    full: jax.Array  # [B,n]
    seen: jax.Array  # [B,n] full ones and those that need the mask


def lists(kinds: jax.Array) -> Lists:
    """The blocks that are not EMPTY of kinds [B,n,n], major blocks down the middle axis, a list for each."""
    order = jnp.argsort(-kinds, axis=2, stable=True).astype(jnp.int32)
    return Lists(order, (kinds == FULL).sum(2, dtype=jnp.int32), (kinds != EMPTY).sum(2, dtype=jnp.int32))


# Query, key, value, mask, output and normaliser.
type Saved = tuple[jax.Array, jax.Array, jax.Array, Mask, jax.Array, jax.Array]


def differentiable(
    forward: Callable[..., tuple[jax.Array, jax.Array]], backward: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
) -> Callable[..., jax.Array]:
    """The attention of (query, key, value, mask, scale, block, interpret) by a kernel's passes.

    `forward` takes the same and gives the output and a normaliser; `backward` takes query, key, value, mask, both of
    these, the output's gradient, scale, block and interpret, and gives the gradients of query, key and value.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
    def attention(
        query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, scale: float, block: int, interpret: bool
    ) -> jax.Array:
        return forward(query, key, value, mask, scale, block, interpret)[0]

    def saving(
        query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, scale: float, block: int, interpret: bool
    ) -> tuple[jax.Array, Saved]:
        out, normaliser = forward(query, key, value, mask, scale, block, interpret)
        return out, (query, key, value, mask, out, normaliser)

    def gradients(
        scale: float, block: int, interpret: bool, saved: Saved, d_out: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, None]:
        return *backward(*saved, d_out, scale, block, interpret), None

    attention.defvjp(saving, gradients)
    return attention
