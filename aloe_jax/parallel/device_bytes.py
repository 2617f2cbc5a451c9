"""Bytes that arrays take on one device of a mesh: of arrays, or of shapes that say how they are split."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def bytes_on_a_device(tree: object, dtype: DTypeLike | None = None) -> int:
    """Of a tree of arrays or jax.ShapeDtypeStructs with shardings, in their own types or in `dtype`."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * bits(dtype or leaf.dtype) // 8
        for leaf in jax.tree.leaves(tree)
    )


def bits(dtype: DTypeLike) -> int:
    """Of one value; four of an int4."""
    kind: np.dtype = jnp.dtype(dtype)
    if jnp.issubdtype(kind, jnp.integer):
        return int(jnp.iinfo(kind).bits)
    return int(jnp.finfo(kind).bits) if jnp.issubdtype(kind, jnp.floating) else 8 * kind.itemsize
