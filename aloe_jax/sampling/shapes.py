"""What a sampler has on its devices, as shapes: for a plan of machines that are not at hand, and for counting bytes.

A mesh is a Mesh or, where there are no devices, an AbstractMesh.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from aloe_jax.models.settings import LoRASettings
from aloe_jax.models.spec import Axes, Compute, Layers, ModelSpec
from aloe_jax.parallel.mesh import make_mesh, sharding
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.sampling import programs
from aloe_jax.sampling.cache import PAGE, Cache, LayerCache, block_sizes
from aloe_jax.sampling.cache import empty as empty_layer

READ = 4  # rows of a shard, at least, of which a page each is read at a time


def bucket(size: int, least: int) -> int:
    """The first of least, 2 least, 4 least, ... that is not below `size`."""
    while least < size:
        least *= 2
    return least


def cache_rows(conversations: int, rows: int, shards: int) -> int:
    """Rows of the cache of a session of so many conversations, of a sampler of `rows`, over `shards` parts of a mesh.

    The sampler rounds its rows up to a multiple of the shards.
    """
    return min(bucket(conversations, shards), -(-rows // shards) * shards)


def sibling_rows(conversations: int, siblings: int, rows: int, shards: int) -> int:
    """The same of a session that draws so many siblings to a conversation: `rows` of the sampler are replies.

    A shard has as many conversations as its part of `rows` has replies for, and at least one.
    """
    of_a_shard = max(-(-rows // shards) // siblings, 1)
    return cache_rows(conversations, of_a_shard * shards, shards)


def page_slots(most: int) -> int:
    """Slots that a sibling has of its own, for `most` new tokens: whole pages."""
    return -(-most // PAGE) * PAGE


def rows_read(rows: int, platform: str) -> int:
    """Of `rows` rows of a shard, how many are extended together by a page each.

    A CPU is quickest with scores that its caches hold, others with more of them.
    """
    return min(rows, READ if platform == "cpu" else max(READ, rows // 4))


def on_mesh(leaf: jax.Array | jax.ShapeDtypeStruct | np.generic, axes: Axes, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """The shape of an array with these logical axes on a mesh."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding(mesh, axes, leaf.shape))


def cache_shapes(spec: ModelSpec, rows: int, length: int, dtype: str, mesh: Mesh) -> Cache:
    """The cache of a session with `rows` rows of at most `length` tokens, stored in `dtype`, over a mesh."""
    blocks = tuple(block_sizes(length, undivided=False))
    empty = jax.eval_shape(lambda: programs.new_cache(spec, rows, blocks, dtype))
    return jax.tree.map(lambda leaf: on_mesh(leaf, ("batch", "kv_heads", *(None,) * (leaf.ndim - 2)), mesh), empty)


def page_shapes(
    spec: ModelSpec, replies: int, most: int, dtype: str, mesh: Mesh
) -> tuple[LayerCache[jax.ShapeDtypeStruct], ...]:
    """What `replies` replies of at most `most` tokens have of their own, stored in `dtype`, over a mesh."""
    empty = jax.eval_shape(
        lambda: tuple(empty_layer(spec, replies, page_slots(most), dtype) for _ in range(spec.layers))
    )
    return jax.tree.map(lambda leaf: on_mesh(leaf, ("batch", "kv_heads", *(None,) * (leaf.ndim - 2)), mesh), empty)


def layer_shapes(spec: ModelSpec, dtype: str, compute: str, lora: LoRASettings | None, mesh: Mesh) -> Layers:
    """The second layout of the layers' weights, of a model stored in `dtype` that computes in `compute`."""
    axes = spec.unstacked_axes(lora)
    return tuple(
        {
            # A weight in few bits is a tree of arrays, which are laid out as the weight.
            name: jax.tree.map(lambda leaf, named=named: on_mesh(leaf, named, mesh), layer[name])
            for name, named in of_layer.items()
        }
        for layer, of_layer in zip(_unstacked(spec, dtype, compute, lora), axes, strict=True)
    )


@functools.lru_cache(maxsize=8)
def _unstacked(spec: ModelSpec, dtype: str, compute: str, lora: LoRASettings | None) -> Layers:
    """The same without a mesh, which a search over meshes asks for again and again."""
    one = make_mesh(MeshSettings(), jax.local_devices()[:1])
    graph, trained, frozen = spec.abstract(dtype, one, Compute(dtype=compute), lora)

    def made(trained: object, frozen: tuple[object, ...]) -> Layers:
        return nnx.merge(graph, trained, *frozen).unstacked()

    found: Layers = jax.eval_shape(made, trained, frozen)
    return found
