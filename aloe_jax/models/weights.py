"""What is known of a weight: shape, logical axes, initial value. Shardings, checkpoints and conversion read this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from aloe_jax.parallel.mesh import sharding

Initialiser = Callable[[jax.Array, tuple[int, ...]], jax.Array]
type Tree[T] = dict[str, T | Tree[T]]  # values by nested names


@dataclass(frozen=True)
class Weight:
    """One parameter. `initialiser(key, shape)` returns float32."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]  # logical names, one a dimension: see parallel/mesh.py
    initialiser: Initialiser


def normal(deviation: float) -> Initialiser:
    """Values drawn from a normal distribution around zero."""
    return lambda key, shape: deviation * jax.random.normal(key, shape, jnp.float32)


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A product or bias that adds nothing yet."""
    return jnp.zeros(shape, jnp.float32)


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The scale of a norm that does nothing yet."""
    return jnp.ones(shape, jnp.float32)


def nested[T](values: Mapping[str, T]) -> Tree[T]:
    """{"layers.query": x} as {"layers": {"query": x}}, the form of `nnx.to_pure_dict`."""
    return traverse_util.unflatten_dict(dict(values), sep=".")


def flat[T](tree: Tree[T]) -> dict[str, T]:
    """The reverse of `nested`."""
    return traverse_util.flatten_dict(tree, sep=".")


def weight_sharding(weight: Weight, mesh: Mesh | None) -> Sharding:
    """The sharding of one weight on a mesh; dimensions that the mesh does not divide are replicated.

    None: one device.
    """
    if mesh is None:
        return SingleDeviceSharding(jax.devices()[0])
    return sharding(mesh, weight.axes, weight.shape)


def on_host(value: jax.Array) -> np.ndarray:
    """All of an array; on several hosts all get it, and all must call this."""
    if not value.is_fully_addressable:
        value = multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(value)
