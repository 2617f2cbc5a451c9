"""A kernel on every device of the mesh that is set: compilers cannot split what they cannot look into."""

from __future__ import annotations

from collections.abc import Callable

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
    place = () if window is None or positions is None else (positions, jnp.asarray(window, jnp.int32))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return kernel(query, key, value, subtree_end, *(place or (None, None)))
    queries, keys = (fitting_spec(mesh.shape, axes, x.shape) for axes, x in ((QUERY, query), (KEY, key)))
    group = query.shape[2] // key.shape[2]

    def local(
        query: jax.Array, key: jax.Array, value: jax.Array, subtree_end: jax.Array, *place: jax.Array
    ) -> jax.Array:
        if queries[2] != keys[2]:
            read = heads_read(query.shape[2], group)
            key, value = key[:, :, read], value[:, :, read]
        return kernel(query, key, value, subtree_end, *(place or (None, None)))

    by_row = [fitting_spec(mesh.shape, ("batch", "length"), x.shape) for x in (subtree_end, *place[:1])]
    return jax.shard_map(
        local,
        in_specs=(queries, keys, keys, *by_row, *[PartitionSpec()] * len(place[1:])),
        out_specs=queries,
        check_vma=False,  # a Pallas call does not say how its outputs vary over the mesh
    )(query, key, value, subtree_end, *place)


def heads_read(queries: int, group: int) -> jax.Array:
    """Which of all key heads the `queries` query heads of this device read: one that all read, or one for each."""
    first = lax.axis_index(RULES["query_heads"]) * queries
    read = (first + jnp.arange(queries)) // group
    return read[:1] if group % queries == 0 else read
