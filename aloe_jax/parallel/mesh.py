"""The device mesh and the one table that maps logical axes to its axes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aloe_jax.errors import AloeError
from aloe_jax.parallel.settings import MeshSettings

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


def make_mesh(shape: MeshSettings, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor; one of them may be -1 and takes the devices left over.

    Of several TPU slices every one has all of fsdp and tensor; the data axis goes from slice to slice. Raises AloeError
    when the sizes do not multiply to the number of devices, or the data axis cannot be shared out between the slices.
    """
    devices = list(devices if devices is not None else jax.devices())
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    if len(slices) > 1 and devices[0].platform == "tpu":
        inside = within_slice(shape, len(slices))
        placed = np.concatenate([make_mesh(inside, slices[number]).devices for number in sorted(slices)])
        return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)
    sizes = filled(shape, len(devices))
    # Not jax.make_mesh: it refuses GPUs on several hosts, and sizes that cut through a side of most TPU slices.
    placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)


def filled(shape: MeshSettings, devices: int) -> list[int]:
    """The sizes of the axes, with what is left of so many devices for -1.

    Raises AloeError when they do not multiply to the number of devices.
    """
    sizes = [shape.data, shape.fsdp, shape.tensor]
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, devices // -math.prod(sizes))
    if math.prod(sizes) != devices:
        wanted = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
        raise AloeError(f"mesh: {wanted} needs {math.prod(sizes)} devices, there are {devices}")
    return sizes


def within_slice(shape: MeshSettings, slices: int) -> MeshSettings:
    """The part of a mesh over `slices` slices that one of them has: its data axis goes over all.

    Raises AloeError where it cannot be shared out between them.
    """
    data, rest = divmod(shape.data, slices) if shape.data > 0 else (shape.data, 0)
    if rest or data == 0:
        raise AloeError(
            f"mesh.data: {shape.data} cannot be shared out evenly between {slices} slices, and no other axis goes from "
            f"slice to slice; give a multiple of {slices}"
        )
    return shape.model_copy(update={"data": data})


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
    """The sharding of an array of this shape with these logical axes on a mesh."""
    return NamedSharding(mesh, fitting_spec(mesh.shape, axes, shape))


def constrain(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Pin an activation to its sharding under the mesh that is set (jax.set_mesh); without one, do nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, fitting_spec(mesh.shape, axes, x.shape))


def gathers() -> bool:
    """Whether the mesh that is set splits weights into parts that are gathered for their use."""
    return jax.sharding.get_abstract_mesh().shape.get("fsdp", 1) > 1


def gathered(weight: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """A weight that is split as these logical axes say, whole along its width, under the mesh that is set.

    With this constraint XLA brings its parts together once and in this type, where it may else move activations, or
    parts in a wider type, or keep them in turn beside each product. Its gradient is summed into the parts.
    """
    if "width" not in axes or jax.sharding.get_abstract_mesh().empty:
        return weight
    return _gathered(weight, tuple(axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(weight: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    parts = constrain(weight, axes)
    return constrain(parts, ["features" if axis == "width" else axis for axis in axes])


def _parts_of_gradient(axes: tuple[str | None, ...], _: None, cotangent: jax.Array) -> tuple[jax.Array]:
    # A plain constraint's transpose would first make the sum whole on every device.
    return (constrain(cotangent, axes),)


_gathered.defvjp(lambda weight, axes: (_gathered(weight, axes), None), _parts_of_gradient)
