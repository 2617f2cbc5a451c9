"""Interval attention in plain XLA: blocks of queries against strips of keys, skipping what the mask empties.

The softmax is built up strip by strip (Milakov and Gimelshein 2018); the backward pass recomputes the scores from the
log-sum-exp that the forward pass keeps (FlashAttention, arXiv 2205.14135), so that no [T,T] ever exists.

A block of queries meets the keys of its own block, and of the keys before it those that it may still see. A key whose
subtree ends inside its own block (most of a rejected reply) is never met again, and neither are the trees before in
the row. The keys that later blocks see, the *open* ones, are gathered in order, so that what a block needs of them is
one range, which the loop over strips runs through.

Shapes: B rows, T tokens, N and K query and key heads, G = N/K, H head size, Q queries a block, C = T/Q blocks, S keys
a strip. The queries of a block are [K,G*Q,H]: one product for all that read the same key head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from aloe_jax.models.kernels.sharded import over_mesh

# On CPUs 64 to 256 of either are within a few percent of each other. With these, forward and backward pass over rows of
# 384, 512 and 832 tokens take 0.7, 0.6 and 0.45 times as long as dense attention; over 192 tokens twice as long.
BLOCK = 128  # queries
STRIP = 128  # keys
HIDDEN = -1e30  # a score that softmax turns into 0

Near = tuple[jax.Array, jax.Array] | None  # positions int [B,T] and the window in them
# Query, key, value, end, near, output and log-sum-exp.
Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array, Near, jax.Array, jax.Array]


def interval_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    subtree_end: jax.Array,
    positions: jax.Array | None = None,
    window: jax.Array | int | None = None,
) -> jax.Array:
    """Softmax attention where k <= q < subtree_end[k], scaled by 1/sqrt(H); softmax and sums in float32.

    query [B,T,N,H], key and value [B,T,K,H], subtree_end int [B,T] -> [B,T,N,H] in the type of the query. With
    `window`, only where positions[q] - positions[k] < window, `positions` int [B or 1,T]. Under a mesh every device
    attends to its own rows and heads.
    """
    return over_mesh(partial(_padded, BLOCK, STRIP), query, key, value, subtree_end, positions, window)


def _padded(
    block: int,
    strip: int,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    end: jax.Array,
    positions: jax.Array | None,
    window: jax.Array | None,
) -> jax.Array:
    batch, length = end.shape
    block = min(block, length)
    pad = -length % block
    alone = jnp.arange(length, length + pad, dtype=end.dtype) + 1  # where the padding's subtrees end
    end = jnp.concatenate([end, jnp.broadcast_to(alone, (batch, pad))], axis=1)
    near = None
    if positions is not None and window is not None:
        near = (jnp.pad(jnp.broadcast_to(positions, (batch, length)), ((0, 0), (0, pad))), window)
    query, key, value = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (query, key, value))
    return _attention(block, strip, query, key, value, end, near)[:, :length]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(
    block: int, strip: int, query: jax.Array, key: jax.Array, value: jax.Array, end: jax.Array, near: Near
) -> jax.Array:
    return _forward(block, strip, query, key, value, end, near)[0]


class _Plan(NamedTuple):
    """Which keys later blocks see, and which of them each block meets."""

    rank: jax.Array  # [B,T] index of a key among the open ones, the last index where it is not open
    order: jax.Array  # [B,T+S] the open keys in order; then any
    end: jax.Array  # [B,T+S] where the subtrees of the open keys end; then 0
    first: jax.Array  # [B,C] index among the open keys of the first that the block meets
    strips: jax.Array  # [B,C] how many strips there are from it to the block's own keys


def _plan(end: jax.Array, block: int, strip: int) -> _Plan:
    length = end.shape[1]
    at = jnp.arange(length, dtype=end.dtype)
    starts = at[::block]
    is_open = end > ((at // block + 1) * block)[None]
    so_far = jnp.cumsum(is_open, axis=1, dtype=end.dtype)
    order = jnp.argsort(~is_open, axis=1, stable=True).astype(end.dtype)
    open_end = jnp.where(at[None] < so_far[:, -1:], jnp.take_along_axis(end, order, axis=1), 0)
    met = (open_end[:, None] > starts[None, :, None]) & (order[:, None] < starts[None, :, None])  # [B,C,T]
    before = so_far[:, ::block] - is_open[:, ::block]  # open keys before the block
    first = jnp.where(met.any(axis=2), jnp.argmax(met, axis=2), before).astype(end.dtype)
    tail = ((0, 0), (0, strip))
    return _Plan(
        rank=jnp.where(is_open, so_far - 1, length + strip - 1),
        order=jnp.pad(order, tail),
        end=jnp.pad(open_end, tail),
        first=first,
        strips=-(-(before - first) // strip),
    )


class _Keys(NamedTuple):
    """Some keys of one row, and which of a block's queries see them."""

    key: jax.Array  # [K,S,H]
    value: jax.Array  # [K,S,H]
    seen: jax.Array  # [Q,S]


