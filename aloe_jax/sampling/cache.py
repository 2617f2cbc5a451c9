"""The key/value cache: full pages of tokens in large blocks, and the newest tokens of every row in a tail.

A row of `length` tokens has its first `length // PAGE` pages in the blocks and the rest in its tail. What one call
adds is laid behind the tails, at one slot for all rows whatever their lengths, and sorted in when the call ends; so
the blocks are only read while tokens are drawn, and no step copies them. Attention is computed block by block and
passes over blocks that no row has reached.

Shapes: B rows, R of them in a call, T tokens, N/K query and key heads, H head size, S slots (places for a token).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from aloe_jax.models.attention import HIDDEN, grouped, ungrouped
from aloe_jax.models.spec import ModelSpec
from aloe_jax.parallel.mesh import constrain

PAGE = 64  # tokens: the most that one call adds to a row; siblings draw more, into pages of their own
BLOCK = 256  # tokens: the first block; each later one is as long as all before it
NOWHERE = 2**30  # a position after all others


class LayerCache[T](NamedTuple):
    """Keys and values of one layer; in int8 with a scale for every token and head."""

    keys: T  # [B,K,H,S]: the order in which a CPU is quickest with the scores
    values: T  # [B,K,S,H]
    key_scales: T | None = None  # float32 [B,K,S]
    value_scales: T | None = None


SLOTS = LayerCache(keys=3, values=2, key_scales=2, value_scales=2)  # which axis is S


class Cache(NamedTuple):
    """Of every layer its blocks, one after the other, and its tail: PAGE slots, and as many for what a call adds."""

    blocks: tuple[tuple[LayerCache[jax.Array], ...], ...]
    tails: tuple[LayerCache[jax.Array], ...]


def each(function: Callable[..., jax.Array], *caches: LayerCache[jax.Array]) -> LayerCache[jax.Array]:
    """`function(axis of S, x, ...)` of the keys, the values and so on that there are."""
    keys, values, *scales = (
        None if parts[1] is None else function(*parts) for parts in zip(SLOTS, *caches, strict=True)
    )
    assert keys is not None and values is not None
    return LayerCache(keys, values, *scales)


# ---------------------------------------------------------------- making one, filling it


def block_sizes(length: int, undivided: bool) -> list[int]:
    """Slots of the blocks for rows of `length` tokens, as long as all before them; `undivided`: of one block."""
    slots = length // PAGE * PAGE
    sizes: list[int] = []
    while (left := slots - sum(sizes)) > 0:
        sizes.append(left if undivided else min(left, max(BLOCK, sum(sizes))))
    return sizes


def empty(spec: ModelSpec, rows: int, slots: int, dtype: str) -> LayerCache[jax.Array]:
    """Nothing yet, for one layer."""
    shape = (rows, spec.kv_heads, slots)
    keys = jnp.zeros((*shape[:2], spec.head_size, slots), dtype)
    scales = jnp.ones(shape, jnp.float32) if dtype == "int8" else None
    return LayerCache(keys, jnp.zeros((*shape, spec.head_size), dtype), scales, scales)


def empty_cache(spec: ModelSpec, rows: int, blocks: Sequence[int], dtype: str) -> Cache:
    """Nothing yet, for all layers."""
    made = [[empty(spec, rows, slots, dtype) for slots in (*blocks, 2 * PAGE)] for _ in range(spec.layers)]
    return cache_of([layer[:-1] for layer in made], [layer[-1] for layer in made])


def cache_of(blocks: Sequence[Sequence[LayerCache[jax.Array]]], tails: Sequence[LayerCache[jax.Array]]) -> Cache:
    """The parts as a cache, where they belong on the mesh."""
    return Cache(tuple(tuple(map(placed, layer)) for layer in blocks), tuple(map(placed, tails)))


def placed(cached: LayerCache[jax.Array]) -> LayerCache[jax.Array]:
    """Rows over the mesh axes of the batch, heads over tensor."""
    return each(lambda axis, x: constrain(x, ("batch", "kv_heads", *(None,) * (x.ndim - 2))), cached)


def hold(key: jax.Array, value: jax.Array, dtype: str) -> LayerCache[jax.Array]:
    """Keys and values [B,T,K,H] as they are stored."""
    keys, values = key.transpose(0, 2, 3, 1), value.swapaxes(1, 2)
    if dtype != "int8":
        return LayerCache(keys.astype(dtype), values.astype(dtype))
    (keys, key_scales), (values, value_scales) = _quantised(keys, 2), _quantised(values, 3)
    return LayerCache(keys, values, key_scales, value_scales)


def _quantised(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The nearest of 255 even steps up to the largest value along `axis`, and the step."""
    wide = x.astype(jnp.float32)
    step = jnp.maximum(jnp.abs(wide).max(axis=axis) / 127, 1e-30)
    return jnp.round(wide / jnp.expand_dims(step, axis)).astype(jnp.int8), step


