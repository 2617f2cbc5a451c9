"""A kernel on every device of the mesh that is set: compilers cannot split what they cannot look into."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from aloe_jax.parallel.mesh import RULES, fitting_spec

QUERY = ("batch", "length", "query_heads", "head_size")
KEY = ("batch", "length", "kv_heads", "head_size")


def over_mesh(
    kernel: Callable[..., jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    subtree_end: jax.Array,
    positions: jax.Array | None = None,
    window: jax.Array | int | None = None,
) -> jax.Array:
    """`kernel(query, key, value, subtree_end, positions, window)` on each device's rows and query heads.

    query [B,T,N,H], key and value [B,T,K,H], subtree_end [B,T], positions [B or 1,T] and a scalar window where there
    is one -> [B,T,N,H]. A dimension that the mesh does not divide is computed whole on every device; where it divides
    the query heads but not the key heads, each device takes the key heads that its query heads read. Without a mesh,
    or inside a shard_map over all of it, this is a plain call.
    """
    near = () if window is None or positions is None else (positions, jnp.asarray(window, jnp.int32))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return kernel(query, key, value, subtree_end, *(near or (None, None)))
    queries, keys = (fitting_spec(mesh.shape, axes, x.shape) for axes, x in ((QUERY, query), (KEY, key)))
    group = query.shape[2] // key.shape[2]

    def local(
        query: jax.Array, key: jax.Array, value: jax.Array, subtree_end: jax.Array, *near: jax.Array
    ) -> jax.Array:
        if queries[2] != keys[2]:
            read = heads_read(query.shape[2], group)
            key, value = key[:, :, read], value[:, :, read]
        return kernel(query, key, value, subtree_end, *(near or (None, None)))

    by_row = [fitting_spec(mesh.shape, ("batch", "length"), x.shape) for x in (subtree_end, *near[:1])]
    return jax.shard_map(
        local,
        in_specs=(queries, keys, keys, *by_row, *[PartitionSpec()] * len(near[1:])),
        out_specs=queries,
        check_vma=False,  # a Pallas call does not say how its outputs vary over the mesh
    )(query, key, value, subtree_end, *near)


def flash_attention(kernel: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`interval_attention` by a flash kernel for one device, which also takes `interpret`."""

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
        n // (N/K)), subtree_end int [B,T] with subtree_end[t] > t -> [B,T,N,H] in the type of the query. The softmax is
        in float32, matrix products in the type of their inputs. With a `window`, a scalar that may be traced, a query
        sees only keys with positions[q] - positions[k] < window; positions int [B or 1,T]. Runs on every device's part
        where a mesh is set. `interpret` runs the kernels' steps as plain XLA, on any platform.
        """
        return over_mesh(partial(kernel, interpret=interpret), query, key, value, subtree_end, positions, window)

    return interval_attention


def heads_read(queries: int, group: int) -> jax.Array:
    """Which of all key heads the `queries` query heads of this device read: one that all read, or one for each."""
    first = lax.axis_index(RULES["query_heads"]) * queries
    read = (first + jnp.arange(queries)) // group
    return read[:1] if group % queries == 0 else read
