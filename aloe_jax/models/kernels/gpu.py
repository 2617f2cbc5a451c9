"""Flash attention under the interval mask for GPUs (Pallas through Triton).

Query q sees key k when k <= q < subtree_end[k]. A program has one block of queries (for the gradients of keys and
values: of keys) and goes through a list of the blocks that the mask leaves anything of: first those that it leaves
whole, then those that need it (see schedule.py).

No GPU has run these kernels yet. Their steps give the right numbers as plain XLA, they lower for CUDA, and Triton 3.9
makes of them programs for compute capabilities 8.0 and 9.0 with at most 98 KiB of shared memory (heads of 64 to 256).
JAX 0.12 still has its Triton back end, which it calls deprecated.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from aloe_jax.models.kernels.gpu_passes import backward, forward
from aloe_jax.models.kernels.schedule import Mask
from aloe_jax.models.kernels.sharded import over_mesh

SMALLEST = 16  # of a side of a matrix product
WIDE = 256  # bytes of a head; wider ones take smaller blocks, which keeps a program's shared memory under 100 KiB

# Query, key, value, mask, output and normaliser.
Saved = tuple[jax.Array, jax.Array, jax.Array, Mask, jax.Array, jax.Array]


def interval_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    subtree_end: jax.Array,
    positions: jax.Array | None = None,
    window: jax.Array | int | None = None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Softmax attention over the keys that the interval mask shows, scaled by 1/sqrt(H).

    query [B,T,N,H], key and value [B,T,K,H], float32 or bfloat16, N a multiple of K (query head n reads key head
    n // (N/K)), subtree_end int [B,T] with subtree_end[t] > t -> [B,T,N,H] in the type of the query. The softmax is in
    float32, matrix products in the type of their inputs. With a `window`, a scalar that may be traced, a query sees
    only keys with positions[q] - positions[k] < window; positions int [B or 1,T]. Runs on every device's part where a
    mesh is set (see sharded.py). `interpret` runs the kernels' steps as plain XLA, on any platform.
    """
    kernel = partial(_on_device, interpret=interpret)
    return over_mesh(kernel, query, key, value, subtree_end, positions, window)


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


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, scale: float, block: int, interpret: bool
) -> jax.Array:
    return forward(query, key, value, mask, scale, block, interpret)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, scale: float, block: int, interpret: bool
) -> tuple[jax.Array, Saved]:
    out, normaliser = forward(query, key, value, mask, scale, block, interpret)
    return out, (query, key, value, mask, out, normaliser)


def _backward(
    scale: float, block: int, interpret: bool, kept: Saved, d_out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    query, key, value, mask, out, normaliser = kept
    return *backward(query, key, value, mask, out, normaliser, d_out, scale, block, interpret), None


_attention.defvjp(_forward, _backward)