class _Keyring:
    """Hands out the keys that a block meets: its own, and the open ones in strips."""

    def __init__(self, block: int, strip: int, key: jax.Array, value: jax.Array, end: jax.Array, near: Near):
        self.block, self.strip, self.end, self.near = block, strip, end, near
        self.plan = _plan(end, block, strip)
        self.own = key.swapaxes(1, 2), value.swapaxes(1, 2)  # [B,K,T,H]
        self.open = tuple(_rows(x, self.plan.order).swapaxes(1, 2) for x in (key, value))  # [B,K,T+S,H]
        self.open_positions = None if near is None else _rows(near[0], self.plan.order)

    def of_block(self, row: jax.Array, number: jax.Array) -> _Keys:
        """The keys of the block itself."""
        start = number * self.block
        at = start + jnp.arange(self.block, dtype=self.end.dtype)
        end = _cut(self.end, row, start, self.block)
        seen = (at[None] <= at[:, None]) & (at[:, None] < end[None])
        if self.near is not None:
            seen &= self._near(row, number, _cut(self.near[0], row, start, self.block))
        key, value = (_cut(x, row, start, self.block) for x in self.own)
        return _Keys(key, value, seen)

    def of_strip(self, row: jax.Array, number: jax.Array, strip: jax.Array) -> tuple[jax.Array, _Keys]:
        """Open keys of strip number `strip`, and where it starts among them."""
        start = self.plan.first[row, number] + strip * self.strip
        at = number * self.block + jnp.arange(self.block, dtype=self.end.dtype)
        end = _cut(self.plan.end, row, start, self.strip)
        earlier = _cut(self.plan.order, row, start, self.strip) < number * self.block
        seen = at[:, None] < jnp.where(earlier, end, 0)[None]
        if self.open_positions is not None:
            seen &= self._near(row, number, _cut(self.open_positions, row, start, self.strip))
        key, value = (_cut(x, row, start, self.strip) for x in self.open)
        return start, _Keys(key, value, seen)

    def _near(self, row: jax.Array, number: jax.Array, positions: jax.Array) -> jax.Array:
        assert self.near is not None
        mine = _cut(self.near[0], row, number * self.block, self.block)
        return mine[:, None] - positions[None] < self.near[1]


