"""Flash attention under the interval mask for TPUs (Pallas).

Query q sees key k when k <= q < subtree_end[k]. Only blocks of scores that the mask leaves something of are visited:
the kernels' grid is a list of them, made from the data and read from scalar memory (see schedule.py).

No TPU has run these kernels yet. They give the right numbers in JAX's simulator of one, and compile for v4 to v6e.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from aloe_jax.models.kernels.schedule import Mask
from aloe_jax.models.kernels.sharded import over_mesh
from aloe_jax.models.kernels.tpu_backward import backward
from aloe_jax.models.kernels.tpu_forward import forward

LANES = 128  # heads are padded to a multiple of this
BLOCKS = (512, 384, 256, 128)  # tokens; more would not fit the 16 MiB of vector memory that a kernel has on all chips
STEP = 256**2  # pairs of a block that cost about as much as beginning the next block; an estimate

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
