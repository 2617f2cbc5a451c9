"""A digest of a model's weights, computed where they are."""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def weights_digest(params: object, description: str = "") -> str:
    """16 hex digits that change with any weight of a tree, with its type or index, and with `description`.

    The same on every mesh and in every process: each device sums a hash of (index, bits) over the weights that it
    has, and sums modulo 2^32 do not depend on their order. Made to notice other weights, not forged ones.
    """
    digest = hashlib.sha256(description.encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        digest.update(np.asarray(_sums(leaf)).tobytes())
    return digest.hexdigest()[:16]


@jax.jit
def _sums(leaf: jax.Array) -> jax.Array:
    """Two sums of hashes of every value with its index: uint32 [2]."""
    if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize in (2, 4):
        bits = lax.bitcast_convert_type(leaf, jnp.uint16 if leaf.dtype.itemsize == 2 else jnp.uint32)
    else:
        # Integers of any width; small floats such as those of a quantised scale are exact in float32.
        wide = leaf.astype(jnp.int32 if jnp.issubdtype(leaf.dtype, jnp.integer) else jnp.float32)
        bits = lax.bitcast_convert_type(wide, jnp.uint32)
    bits = bits.astype(jnp.uint32)
    index = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):  # an index of all axes would overflow 32 bits in large stacks
        index = mixed(index + lax.broadcasted_iota(jnp.uint32, leaf.shape, axis))
    return jnp.stack(
        [mixed(mixed(bits ^ seed) + index).sum(dtype=jnp.uint32) for seed in (np.uint32(0), np.uint32(77))]
    )


def mixed(x: jax.Array) -> jax.Array:
    """A bijection of uint32 whose every output bit depends on every input bit (MurmurHash3's finaliser)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
