"""What a step asks of a chip, from formulas alone: for machines without a compiler, and to sort candidates.

Memory is `training.memory.estimate`. Traffic and exchanges count what must move at least with the usual schedule; the
compiler finds better and worse ones, so what is compiled counts where there is both.
"""

from __future__ import annotations

import math
from dataclasses import replace

import jax.numpy as jnp

from aloe_jax.data.packing import Rows
from aloe_jax.models.spec import ModelSpec
from aloe_jax.models.weights import weight_sharding
from aloe_jax.planning.demand import AnyMesh, Demand, Transfer, exchange, summed
from aloe_jax.training import memory
from aloe_jax.training.head import piece_size
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import stage_of


def estimated(
    settings: TrainSettings, spec: ModelSpec, mesh: AnyMesh, rows: Rows, steps: int, passes: float = 1.0
) -> Demand:
    """The demand of the updates of a step of these settings on every device of a mesh; `rows` are those of training.

    `passes`: how often the rows of a step are computed; less than once where some of them are empty.
    """
    found = memory.estimate(settings, spec, mesh, rows, steps)
    batch = found.working.get("batch", 0)
    beside = stage_of(settings).memory_beside(spec, mesh).state
    state = {name: size for name, size in found.state.items() if name not in beside}
    return Demand(
        "estimated",
        peak=sum(state.values()) + sum(found.working.values()),
        arguments=sum(state.values()) + batch,
        traffic=passes * _traffic(settings, spec, mesh, rows, replace(found, state=state)),
        exchanges=summed([each._replace(bytes=passes * each.bytes) for each in _exchanges(settings, spec, mesh)]),
    )


def _tokens(settings: TrainSettings, mesh: AnyMesh) -> int:
    """Of one device, in one part of a step."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-settings.data.rows // (shards * settings.data.accumulate)) * settings.data.row_length


def _traffic(settings: TrainSettings, spec: ModelSpec, mesh: AnyMesh, rows: Rows, found: memory.Memory) -> float:
    """Bytes read and written: state once each way, weights in every pass, what layers hand on to each other, pieces of
    the head."""
    options, parts = settings.model, settings.data.accumulate
    width = jnp.dtype(options.compute_dtype).itemsize
    state = 2 * sum(size for name, size in found.state.items() if not name.startswith("frozen"))
    gradients = 2 * found.working.get("gradients", 0) * parts
    again = options.remat != "none"
    layered = spec.stacked()
    local = sum(
        width * math.prod(weight.shape) // (mesh.shape["tensor"] if "feed_forward" in weight.axes else 1)
        for name, weight in spec.weights().items()
        if name in layered
    )
    passes = 2 + 1 + again  # written when gathered, read forward, (again) and backward
    tokens = _tokens(settings, mesh)
    kept, layer = memory.activations(spec, options.model_copy(update={"remat": "none"}), mesh, tokens, 1)
    handed = (kept + spec.layers * layer) * (1 + again)  # written and read forward, and on the way back
    scored = tokens // settings.data.row_length * rows.scored.shape[1]
    vocab = spec.vocab // mesh.shape["tensor"]
    pieces = math.ceil(vocab / piece_size(vocab))
    head = scored * spec.width * pieces * (width + width + 2 * 4) + 6 * width * spec.width * vocab
    return state + gradients + parts * (passes * local + handed + head)


def _exchanges(settings: TrainSettings, spec: ModelSpec, mesh: AnyMesh) -> list[Transfer]:
    """Weights gathered forward and backward and their gradients scattered over fsdp, gradients summed over data,
    activations summed over tensor."""
    options, parts = settings.model, settings.data.accumulate
    wide, narrow = options.compute_dtype, jnp.dtype(options.compute_dtype).itemsize
    dtype = {"bfloat16": "bf16", "float32": "f32"}[wide]
    found: list[Transfer] = []
    layered = spec.stacked()
    split = whole = 0
    for name, weight in spec.weights().items():
        shard = math.prod(int(size) for size in weight_sharding(weight, mesh).shard_shape(weight.shape))
        if "width" in weight.axes and len(weight.axes) > 1:
            passes = 2 if name in layered else 1
            found.append(
                exchange("all-gather", ["fsdp"], dtype, narrow * shard * mesh.shape["fsdp"] * passes * parts, mesh)
            )
            split += shard
        whole += shard
    if options.lora is None:
        found.append(exchange("reduce-scatter", ["fsdp"], dtype, narrow * split * mesh.shape["fsdp"] * parts, mesh))
        found.append(exchange("all-reduce", ["data"], dtype, narrow * whole * parts, mesh))
    # After attention and feed-forward, there and back; what full remat sums again is the attention's.
    sums = 4 + (options.remat == "full")
    tokens = _tokens(settings, mesh) * parts
    found.append(
        exchange("all-reduce", ["tensor"], dtype, narrow * tokens * spec.width * (spec.layers * sums + 1), mesh)
    )
    return found