# ---------------------------------------------------------------- what a call adds


def write(cached: LayerCache[jax.Array], new: LayerCache[jax.Array], slot: jax.Array | int) -> LayerCache[jax.Array]:
    """`new` at `slot` and after it, the same slots in all rows. What a call adds to a tail begins at slot PAGE."""
    return each(lambda axis, x, y: lax.dynamic_update_slice_in_dim(x, y, slot, axis), cached, new)


def settle(
    blocks: Sequence[Sequence[LayerCache[jax.Array]]],
    tails: Sequence[LayerCache[jax.Array]],
    rows: jax.Array,
    lengths: jax.Array,
    counts: jax.Array,
    shards: int,
) -> tuple[list[list[LayerCache[jax.Array]]], list[LayerCache[jax.Array]]]:
    """Sort in `counts` [R] new tokens of rows that had `lengths` [R]: a page that is full goes to the blocks.

    `tails` are those of the R rows of the call, `blocks` those of all; `rows` [R] says which they are, counted from the
    first of their shard, of which there are `shards`. A number past the last row keeps nothing.
    """
    starts, left = lengths // PAGE * PAGE, lengths % PAGE
    full = left + counts >= PAGE
    slots = jnp.arange(2 * PAGE)[None]
    sources = jnp.where(slots < left[:, None], slots, slots - left[:, None] + PAGE)  # of what comes to each slot

    def joined(axis: int, x: jax.Array) -> jax.Array:
        """What a call added, close behind what the tail kept."""
        places = jnp.expand_dims(sources, tuple(other for other in range(1, x.ndim) if other != axis))
        return jnp.take_along_axis(x, places, axis, mode="clip")

    def moved_up(axis: int, x: jax.Array) -> jax.Array:
        """Behind a page that was full begins the next one."""
        page, rest = (lax.slice_in_dim(x, at, at + PAGE, axis=axis) for at in (0, PAGE))
        over = full.reshape(-1, *(1,) * (x.ndim - 1))
        return lax.dynamic_update_slice_in_dim(x, jnp.where(over, rest, page), 0, axis)

    kept: list[list[LayerCache[jax.Array]]] = []
    tails = [each(joined, tail) for tail in tails]
    for layer, tail in zip(blocks, tails, strict=True):
        page = each(lambda axis, x: lax.slice_in_dim(x, 0, PAGE, axis=axis), tail)
        kept.append([])
        start = 0
        for block in layer:
            size = block.values.shape[SLOTS.values]
            here = jnp.where(full & (starts >= start) & (starts < start + size), rows, block.values.shape[0])
            kept[-1].append(each(functools.partial(_put_page, here, starts - start, shards), block, page))
            start += size
    return kept, [each(moved_up, tail) for tail in tails]