def _forward(
    block: int, strip: int, query: jax.Array, key: jax.Array, value: jax.Array, end: jax.Array, near: Near
) -> tuple[jax.Array, Saved]:
    """-> [B,T,N,H], and what the backward pass needs: all inputs, the output, the log-sum-exp [B*C,K,G*Q]."""
    keyring = _Keyring(block, strip, key, value, end, near)
    batch, blocks, heads = end.shape[0], end.shape[1] // block, key.shape[2]
    queries = _blocks(query * query.shape[3] ** -0.5, heads, block)

    def attend(at: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        row, number = at // blocks, at % blocks

        def meet(keys: _Keys, top: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
            """Weighted values, the largest score so far, and the sum of weights relative to it."""
            scores = _scores(queries[at], keys)
            best = scores.max(axis=2) if top is None else jnp.maximum(top, scores.max(axis=2))
            weights = jnp.exp(scores - best[..., None])
            return _product("kqs,ksh->kqh", weights.astype(value.dtype), keys.value), best, weights.sum(axis=2)

        def add(
            strip: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            mixed, top, total = state
            more, best, weight = meet(keyring.of_strip(row, number, strip)[1], top)
            shrink = jnp.exp(top - best)
            return mixed * shrink[..., None] + more, best, total * shrink + weight

        # Every query sees itself, so that after its own block no sum is 0.
        start = meet(keyring.of_block(row, number))
        mixed, top, total = lax.fori_loop(0, keyring.plan.strips[row, number], add, start)
        made = (mixed / total[..., None]).astype(query.dtype), top + jnp.log(total)
        return tuple(lax.dynamic_update_index_in_dim(x, part, at, 0) for x, part in zip(found, made, strict=True))

    empty = jnp.zeros(queries.shape, query.dtype), jnp.zeros(queries.shape[:3], _wide(query))
    outs, lse = lax.fori_loop(0, batch * blocks, attend, empty)
    out = _unblocked(outs, batch, block)
    return out, (query, key, value, end, near, out, lse)


def _backward(block: int, strip: int, saved: Saved, cotangent: jax.Array) -> tuple[jax.Array | None, ...]:
    """Gradients to query, key and value.

    Those to keys and values grow as [H,S]: products [H,Q] x [Q,S] read the weights as they are, where [S,Q] x [Q,H]
    would first turn them.
    """
    query, key, value, end, near, out, lse = saved
    keyring = _Keyring(block, strip, key, value, end, near)
    (batch, length), heads, scale, wide = end.shape, key.shape[2], query.shape[3] ** -0.5, _wide(query)
    blocks = length // block
    queries, pulls = _blocks(query * scale, heads, block), _blocks(cotangent, heads, block)
    inner = (cotangent.astype(wide) * out.astype(wide)).sum(axis=3, keepdims=True)
    inner = _blocks(inner, heads, block)[..., 0]  # [B*C,K,G*Q]
    Sums = tuple[jax.Array, jax.Array]  # of key and of value

    def attend(at: jax.Array, found: tuple[jax.Array, Sums, Sums]) -> tuple[jax.Array, Sums, Sums]:
        d_queries, d_own, d_open = found
        row, number = at // blocks, at % blocks
        mine, pull = queries[at], pulls[at]
        mine_turned, pull_turned = mine.swapaxes(1, 2), pull.swapaxes(1, 2)

        def meet(keys: _Keys) -> tuple[jax.Array, Sums]:
            # The barriers keep XLA from computing the exponentials once for each product that reads them.
            weights = lax.optimization_barrier(jnp.exp(_scores(mine, keys) - lse[at][..., None]))
            d_weights = _product("kqh,ksh->kqs", pull, keys.value)
            d_scores = lax.optimization_barrier((weights * (d_weights - inner[at][..., None])).astype(query.dtype))
            d_key = _product("khq,kqs->khs", mine_turned, d_scores)
            d_value = _product("khq,kqs->khs", pull_turned, weights.astype(query.dtype))
            return _product("kqs,ksh->kqh", d_scores, keys.key), (d_key, d_value)

        def grow(sums: Sums, start: jax.Array, more: Sums) -> Sums:
            at = (row, 0, 0, start)

            def one(x: jax.Array, part: jax.Array) -> jax.Array:
                return lax.dynamic_update_slice(x, lax.dynamic_slice(x, at, (1, *part.shape)) + part, at)

            return one(sums[0], more[0]), one(sums[1], more[1])

        def add(strip: jax.Array, state: tuple[jax.Array, Sums]) -> tuple[jax.Array, Sums]:
            start, keys = keyring.of_strip(row, number, strip)
            d_query, more = meet(keys)
            return state[0] + d_query, grow(state[1], start, more)

        d_query, more = meet(keyring.of_block(row, number))
        d_own = grow(d_own, number * block, more)
        d_query, d_open = lax.fori_loop(0, keyring.plan.strips[row, number], add, (d_query, d_open))
        return lax.dynamic_update_index_in_dim(d_queries, d_query * scale, at, 0), d_own, d_open

    def empty(length: int) -> Sums:
        return (jnp.zeros((batch, heads, key.shape[3], length), wide),) * 2

    start = jnp.zeros(queries.shape, wide), empty(length), empty(length + strip)
    d_queries, d_own, d_open = lax.fori_loop(0, batch * blocks, attend, start)

    def together(own: jax.Array, far: jax.Array) -> jax.Array:
        far = _rows(far.transpose(0, 3, 1, 2), keyring.plan.rank)  # the last index was never met: 0
        return (own.transpose(0, 3, 1, 2) + far).astype(key.dtype)

    d_key, d_value = (together(own, far) for own, far in zip(d_own, d_open, strict=True))
    return _unblocked(d_queries, batch, block).astype(query.dtype), d_key, d_value, None, None


_attention.defvjp(_forward, _backward)


def _scores(query: jax.Array, keys: _Keys) -> jax.Array:
    """[K,G*Q,H] against keys -> [K,G*Q,S]."""
    scores = _product("kqh,ksh->kqs", query, keys.key)
    heads, rows, count = scores.shape
    block = keys.seen.shape[0]
    split = scores.reshape(heads, rows // block, block, count)
    return jnp.where(keys.seen[None, None], split, HIDDEN).reshape(scores.shape)


def _product(dims: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(dims, left, right, preferred_element_type=_wide(left))


def _wide(x: jax.Array) -> jnp.dtype:
    """The type of sums: float32, float64 where that is what comes in."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _rows(x: jax.Array, index: jax.Array) -> jax.Array:
    """x[b, index[b]] for every row b."""
    return jax.vmap(lambda x, index: x[index])(x, index)


def _cut(x: jax.Array, row: jax.Array, start: jax.Array, size: int) -> jax.Array:
    """`size` entries of one row along T: [B,T] -> [size], [B,K,T,H] -> [K,size,H]."""
    before, after = ((), ()) if x.ndim == 2 else ((0,), (0,))
    sizes: Sequence[int] = (1, size) if x.ndim == 2 else (1, x.shape[1], size, x.shape[3])
    return lax.dynamic_slice(x, (row, *before, start, *after), sizes)[0]


def _blocks(x: jax.Array, kv_heads: int, block: int) -> jax.Array:
    """[B,T,N,H] -> [B*C,K,G*Q,H]."""
    batch, length, heads, size = x.shape
    x = x.reshape(batch * length // block, block, kv_heads, heads // kv_heads, size)
    return x.transpose(0, 2, 3, 1, 4).reshape(len(x), kv_heads, -1, size)


def _unblocked(x: jax.Array, batch: int, block: int) -> jax.Array:
    """[B*C,K,G*Q,H] -> [B,T,N,H]."""
    total, kv_heads, rows, size = x.shape
    x = x.reshape(total, kv_heads, rows // block, block, size).transpose(0, 3, 1, 2, 4)
    return x.reshape(batch, total // batch * block, -1, size)
