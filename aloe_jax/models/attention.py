"""Grouped-query attention under the interval mask, in plain XLA.

Query q sees key k when k <= q < subtree_end[k]: with a token tree laid out depth first, a token sees its
ancestors and itself and nothing else. Without subtree_end the mask is causal. A sliding window W shows only the
keys with positions[q] - positions[k] < W: the last W tokens of the query's own path.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

Method = Literal["auto", "dense", "chunked"]

CHUNK = 128  # queries a chunk
DENSE_LIMIT = 256  # `auto` leaves shorter rows whole
KEEP_LIMIT = 2048  # longer rows recompute their scores in the backward pass instead of keeping them
HIDDEN = -1e30  # a score that softmax turns into 0; -inf would turn a row without any key into NaN


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    subtree_end: jax.Array | None = None,
    method: Method = "auto",
    positions: jax.Array | None = None,
    window: jax.Array | int | None = None,
) -> jax.Array:
    """Softmax attention over the keys that the interval mask shows, scaled by 1/sqrt(H); softmax in float32.

    query [B,T,N,H], key and value [B,T,K,H] with N a multiple of K (query head n reads key head n // (N/K)),
    subtree_end int [B,T] or None -> [B,T,N,H] in the type of the query. `dense` holds scores [B,N,T,T];
    `chunked` holds them for a chunk of queries and only the keys that come before its end. `window` counts in
    `positions` int [B or 1,T], which it needs.
    """
    assert window is None or positions is not None
    length = query.shape[1]
    query, key, value = grouped(query, key.shape[2]), key.swapaxes(1, 2), value.swapaxes(1, 2)
    if method == "auto":
        method = "dense" if length <= DENSE_LIMIT else "chunked"
    chunk = length if method == "dense" else CHUNK
    pieces = []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        block: Callable[..., jax.Array] = functools.partial(_block, start=start)
        if method == "chunked" and length > KEEP_LIMIT:
            block = jax.checkpoint(block)
        end = None if subtree_end is None else subtree_end[:, :stop]
        place = None if window is None or positions is None else (positions[:, :stop], window)
        pieces.append(block(query[:, :, :, start:stop], key[:, :, :stop], value[:, :, :stop], end, place))
    return ungrouped(pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=3))


def grouped(query: jax.Array, kv_heads: int) -> jax.Array:
    """Queries scaled by 1/sqrt(H), heads before positions so that scores are one batched product.

    [B,T,N,H] -> [B,K,G,T,H] with G = N/K query heads a key head.
    """
    batch, length, _, size = query.shape
    query = (query * size**-0.5).reshape(batch, length, kv_heads, -1, size)
    return query.transpose(0, 2, 3, 1, 4)


def ungrouped(mixed: jax.Array) -> jax.Array:
    """[B,K,G,T,H] -> [B,T,N,H]."""
    batch, kv_heads, groups, length, size = mixed.shape
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, kv_heads * groups, size)


def _block(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    subtree_end: jax.Array | None,
    place: tuple[jax.Array, jax.Array | int] | None,
    *,
    start: int,
) -> jax.Array:
    """Queries start..start+Q against keys 0..S: [B,K,G,Q,H], [B,K,S,H], [B,K,S,H], [B,S] -> [B,K,G,Q,H].

    `place`: positions [B or 1,S] and the window in them.
    """
    queries = (start + jnp.arange(query.shape[3]))[:, None]
    seen = (jnp.arange(key.shape[2])[None] <= queries)[None]  # [1,Q,S]
    if subtree_end is not None:
        seen = seen & (queries[None] < subtree_end[:, None])  # [B,Q,S]
    if place is not None:
        positions, window = place
        seen = seen & (positions[:, start:, None] - positions[:, None] < window)
    return weigh(query, key, value, seen[:, None, None])


def weigh(query: jax.Array, key: jax.Array, value: jax.Array, seen: jax.Array) -> jax.Array:
    """Attention where `seen` [B or 1,1,1,Q,S]: query [B,K,G,Q,H] from `grouped`, key and value [B,K,S,H]."""
    scores = jnp.einsum("bkgqh,bksh->bkgqs", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(seen, scores, HIDDEN)
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    exponentials = jnp.exp(scores - top)
    total = exponentials.sum(axis=-1, keepdims=True)  # [B,K,G,Q,1]
    out = jnp.einsum("bkgqs,bksh->bkgqh", exponentials.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (out / total).astype(query.dtype)
