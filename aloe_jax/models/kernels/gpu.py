"""Flash attention under the interval mask for GPUs (Pallas through Triton).

Query q sees key k when k <= q < subtree_end[k]. A program has one block of queries (for the gradients of keys and
values: of keys) and goes through a list of the blocks that the mask leaves anything of: first those that it leaves
whole, then those that need it (see schedule.py).

No GPU has run these kernels yet. Their steps give the right numbers as plain XLA, they lower for CUDA, and Triton 3.9
makes of them programs for compute capabilities 8.0 and 9.0 with at most 98 KiB of shared memory (heads of 64 to 256).
JAX 0.12 still has its Triton back end, which it calls deprecated.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from aloe_jax.models.kernels.gpu_passes import backward, forward
from aloe_jax.models.kernels.schedule import Mask, differentiable
from aloe_jax.models.kernels.sharded import flash_attention

SMALLEST = 16  # of a side of a matrix product
WIDE = 256  # bytes of a head; wider ones take smaller blocks, which keeps a program's shared memory under 100 KiB


def block_size(size: int, dtype: jnp.dtype) -> int:
    """Tokens a block, for heads of `size`."""
    return 64 if size * jnp.dtype(dtype).itemsize <= WIDE else 32


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
    whole = max(SMALLEST, pl.next_power_of_2(size))  # Triton's blocks are powers of two
    block = block_size(whole, query.dtype)
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, -length % block), (0, 0), (0, whole - size))) for x in (query, key, value)
    )
    mask = Mask(subtree_end, positions, window).padded(block)
    return _attention(query, key, value, mask, size**-0.5, block, interpret)[:, :length, :, :size]


_attention = differentiable(forward, backward)
interval_attention = flash_attention(_on_device)