def shortened(
    blocks: Sequence[LayerCache[jax.Array]], tail: LayerCache[jax.Array], lengths: jax.Array, kept: jax.Array
) -> LayerCache[jax.Array]:
    """The tails of rows that had `lengths` [R] tokens and keep the first `kept` [R] of them.

    Where a row ends within a page that was full, that page is in its blocks, and becomes its tail.
    """
    starts = kept // PAGE * PAGE
    in_blocks = starts < lengths // PAGE * PAGE
    start = 0
    for block in blocks:
        size = block.values.shape[SLOTS.values]
        here = in_blocks & (starts >= start) & (starts < start + size)
        tail = each(functools.partial(_page_back, starts - start, here), tail, block)
        start += size
    return tail


def _page_back(starts: jax.Array, here: jax.Array, axis: int, tail: jax.Array, block: jax.Array) -> jax.Array:
    """The tail [R,...] with the page of the block that begins at starts[r] instead, where here[r]."""
    slots = starts[:, None] + jnp.arange(PAGE)[None]
    slots = jnp.expand_dims(slots, tuple(other for other in range(1, block.ndim) if other != axis))
    page = jnp.take_along_axis(block, slots, axis, mode="clip")
    kept = lax.slice_in_dim(tail, 0, PAGE, axis=axis)
    new = jnp.where(here.reshape(-1, *(1,) * (tail.ndim - 1)), page, kept)
    return lax.dynamic_update_slice_in_dim(tail, new, 0, axis)


def _put_page(
    rows: jax.Array, starts: jax.Array, shards: int, axis: int, block: jax.Array, page: jax.Array
) -> jax.Array:
    return put(block, rows, starts, page, axis, shards)


def put(x: jax.Array, rows: jax.Array, starts: jax.Array, pieces: jax.Array, axis: int, shards: int) -> jax.Array:
    """Write pieces[r] along `axis` from starts[r] on into x[rows[r]]; nothing where the row or the start is past x."""
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=tuple(range(1, x.ndim)),
        inserted_window_dims=(0,),
        scatter_dims_to_operand_dims=(0, axis),
    )

    def one(x: jax.Array, where: jax.Array, pieces: jax.Array) -> jax.Array:
        return lax.scatter(x, where, pieces, numbers, mode=lax.GatherScatterMode.FILL_OR_DROP)

    return _by_shard(one, shards, x, jnp.stack([rows, starts], axis=1), pieces)


def take(x: jax.Array, rows: jax.Array, shards: int) -> jax.Array:
    """x[rows], the rows counted from the first of their shard."""
    return _by_shard(lambda x, rows: x.at[rows].get(mode="clip"), shards, x, rows)


def _by_shard(function: Callable[..., jax.Array], shards: int, *arrays: jax.Array) -> jax.Array:
    """`function` on every shard of rows, so that no row has to travel between devices."""
    if shards == 1:
        return function(*arrays)
    made = jax.vmap(function)(*(x.reshape(shards, -1, *x.shape[1:]) for x in arrays))
    return made.reshape(-1, *made.shape[2:])


# ---------------------------------------------------------------- attention


