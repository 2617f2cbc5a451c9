"""How much memory of a device a training step takes, estimated from shapes before anything is compiled."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from aloe_jax.data.packing import Rows
from aloe_jax.models.native.lora import quantised
from aloe_jax.models.settings import LoRASettings, ModelSettings
from aloe_jax.models.spec import ModelSpec, Parameters
from aloe_jax.models.weights import Weight, nested, weight_sharding
from aloe_jax.parallel.device_bytes import bits, bytes_on_a_device
from aloe_jax.parallel.mesh import fitting_spec
from aloe_jax.training.head import piece_size
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.optimizer import make_optimizer
from aloe_jax.training.program import batch_shapes, state_shapes
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import Phase, stage_of


@dataclass(frozen=True)
class Memory:
    """Bytes of one device by what is in them: `state` all the time, `working` while the weights are updated.

    `between`: what a stage works with between updates, by what it does then; never two of them at a time.
    """

    state: Mapping[str, int]
    working: Mapping[str, int]
    checkpoint: int  # bytes of one checkpoint, over all devices
    between: Mapping[str, Phase] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The most at one time."""
        return sum(self.state.values()) + max(map(sum, self._at_work))

    @property
    def largest(self) -> str:
        """What is done when it is most: "" for an update, else a name of `between`."""
        works = dict(zip(("", *self.between), map(sum, self._at_work), strict=True))
        return max(works, key=lambda name: works[name])

    @property
    def _at_work(self) -> list[Collection[int]]:
        return [self.working.values(), *(phase.working.values() for phase in self.between.values())]


def estimate(settings: TrainSettings, spec: ModelSpec, mesh: Mesh, rows: Rows, steps: int) -> Memory:
    """The memory of a training step on a device of `mesh`; `rows` are those of the training data.

    State is exact: the shapes are those that the run makes. What a step works with is an estimate of what the
    compiler keeps at once; see `activations`.
    """
    options, lora = settings.model, settings.model.lora
    params = abstract(spec.trained(lora), mesh, options.dtype)
    optimizer = MasterCopies(make_optimizer(settings.optimizer, steps))
    optimizer_state = state_shapes(params, optimizer, mesh)["optimizer"]
    state = {f"parameters in {options.dtype}": bytes_on_a_device(params)}
    if lora is not None:
        state = {
            f"frozen weights, {lora.base.replace('_', ' ')}": _frozen_bytes(spec, lora, mesh, options.dtype),
            f"adapters in {options.dtype}": bytes_on_a_device(params),
        }
    state["float32 copies of them"] = bytes_on_a_device(optimizer_state.master)
    state[f"{settings.optimizer.name}'s state"] = bytes_on_a_device(optimizer_state.inner)
    stage = stage_of(settings)
    beside = stage.memory_beside(spec, mesh)

    parts, some = settings.data.accumulate, rows_at_once(settings, mesh, settings.data.accumulate)
    kept, layer = activations(spec, options, mesh, some * settings.data.row_length, settings.data.row_length)
    logits = head(spec, options, mesh, some * rows.scored.shape[1])
    working = {
        "gradients": bytes_on_a_device(params) + (bytes_on_a_device(params, jnp.float32) if parts > 1 else 0),
        f"activations, remat {options.remat}": kept,
        # One after the other: the head first, then the layers from the last to the first.
        ("logits of a piece of the vocabulary" if logits > layer else "backward pass of a layer"): max(logits, layer),
        "weights gathered or cast": gathered(spec, options, mesh),
        "batch": bytes_on_a_device(batch_shapes(settings.data.rows, stage, mesh, rows)),
    }
    checkpoint = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((params, optimizer_state)))
    # The batch of the step before is there until the next one is.
    between = {
        name: replace(phase, working={**phase.working, "batch": working["batch"]})
        for name, phase in beside.between.items()
    }
    return Memory(without_zeros({**state, **beside.state}), without_zeros(working), checkpoint, between)


