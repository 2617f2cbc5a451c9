"""What runs on the device: filling the cache, and drawing tokens in one loop without a word to the host.

Few shapes, because each is compiled for once: an extension goes in pieces of PAGE tokens of some rows, a reply in
calls of at most PAGE tokens of all rows; siblings are drawn whole in one call (siblings.py). Shapes: B rows, R of them,
T tokens, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from aloe_jax.models.spec import LanguageModel, Layers, ModelSpec
from aloe_jax.parallel.mesh import constrain
from aloe_jax.sampling.cache import (
    PAGE,
    Cache,
    LayerCache,
    attend,
    cache_of,
    each,
    empty_cache,
    hold,
    put,
    settle,
    shortened,
    take,
    write,
)
from aloe_jax.sampling.draw import Settings, draw, logp, penalised

Graph = nnx.GraphDef[LanguageModel]


class Drawn(NamedTuple):
    """What a call drew, by row, at most M tokens of each: PAGE, or what siblings have room for."""

    tokens: jax.Array  # int32 [B,M]
    logps: jax.Array  # float32 [B,M]: of the model itself
    drawn_logps: jax.Array  # float32 [B,M]: of the distribution that was drawn from
    made: jax.Array  # int32 [B]: how many of them there are


class Carry(NamedTuple):
    """Of the loop over tokens."""

    step: jax.Array  # int32
    token: jax.Array  # int32 [B]: the newest
    drawn: Drawn
    stores: tuple[LayerCache[jax.Array], ...]  # of every layer: where new tokens go
    going: jax.Array  # bool [B]: rows that go on


class DrawnRows(NamedTuple):
    """The rows of a call that draws."""

    last: jax.Array  # int32 [B]: the newest token of each row, not in the cache yet
    lengths: jax.Array  # int32 [B]: how many are
    budgets: jax.Array  # int32 [B]: how many tokens to draw at most, up to M; 0: the row draws nothing
    seeds: jax.Array  # uint32 [B]
    context: jax.Array  # int32 [B,C]: all tokens of each row, from its start; read where a penalty is set


class Ends(NamedTuple):
    """When a row ends and when the call does."""

    stop: np.ndarray | jax.Array  # int32 [·]: ids that end a row; -1: no token
    enough: np.int32 | jax.Array  # ended rows at which the call returns though others go on
    logps: np.bool_ | jax.Array  # whether log-probs are asked for


@functools.partial(jax.jit, static_argnums=0)
def unstack(graph: Graph, state: nnx.State[Hashable, object]) -> Layers:
    """See `LanguageModel.unstacked`."""
    return nnx.merge(graph, state).unstacked()


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def new_cache(spec: ModelSpec, rows: int, blocks: tuple[int, ...], dtype: str) -> Cache:
    """See `empty_cache`."""
    return empty_cache(spec, rows, blocks, dtype)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("shards", "dtype"), donate_argnums=3)
def prefill(
    graph: Graph,
    state: nnx.State[Hashable, object],
    layers: Layers,
    cache: Cache,
    rows: jax.Array,
    tokens: jax.Array,
    lengths: jax.Array,
    counts: jax.Array,
    *,
    shards: int,
    dtype: str,
) -> Cache:
    """Add counts[r] of tokens [R,PAGE] to row rows[r], which has lengths[r]. See `settle` for `rows`."""
    model = nnx.merge(graph, state)
    windows = model.spec.windows or (0,) * model.spec.layers
    cap = model.attention_cap
    positions = lengths[:, None] + jnp.arange(PAGE)[None]

    def view(cached: LayerCache[jax.Array]) -> LayerCache[jax.Array]:
        return each(lambda axis, x: take(x, rows, shards), cached)

    tails = [view(tail) for tail in cache.tails]

    def attention(index: int, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        tails[index] = write(tails[index], hold(key, value, dtype), PAGE)
        return attend(query, cache.blocks[index], tails[index], lengths, positions, windows[index], view, cap)

    model.cached(tokens, positions, layers, attention)
    # The barrier puts all writing after all reading; else XLA copies the blocks to be safe.
    blocks, tails = settle(cache.blocks, lax.optimization_barrier(tails), rows, lengths, counts, shards)

    def returned(axis: int, x: jax.Array, y: jax.Array) -> jax.Array:
        return put(x, rows, jnp.zeros_like(rows), y, axis, shards)

    return cache_of(blocks, [each(returned, *pair) for pair in zip(cache.tails, tails, strict=True)])


@functools.partial(jax.jit, static_argnames="shards", donate_argnums=0)
def copy_rows(
    cache: Cache, sources: jax.Array, targets: jax.Array, lengths: jax.Array, kept: jax.Array, *, shards: int
) -> Cache:
    """Row targets[r] becomes the first kept[r] of the lengths[r] tokens in row sources[r]; int32 [R] each.

    Rows are counted from the first of their shard, in which they stay; a target past the last row is none. All sources
    are read before any target is written; no row is the target of two copies. A row copied to itself is shortened.
    """
    blocks, tails = [], []
    for layer, tail in zip(cache.blocks, cache.tails, strict=True):
        copied = [each(lambda _, x: take(x, sources, shards), block) for block in layer]
        end = shortened(copied, each(lambda _, x: take(x, sources, shards), tail), lengths, kept)

        def written(axis: int, x: jax.Array, pieces: jax.Array) -> jax.Array:
            return put(x, targets, jnp.zeros_like(targets), pieces, axis, shards)

        blocks.append([each(written, *pair) for pair in zip(layer, copied, strict=True)])
        tails.append(each(written, tail, end))
    return cache_of(blocks, tails)


Attention = Callable[
    [int, LayerCache[jax.Array], jax.Array, LayerCache[jax.Array], jax.Array], tuple[jax.Array, LayerCache[jax.Array]]
]
"""Of a layer: its number, where new tokens are stored, queries [B,1,N,H], the newest keys and values, and the step ->
what was found [B,1,N,H], and the store with the newest in it."""


@functools.partial(jax.jit, static_argnums=0, static_argnames=("shards", "dtype"), donate_argnums=3)
def decode(
    graph: Graph,
    state: nnx.State[Hashable, object],
    layers: Layers,
    cache: Cache,
    rows: DrawnRows,
    settings: Settings,
    ends: Ends,
    *,
    shards: int,
    dtype: str,
) -> tuple[Drawn, Cache]:
    """Draw until every row has ended, `ends.enough` of them have, or PAGE tokens are made."""
    model = nnx.merge(graph, state)
    windows = model.spec.windows or (0,) * model.spec.layers
    lengths = rows.lengths

    def attention(
        index: int, tail: LayerCache[jax.Array], query: jax.Array, new: LayerCache[jax.Array], step: jax.Array
    ) -> tuple[jax.Array, LayerCache[jax.Array]]:
        tail, positions = write(tail, new, PAGE + step), lengths[:, None] + step
        blocks, cap = cache.blocks[index], model.attention_cap
        return attend(query, blocks, tail, lengths, positions, windows[index], cap=cap), tail

    drawn, tails = draw_tokens(model, layers, rows, settings, ends, cache.tails, attention, PAGE, dtype)
    everyone = jnp.tile(jnp.arange(lengths.size // shards), shards)
    return drawn, cache_of(*settle(cache.blocks, tails, everyone, lengths, drawn.made, shards))


def draw_tokens(
    model: LanguageModel,
    layers: Layers,
    rows: DrawnRows,
    settings: Settings,
    ends: Ends,
    stores: tuple[LayerCache[jax.Array], ...],
    attention: Attention,
    most: int,
    dtype: str,
) -> tuple[Drawn, tuple[LayerCache[jax.Array], ...]]:
    """The loop over tokens, of which it draws `most` at most; `stores` of every layer go through `attention`."""
    batch, lengths = rows.last.size, rows.lengths
    places = jnp.arange(rows.context.shape[1])[None]

    def penalty(logits: jax.Array, tokens: jax.Array, step: jax.Array) -> jax.Array:
        """Of a row's tokens before the call, and those that it has drawn in it."""
        seen = [places <= lengths[:, None], jnp.broadcast_to(jnp.arange(most)[None] < step, tokens.shape)]
        context = jnp.concatenate([rows.context, tokens], axis=1)
        return penalised(logits, context, jnp.concatenate(seen, axis=1), settings.repetition_penalty)

    def advance(carry: Carry) -> Carry:
        step, last, drawn, before, going = carry
        positions = lengths[:, None] + step
        stores = list(before)

        def attend_in(index: int, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            found, stores[index] = attention(index, stores[index], query, hold(key, value, dtype), step)
            return found

        logits = model.logits(model.cached(last[:, None], positions, layers, attend_in)[:, 0])
        logits = constrain(logits, ("batch", None))
        chosen = lax.cond(
            settings.repetition_penalty == 1.0, lambda: logits, lambda: penalty(logits, drawn.tokens, step)
        )
        token, cut = draw(chosen, settings, rows.seeds, positions[:, 0] + 1, ends.logps)
        own = lax.cond(ends.logps, lambda: logp(logits, token), lambda: jnp.zeros(batch, jnp.float32))
        made = drawn.made + going.astype(jnp.int32)

        def with_new(columns: jax.Array, new: jax.Array) -> jax.Array:
            return lax.dynamic_update_slice_in_dim(columns, new[:, None], step, axis=1)

        going = going & (made < rows.budgets) & ~(token[:, None] == ends.stop[None]).any(axis=1)
        drawn = Drawn(with_new(drawn.tokens, token), with_new(drawn.logps, own), with_new(drawn.drawn_logps, cut), made)
        return Carry(step + 1, token, drawn, tuple(stores), going)

    def unfinished(carry: Carry) -> jax.Array:
        ended = ((rows.budgets > 0) & ~carry.going).sum()
        return (carry.step < most) & carry.going.any() & (ended < ends.enough)

    none = jnp.zeros((batch, most), jnp.int32)
    blank = none.astype(jnp.float32)
    nothing = Drawn(none, blank, blank, jnp.zeros_like(lengths))
    start = Carry(jnp.int32(0), rows.last, nothing, stores, rows.budgets > 0)
    _, _, drawn, stores, _ = lax.while_loop(unfinished, advance, start)
    return jax.tree.map(lambda x: constrain(x, ("batch", None)[: x.ndim]), drawn), stores