def attend(
    query: jax.Array,
    blocks: tuple[LayerCache[jax.Array], ...],
    tail: LayerCache[jax.Array],
    lengths: jax.Array,
    positions: jax.Array,
    window: int,
    view: Callable[[LayerCache[jax.Array]], LayerCache[jax.Array]] = lambda cached: cached,
    cap: float | None = None,
    own: LayerCache[jax.Array] | None = None,
) -> jax.Array:
    """Attention of queries [R,T,N,H] at `positions` [R,T] to all tokens of their rows up to themselves -> [R,T,N,H].

    `lengths` [R]: tokens of the rows before this call. `view` picks the rows out of a block. `window` 0: none. With
    `cap` c scores are c·tanh(score / c) (Gemma 2, arXiv 2408.00118, §2).

    With `own` [R·T,...] the T queries are siblings: what the call adds is there, for every one of them, and not in the
    tail.
    """
    heads = grouped(query, tail.values.shape[1])
    full, left = lengths // PAGE * PAGE, lengths % PAGE
    slots = jnp.arange(2 * PAGE)[None]
    kept = jnp.where(slots < left[:, None], full[:, None] + slots, NOWHERE)
    places = [jnp.where(slots < PAGE, kept, lengths[:, None] + slots - PAGE)]  # of tokens, by slot
    added: list[LayerCache[jax.Array]] = []
    if own is not None:
        added = [own]
        tail = each(lambda axis, x: lax.slice_in_dim(x, 0, PAGE, axis=axis), tail)
        places = [kept[:, :PAGE]]
    new_places = [lengths[:, None] + jnp.arange(part.values.shape[SLOTS.values])[None] for part in added]
    starts = [0]
    for block in blocks:
        slots = starts[-1] + jnp.arange(block.values.shape[SLOTS.values])[None]
        places.append(jnp.where(slots < full[:, None], slots, NOWHERE))
        starts.append(starts[-1] + slots.size)

    def over(count: int) -> jax.Array:
        """Attention to the tail, the first blocks, and what siblings have of their own."""
        parts = [tail, *map(view, blocks[:count]), *added]
        seen_places = jnp.concatenate([*places[: count + 1], *new_places], axis=1)
        behind = positions[:, :, None] - seen_places[:, None]  # [R,T,S]
        seen = (behind >= 0) & (behind < window) if window else behind >= 0
        return ungrouped(_weigh(heads, parts, seen[:, None, None], cap).astype(query.dtype))

    if len(blocks) < 2:
        return over(len(blocks))
    reached = (full.max() > jnp.array(starts[:-1])).sum()
    return lax.switch(reached, [functools.partial(over, count) for count in range(len(blocks) + 1)])


def _weigh(query: jax.Array, parts: Sequence[LayerCache[jax.Array]], seen: jax.Array, cap: float | None) -> jax.Array:
    """Values of all parts, weighted by softmax: query [R,K,G,T,H] from `grouped`, seen [R,1,1,T,S] -> as query.

    A part has R rows, or R·T: one for every query.
    """
    joined = jnp.concatenate([_scores(query, part) for part in parts], axis=-1)
    if cap is not None:
        joined = cap * jnp.tanh(joined / cap)
    joined = jnp.where(seen, joined, HIDDEN)
    exponentials = jnp.exp(joined - joined.max(axis=-1, keepdims=True))
    mixed, start = jnp.zeros(query.shape, jnp.float32), 0
    for part in parts:
        size = part.values.shape[SLOTS.values]
        share = _rows(lax.slice_in_dim(exponentials, start, start := start + size, axis=-1), part)
        if part.value_scales is not None:
            share = share * part.value_scales[:, :, None, None]
        found = jnp.einsum(
            "bkgts,bksh->bkgth",
            share.astype(query.dtype),
            part.values.astype(query.dtype),
            preferred_element_type=jnp.float32,
        )
        mixed += _queries(found, query.shape[3])
    return mixed / exponentials.sum(axis=-1, keepdims=True)


def _scores(query: jax.Array, part: LayerCache[jax.Array]) -> jax.Array:
    """float32 [R,K,G,T,S] of query [R,K,G,T,H]."""
    made = jnp.einsum(
        "bkgth,bkhs->bkgts", _rows(query, part), part.keys.astype(query.dtype), preferred_element_type=jnp.float32
    )
    made = made if part.key_scales is None else made * part.key_scales[:, :, None, None]
    return _queries(made, query.shape[3])


def _rows(x: jax.Array, part: LayerCache[jax.Array]) -> jax.Array:
    """[R,K,G,T,·] as [R·T,K,G,1,·] where the part has a row for every query. On a CPU, quicker than one product."""
    if part.values.shape[0] == x.shape[0]:
        return x
    return x.transpose(0, 3, 1, 2, 4).reshape(-1, *x.shape[1:3], 1, x.shape[4])


def _queries(x: jax.Array, queries: int) -> jax.Array:
    """The way back."""
    if x.shape[3] == queries:
        return x
    return x.reshape(-1, queries, *x.shape[1:3], x.shape[4]).transpose(0, 2, 3, 1, 4)
