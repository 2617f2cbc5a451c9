"""The key/value cache and its sizes: few different ones, because each is compiled for once."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from aloe_jax.models.decoder import Cache
from aloe_jax.models.spec import ModelSpec


def bucket(size: int, least: int) -> int:
    """The smallest power of two from `least` on that holds `size`."""
    while least < size:
        least *= 2
    return least


def new_cache(spec: ModelSpec, batch: int, slots: int, dtype: str) -> Cache:
    """An empty cache for `batch` rows of up to `slots` tokens."""
    shape = (batch, spec.kv_heads, slots, spec.head_size)
    return tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(spec.layers))


def slots(cache: Cache) -> int:
    """How many tokens a row of the cache holds."""
    return cache[0][0].shape[2]


def grown(cache: Cache, size: int) -> Cache:
    """The same content with room for `size` tokens a row."""
    extra = size - slots(cache)
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, extra), (0, 0))), cache)
