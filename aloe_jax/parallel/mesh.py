"""The device mesh and the one table that maps logical axes to its axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aloe_jax import config
from aloe_jax.errors import AloeError

AXES = ("data", "fsdp", "tensor")

# Weights are split over fsdp along `width` and over tensor along the axis that attention heads, the
# feed-forward or the vocabulary span; activations are split by rows, and inside a layer by heads.
RULES: dict[str, tuple[str, ...]] = {
    # weights
    "layers": (),
    "width": ("fsdp",),
    "vocab": ("tensor",),
    "query_heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_size": (),
    "feed_forward": ("tensor",),
    # activations
    "batch": ("data", "fsdp"),
    "length": (),
    "residual_length": ("tensor",),  # between layers, where every token is for itself
    "features": (),
}


def make_mesh(shape: config.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor; one of them may be -1 and takes the devices left over.

    Raises AloeError when the sizes do not multiply to the number of devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    sizes = [shape.data, shape.fsdp, shape.tensor]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise AloeError(f"mesh: sizes must be positive, at most one of them -1, not {sizes}")
    if -1 in sizes:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = max(1, len(devices) // rest)
    if math.prod(sizes) != len(devices):
        wanted = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
        raise AloeError(f"mesh: {wanted} needs {math.prod(sizes)} devices, {len(devices)} are here")
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def mesh_axes(axes: Sequence[str | None]) -> list[tuple[str, ...]]:
    """Mesh axes of every dimension of an array with these logical axes (None: not split).

    Raises AloeError when two dimensions would use the same mesh axis, ValueError on an unknown logical axis.
    """
    used: set[str] = set()
    parts: list[tuple[str, ...]] = []
    for axis in axes:
        if axis is not None and axis not in RULES:
            raise ValueError(f"unknown logical axis {axis!r}; known: {', '.join(RULES)}")
        part = RULES[axis] if axis is not None else ()
        if used & set(part):
            raise AloeError(f"sharding: {axis} needs mesh axis {part}, which {tuple(axes)} uses already")
        used |= set(part)
        parts.append(part)
    return parts


def fitting_spec(sizes: Mapping[str, int], axes: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
    """The partition of an array of this shape over mesh axes of these sizes.

    A dimension that its mesh axes do not divide is replicated (odd vocabularies, few key/value heads).
    """
    parts = zip(mesh_axes(axes), shape, strict=True)
    return PartitionSpec(
        *(part if part and size % math.prod(sizes[name] for name in part) == 0 else None for part, size in parts)
    )


def sharding(mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """Where an array of this shape with these logical axes lies on a mesh."""
    return NamedSharding(mesh, fitting_spec(mesh.shape, axes, shape))


def constrain(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Pin an activation to its sharding under the mesh that is set (jax.set_mesh); without one, do nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, fitting_spec(mesh.shape, axes, x.shape))
