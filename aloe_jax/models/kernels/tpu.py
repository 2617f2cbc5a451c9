"""Flash attention under the interval mask for TPUs (Pallas).

Query q sees key k when k <= q < subtree_end[k]. Only blocks of scores that the mask leaves something of are visited:
the kernels' grid is a list of them, made from the data and read from scalar memory (see schedule.py).

No TPU has run these kernels yet. They give the right numbers in JAX's simulator of one, and compile for v4 to v6e.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from aloe_jax.models.kernels.schedule import Mask, differentiable
from aloe_jax.models.kernels.sharded import flash_attention
from aloe_jax.models.kernels.tpu_passes import backward, forward

LANES = 128  # heads are padded to a multiple of this
BLOCKS = (512, 384, 256, 128)  # tokens; more would not fit the 16 MiB of vector memory that a kernel has on all chips
STEP = 256**2  # pairs of a block that cost about as much as beginning the next block; an estimate


def block_size(length: int) -> int:
    """Tokens a block, so that a causal row of `length`, padded to whole blocks, takes the least time."""

    def cost(block: int) -> int:
        blocks = -(-length // block)
        return blocks * (blocks + 1) * (block**2 + STEP)

    return min(BLOCKS, key=cost)


def _on_device(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    subtree_end: jax.Array,
    positions: jax.Array | None,
    window: jax.Array | None,
    *,
    interpret: bool,
) -> jax.Array:
    length, size = query.shape[1], query.shape[3]
    block = block_size(length)
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, -length % block), (0, 0), (0, -size % LANES))).swapaxes(1, 2)
        for x in (query, key, value)
    )
    mask = Mask(subtree_end, positions, window).padded(block)
    return _attention(query, key, value, mask, size**-0.5, block, interpret).swapaxes(1, 2)[:, :length, :, :size]


_attention = differentiable(forward, backward)
interval_attention = flash_attention(_on_device)
