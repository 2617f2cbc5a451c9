"""Grouped-query attention under the interval mask: the one way in to every kernel, and the plain one.

Query q sees key k when k <= q < subtree_end[k]: with a token tree laid out depth first, a token sees its
ancestors and itself and nothing else. Without subtree_end the mask is causal. A sliding window W shows only the
keys with positions[q] - positions[k] < W: the last W tokens of the query's own path.
"""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp

from aloe_jax.errors import AloeError
from aloe_jax.models.settings import Attention

OWN_KERNEL: dict[str, Attention] = {"tpu": "tpu", "gpu": "gpu"}  # by platform
DENSE_LIMIT = 256  # tokens: `auto` computes shorter rows whole where the platform has no kernel of its own
SQUARE_LIMIT = 2048  # tokens: no row longer than this ever has all its scores at once
HIDDEN = -1e30  # a score that softmax turns into 0; -inf would turn a row without any key into NaN


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    subtree_end: jax.Array | None = None,
    method: Attention = "auto",
    positions: jax.Array | None = None,
    window: jax.Array | int | None = None,
) -> jax.Array:
    """Softmax attention over the keys that the interval mask shows, scaled by 1/sqrt(H); softmax in float32.

    query [B,T,N,H], key and value [B,T,K,H] with N a multiple of K (query head n reads key head n // (N/K)),
    subtree_end int [B,T] or None -> [B,T,N,H] in the type of the query. `window` counts in `positions`
    int [B or 1,T], which it needs. `dense` keeps all scores [B,N,T,T]; the other methods are kernels, see kernels/.
    Raises AloeError for `dense` where rows are too long for that.
    """
    assert window is None or positions is not None
    batch, length = query.shape[:2]
    if subtree_end is None:
        subtree_end = jnp.full((batch, length), length, jnp.int32)
    if method == "auto":
        method = preferred(length, jax.default_backend())
    kernel = _dense
    if method != "dense":
        kernel = importlib.import_module(f"aloe_jax.models.kernels.{method}").interval_attention
    return kernel(query, key, value, subtree_end, positions, window)


def preferred(length: int, platform: str) -> Attention:
    """The method that `auto` stands for on a platform (tpu, gpu, cpu), for rows of `length` tokens."""
    on_cpu: Attention = "dense" if length <= DENSE_LIMIT else "chunked"
    return OWN_KERNEL.get(platform, on_cpu)


def _dense(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    subtree_end: jax.Array,
    positions: jax.Array | None,
    window: jax.Array | int | None,
) -> jax.Array:
    length = query.shape[1]
    if length > SQUARE_LIMIT:
        raise AloeError(
            f"model.attention: dense attention holds the square of a row's length, which is for rows of at most "
            f"{SQUARE_LIMIT} tokens, not {length}; use auto or chunked"
        )
    at = jnp.arange(length)[:, None]
    seen = ((at >= at.T) & (at < subtree_end[:, None]))[:, None, None]  # [B,1,1,T,T]
    if window is not None and positions is not None:
        seen &= (positions[:, :, None] - positions[:, None] < window)[:, None, None]
    mixed = weigh(grouped(query, key.shape[2]), key.swapaxes(1, 2), value.swapaxes(1, 2), seen)
    return ungrouped(mixed)


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


def weigh(query: jax.Array, key: jax.Array, value: jax.Array, seen: jax.Array) -> jax.Array:
    """Attention where `seen` [B or 1,1,1,Q,S]: query [B,K,G,Q,H] from `grouped`, key and value [B,K,S,H]."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bkgqh,bksh->bkgqs", query, key, preferred_element_type=wide)
    scores = jnp.where(seen, scores, HIDDEN)
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    exponentials = jnp.exp(scores - top)
    total = exponentials.sum(axis=-1, keepdims=True)  # [B,K,G,Q,1]
    out = jnp.einsum("bkgqs,bksh->bkgqh", exponentials.astype(value.dtype), value, preferred_element_type=wide)
    return (out / total).astype(query.dtype)
