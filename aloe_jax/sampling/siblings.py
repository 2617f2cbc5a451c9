"""Several replies to one conversation drawn together: what they have in common is in the cache once, and read once.

A row of the cache is a conversation; G siblings a row are drawn from it, and only what is new is stored for each of
them, in pages of their own. One of them may become the conversation's afterwards: `keep` moves its pages behind what
the row has. (Attention to a common prefix once for all who share it: arXiv 2402.05099, §3.1.)

Shapes: R rows, G siblings of each, B = R·G, sibling g of row r at r·G + g; others as in cache.py.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from aloe_jax.models.spec import Layers, ModelSpec
from aloe_jax.sampling.cache import (
    PAGE,
    Cache,
    LayerCache,
    attend,
    cache_of,
    each,
    empty,
    placed,
    settle,
    write,
)
from aloe_jax.sampling.draw import Settings
from aloe_jax.sampling.programs import Drawn, DrawnRows, Ends, Graph, draw_tokens

Own = tuple[LayerCache[jax.Array], ...]  # of every layer the pages of all siblings: B rows


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def new_pages(spec: ModelSpec, replies: int, slots: int, dtype: str) -> Own:
    """Room for `slots` new tokens of every one of `replies` (B)."""
    return tuple(placed(empty(spec, replies, slots, dtype)) for _ in range(spec.layers))


@functools.partial(jax.jit, static_argnums=0, static_argnames="dtype", donate_argnums=4)
def decode_siblings(
    graph: Graph,
    state: nnx.State[Hashable, object],
    layers: Layers,
    cache: Cache,
    own: Own,
    rows: DrawnRows,
    settings: Settings,
    ends: Ends,
    *,
    dtype: str,
) -> tuple[Drawn, Own]:
    """Draw until every sibling has ended or has a token in every slot; `rows` and the result are by sibling [B].

    The cache is read only. A sibling's new tokens are in `own` from its first slot on.
    """
    model = nnx.merge(graph, state)
    windows = model.spec.windows or (0,) * model.spec.layers
    slots = own[0].values.shape[2]
    siblings = rows.last.size // cache.tails[0].values.shape[0]
    lengths = rows.lengths[::siblings]  # [R]

    def attention(
        index: int, own: LayerCache[jax.Array], query: jax.Array, new: LayerCache[jax.Array], step: jax.Array
    ) -> tuple[jax.Array, LayerCache[jax.Array]]:
        own = write(own, new, step)
        by_row = query.reshape(lengths.size, siblings, *query.shape[2:])
        positions = jnp.broadcast_to((lengths + step)[:, None], (lengths.size, siblings))
        mixed = attend(
            by_row, cache.blocks[index], cache.tails[index], lengths, positions, windows[index],
            cap=model.attention_cap, own=own,
        )  # fmt: skip
        return mixed.reshape(query.shape), own

    return draw_tokens(model, layers, rows, settings, ends, own, attention, slots, dtype)


@functools.partial(jax.jit, static_argnames="shards", donate_argnums=0)
def keep(cache: Cache, own: Own, chosen: jax.Array, lengths: jax.Array, counts: jax.Array, *, shards: int) -> Cache:
    """Behind the lengths[r] tokens of row r come the first counts[r] of its sibling chosen[r]; int32 [R] each."""
    rows = jnp.tile(jnp.arange(lengths.size // shards), shards)

    def pages(axis: int, x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(
            x.reshape(lengths.size, -1, *x.shape[1:]), chosen.reshape(-1, *(1,) * x.ndim), axis=1
        )[:, 0]

    kept = [each(pages, layer) for layer in own]
    blocks: Sequence[Sequence[LayerCache[jax.Array]]] = cache.blocks
    tails = list(cache.tails)
    for start in range(0, own[0].values.shape[2], PAGE):
        tails = [
            write(tail, each(lambda axis, x, at=start: lax.slice_in_dim(x, at, at + PAGE, axis=axis), layer), PAGE)
            for tail, layer in zip(tails, kept, strict=True)
        ]
        now = jnp.clip(counts - start, 0, PAGE)
        blocks, tails = settle(blocks, tails, rows, lengths + jnp.minimum(counts, start), now, shards)
    return cache_of(blocks, tails)
