"""How much memory of a device a training step takes, estimated from shapes before anything is compiled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from aloe_jax.data.packing import Rows
from aloe_jax.models.native.lora import quantised
from aloe_jax.models.settings import LoRASettings, ModelSettings
from aloe_jax.models.spec import ModelSpec, Parameters
from aloe_jax.models.weights import Weight, nested, weight_sharding
from aloe_jax.parallel.mesh import fitting_spec
from aloe_jax.training.head import piece_size
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.optimizer import make_optimizer
from aloe_jax.training.program import batch_shapes, state_shapes
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import stage_of


@dataclass(frozen=True)
class Memory:
    """Bytes of one device by what is in them: `state` all the time, `working` while a step runs."""

    state: Mapping[str, int]
    working: Mapping[str, int]
    checkpoint: int  # bytes of one checkpoint, over all devices

    @property
    def total(self) -> int:
        """All of it: the most at one time."""
        return sum(self.state.values()) + sum(self.working.values())


def estimate(settings: TrainSettings, spec: ModelSpec, mesh: Mesh, rows: Rows, steps: int) -> Memory:
    """The memory of a training step on a device of `mesh`; `rows` are those of the training data.

    State is exact: the shapes are those that the run makes. What a step works with is an estimate of what the
    compiler keeps at once; see `activations`.
    """
    options, lora = settings.model, settings.model.lora
    params = _abstract(spec.trained(lora), mesh, options.dtype)
    optimizer = MasterCopies(make_optimizer(settings.optimizer, steps))
    optimizer_state = state_shapes(params, optimizer, mesh)["optimizer"]
    state = {f"parameters in {options.dtype}": _bytes(params)}
    if lora is not None:
        state = {
            f"frozen weights, {lora.base.replace('_', ' ')}": _frozen_bytes(spec, lora, mesh, options.dtype),
            f"adapters in {options.dtype}": _bytes(params),
        }
    state["float32 copies of them"] = _bytes(optimizer_state.master)
    state[f"{settings.optimizer.name}'s state"] = _bytes(optimizer_state.inner)

    parts, some = settings.data.accumulate, _rows_at_once(settings, mesh)
    kept, layer = activations(spec, options, mesh, some * settings.data.row_length, settings.data.row_length)
    logits = head(spec, options, mesh, some * rows.scored.shape[1])
    working = {
        "gradients": _bytes(params) + (_bytes(params, jnp.float32) if parts > 1 else 0),
        f"activations, remat {options.remat}": kept,
        # One after the other: the head first, then the layers from the last to the first.
        ("logits of a piece of the vocabulary" if logits > layer else "backward pass of a layer"): max(logits, layer),
        "weights gathered or cast": _gathered(spec, options, mesh),
        "batch": _bytes(batch_shapes(settings.data.rows, stage_of(settings), mesh, rows)),
    }
    checkpoint = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((params, optimizer_state)))
    return Memory(_without_zeros(state), _without_zeros(working), checkpoint)


def activations(spec: ModelSpec, options: ModelSettings, mesh: Mesh, tokens: int, length: int) -> tuple[int, int]:
    """Bytes that the layers keep for the backward pass, and the most that one layer takes besides while it runs.

    For `tokens` tokens in rows of `length`; `options.attention` is a method, not `auto`. The backward pass through a
    layer needs of each token: both norms' input, normalised value and result (float32 but the last), queries, keys,
    values, the attention's result with its log-sum-exp (with dense attention its weights), and the feed-forward's gate
    and up (MaxText: six arrays). Remat `dots` keeps what products with weights gave, `full` only the layer's input; the
    rest is made again, for one layer at a time.
    """
    width = jnp.dtype(options.compute_dtype).itemsize
    heads = _part(mesh, "query_heads", spec.query_heads)
    queries, keys = heads * spec.head_size, _part(mesh, "kv_heads", spec.kv_heads) * spec.head_size
    inner = _part(mesh, "feed_forward", spec.feed_forward)
    norms = spec.width * (2 * width + 4 * 4)
    attention = width * (2 * queries + 2 * keys) + 4 * heads
    if options.attention == "dense":
        attention += length * heads * (4 if width == 4 else 4 + width) + 4 * queries
    everything = norms + attention + width * spec.feed_forward_arrays * inner
    if options.remat == "none":
        kept, again = everything, 0
    elif options.remat == "dots":
        kept, again = width * (2 * spec.width + queries + 2 * keys + 2 * inner), everything
    else:
        kept, again = width * spec.width, everything
    passing = width * (2 * spec.width + 4 * inner)  # gradients on their way, and the feed-forward's product made again
    return tokens * spec.layers * kept, tokens * (again + passing)


def head(spec: ModelSpec, options: ModelSettings, mesh: Mesh, scored: int) -> int:
    """Bytes of the head: logits of a piece of the vocabulary with their gradient, and states that meet them.

    For `scored` tokens; their states are there as they are, transposed, and as a gradient in float32.
    """
    width = jnp.dtype(options.compute_dtype).itemsize
    return scored * (2 * 4 * piece_size(_part(mesh, "vocab", spec.vocab)) + (2 * width + 4) * spec.width)


def limit(mesh: Mesh) -> int | None:
    """Bytes that a device of the mesh has for this process, None where JAX does not say (CPUs)."""
    here = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    stats = here[0].memory_stats() if here else None
    return stats.get("bytes_limit") if stats else None


def _rows_at_once(settings: TrainSettings, mesh: Mesh) -> int:
    """Rows that a device computes at once."""
    return -(-settings.data.rows // (mesh.shape["data"] * mesh.shape["fsdp"] * settings.data.accumulate))


def _abstract(described: Mapping[str, Weight], mesh: Mesh, dtype: str) -> Parameters:
    return nested(
        {
            name: jax.ShapeDtypeStruct(weight.shape, jnp.dtype(dtype), sharding=weight_sharding(weight, mesh))
            for name, weight in described.items()
        }
    )


def _bytes(tree: object, dtype: DTypeLike | None = None) -> int:
    """Bytes on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(dtype or leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _frozen_bytes(spec: ModelSpec, lora: LoRASettings, mesh: Mesh, dtype: str) -> int:
    """What the frozen weights take on one device; those with adapters are stored as `lora.base` says."""
    total = 0
    for name, weight in spec.weights().items():
        here = math.prod(weight_sharding(weight, mesh).shard_shape(weight.shape))
        whole = jax.ShapeDtypeStruct(weight.shape, jnp.dtype(dtype))
        bits = 8 * whole.size * whole.dtype.itemsize
        if lora.base != "as_loaded" and name.removeprefix("layers.") in lora.targets:
            stored = jax.eval_shape(lambda w: quantised(w, lora.base), whole)
            bits = sum(leaf.size * _bits(leaf.dtype) for leaf in jax.tree.leaves(stored))
        total += bits * here // (8 * whole.size)
    return total


def _bits(dtype: np.dtype) -> int:
    return jnp.iinfo(dtype).bits if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo(dtype).bits


def _gathered(spec: ModelSpec, options: ModelSettings, mesh: Mesh) -> int:
    """Copies of weights in the compute type, whole along `fsdp`: those of a layer, and of embedding and head.

    Without rematerialisation the backward pass finds the copies of all layers, in parts as the weights are.
    """
    stored = options.lora is not None and options.lora.base != "as_loaded"
    cast = stored or options.dtype != options.compute_dtype
    if mesh.shape["fsdp"] == 1 and not cast:
        return 0
    width = jnp.dtype(options.compute_dtype).itemsize
    total, layers = 0, spec.stacked()
    for name, weight in spec.weights().items():
        axes = tuple(None if axis == "width" else axis for axis in weight.axes)
        parts = math.prod(
            math.prod(mesh.shape[axis] for axis in ((part,) if isinstance(part, str) else part or ()))
            for part in fitting_spec(mesh.shape, axes, weight.shape)
        )
        size = math.prod(weight.shape) // parts
        layered = name in layers
        total += width * size // layers.get(name, 1)
        if layered and cast and options.remat == "none":
            total += width * math.prod(weight_sharding(weight, mesh).shard_shape(weight.shape))
    return total


def _part(mesh: Mesh, axis: str, size: int) -> int:
    """How much of a dimension of activations a device has."""
    (part,) = fitting_spec(mesh.shape, (axis,), (size,)) or (None,)
    names = (part,) if isinstance(part, str) else part or ()
    return size // math.prod(mesh.shape[name] for name in names)


def _without_zeros(sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if size}