def activations(spec: ModelSpec, options: ModelSettings, mesh: Mesh, tokens: int, length: int) -> tuple[int, int]:
    """Bytes that the layers keep for the backward pass, and the most that one layer takes besides while it runs.

    For `tokens` tokens in rows of `length`; `options.attention` is a method, not `auto`. The backward pass through a
    layer needs of each token: both norms' input, normalised value and result (float32 but the last), queries, keys,
    values, the attention's result with its log-sum-exp (with dense attention its weights), and the feed-forward's gate
    and up (MaxText: six arrays). Remat `dots` keeps what products with weights gave, `full` only the layer's input; the
    rest is made again, for one layer at a time.
    """
    width = jnp.dtype(options.compute_dtype).itemsize
    heads = part_of(mesh, "query_heads", spec.query_heads)
    queries, keys = heads * spec.head_size, part_of(mesh, "kv_heads", spec.kv_heads) * spec.head_size
    inner = part_of(mesh, "feed_forward", spec.feed_forward)
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
    return scored * (2 * 4 * piece_size(part_of(mesh, "vocab", spec.vocab)) + (2 * width + 4) * spec.width)


def limit(mesh: Mesh) -> int | None:
    """Bytes that a device of the mesh has for this process, None where JAX does not say (CPUs)."""
    here = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    stats = here[0].memory_stats() if here else None
    return stats.get("bytes_limit") if stats else None


def rows_at_once(settings: TrainSettings, mesh: Mesh, parts: int) -> int:
    """Rows that a device computes at once, of a batch in so many parts."""
    return -(-settings.data.rows // (mesh.shape["data"] * mesh.shape["fsdp"] * parts))


def abstract(described: Mapping[str, Weight], mesh: Mesh, dtype: str) -> Parameters:
    """These weights in `dtype` as shapes on a mesh."""
    return nested(
        {
            name: jax.ShapeDtypeStruct(weight.shape, jnp.dtype(dtype), sharding=weight_sharding(weight, mesh))
            for name, weight in described.items()
        }
    )


def _frozen_bytes(spec: ModelSpec, lora: LoRASettings, mesh: Mesh, dtype: str) -> int:
    """What the frozen weights take on one device; those with adapters are stored as `lora.base` says."""
    total = 0
    for name, weight in spec.weights().items():
        here = math.prod(weight_sharding(weight, mesh).shard_shape(weight.shape))
        whole = jax.ShapeDtypeStruct(weight.shape, jnp.dtype(dtype))
        kept = 8 * whole.size * whole.dtype.itemsize
        if lora.base != "as_loaded" and name.removeprefix("layers.") in lora.targets:
            stored = jax.eval_shape(lambda w: quantised(w, lora.base), whole)
            kept = sum(leaf.size * bits(leaf.dtype) for leaf in jax.tree.leaves(stored))
        total += kept * here // (8 * whole.size)
    return total


def gathered(spec: ModelSpec, options: ModelSettings, mesh: Mesh) -> int:
    """Copies of weights in the compute type, whole along `fsdp`: those of a layer, and of embedding and head.

    Without rematerialisation the backward pass finds the copies of all layers, in parts as the weights are.
    """
    stored = options.lora is not None and options.lora.base != "as_loaded"
    cast = stored or options.dtype != options.compute_dtype
    if mesh.shape["fsdp"] == 1 and not cast:
        return 0
    width, total, layers = jnp.dtype(options.compute_dtype).itemsize, 0, spec.stacked()
    for name, size in whole_sizes(spec, mesh).items():
        total += width * size // layers.get(name, 1)
        if name in layers and cast and options.remat == "none":
            weight = spec.weights()[name]
            total += width * math.prod(weight_sharding(weight, mesh).shard_shape(weight.shape))
    return total


def whole_sizes(spec: ModelSpec, mesh: Mesh) -> dict[str, int]:
    """Of every weight, how many of its values a device has when the parts along `fsdp` are brought together."""
    found = {}
    for name, weight in spec.weights().items():
        axes = tuple(None if axis == "width" else axis for axis in weight.axes)
        parts = math.prod(
            math.prod(mesh.shape[axis] for axis in ((part,) if isinstance(part, str) else part or ()))
            for part in fitting_spec(mesh.shape, axes, weight.shape)
        )
        found[name] = math.prod(weight.shape) // parts
    return found


def part_of(mesh: Mesh, axis: str, size: int) -> int:
    """How much of a dimension of activations a device has."""
    (part,) = fitting_spec(mesh.shape, (axis,), (size,)) or (None,)
    names = (part,) if isinstance(part, str) else part or ()
    return size // math.prod(mesh.shape[name] for name in names)


def without_zeros(sizes: Mapping[str, int]) -> dict[str, int]:
    """What takes any bytes."""
    return {name: size for name, size in sizes.items() if size}
