"""The training step of a run on arrays that do not exist: what `train` compiles, with shapes in place of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from aloe_jax.data.loader import FIELDS
from aloe_jax.data.packing import Rows
from aloe_jax.models import backend
from aloe_jax.models.decoder import Compute, Decoder
from aloe_jax.models.lora import Adapter, adapters, attach
from aloe_jax.models.settings import ModelSettings
from aloe_jax.models.spec import ModelSpec
from aloe_jax.models.weights import nested, weights
from aloe_jax.parallel.mesh import sharding
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.objectives import for_stage, needs_reference
from aloe_jax.training.optimizer import make_optimizer, state_shardings
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.start import attention_of
from aloe_jax.training.step import Step, train_step

Tree = Any  # of jax.ShapeDtypeStruct


@dataclass(frozen=True)
class AbstractStep:
    """A step and the shapes of what it is called with, each with its place on the mesh."""

    step: Step
    state: Tree
    frozen: Tree
    batch: Tree


def abstract_step(settings: TrainSettings, spec: ModelSpec, mesh: Mesh, rows: Rows, steps: int) -> AbstractStep:
    """The step of a run with these settings, as training/loop.py makes it; `rows` are those of the training data.

    Raises AloeError where settings contradict each other.
    """
    attention = attention_of(settings, spec, mesh)
    graph, params, frozen = abstract_model(settings.model.model_copy(update={"attention": attention}), spec, mesh)
    optimizer = MasterCopies(make_optimizer(settings.optimizer, steps))
    made = jax.eval_shape(optimizer.init, params)
    state = {"params": params, "optimizer": jax.tree.map(_placed, made, state_shardings(made, params, mesh))}
    objective = for_stage(settings, int(rows.pair_turn.max(initial=0)))
    step = train_step(graph, objective, optimizer, state, mesh, frozen, settings.data.accumulate)
    return AbstractStep(step, state, frozen, abstract_batch(settings, mesh, rows))


def abstract_model(options: ModelSettings, spec: ModelSpec, mesh: Mesh) -> tuple[nnx.GraphDef, Tree, tuple[Tree, ...]]:
    """Graph, trained parameters and frozen ones, as `training.start.build_model` gives them."""
    native = isinstance(spec, ModelSpec)
    attention = "tpu" if options.attention == "auto" and native else options.attention
    compute = Compute(attention, options.remat, options.unroll, options.compute_dtype)
    if options.lora is None:
        return *backend.abstract_model(spec, options.dtype, mesh, compute), ()
    lora = options.lora

    def new() -> Decoder:
        return attach(Decoder(spec, rngs=nnx.Rngs(0), dtype=options.dtype, compute=compute), lora, 0, options.dtype)

    graph, *parts = nnx.split(nnx.eval_shape(new), Adapter, nnx.Param)
    trained, rest = (nnx.to_pure_dict(part) for part in parts)
    by_name = {f"adapters.{name}": weight for name, weight in adapters(spec, lora).items()}
    return graph, _on_mesh(trained, by_name, mesh), (_on_mesh(rest, weights(spec), mesh),)


def abstract_batch(settings: TrainSettings, mesh: Mesh, rows: Rows) -> Tree:
    """One batch of `rows`, with reference log-probs where the loss has a reference."""
    shapes = {name: (getattr(rows, name).shape[1:], jnp.int32) for name in FIELDS}
    if settings.stage == "dpo" and needs_reference(settings.dpo.loss):
        shapes["reference"] = (rows.pairs.shape[1:], jnp.float32)
    count = settings.data.rows
    return {
        name: jax.ShapeDtypeStruct(
            (count, *shape), dtype, sharding=sharding(mesh, ("batch", *(None,) * len(shape)), (count, *shape))
        )
        for name, (shape, dtype) in shapes.items()
    }


def _on_mesh(tree: Tree, described: Any, mesh: Mesh) -> Tree:
    """Each weight where `described` puts it; one held in few bits has several arrays, which lie as it would."""

    def place(weight: Any, value: Tree) -> Tree:
        return jax.tree.map(lambda leaf: _placed(leaf, sharding(mesh, weight.axes, leaf.shape)), value)

    by_name = nested({name: weight for name, weight in described.items()})

    def walk(value: Tree, weight: Any) -> Tree:
        if isinstance(weight, dict):
            return {name: walk(value[name], weight[name]) for name in value}
        return place(weight, value)

    return walk(tree, by_name)


def _placed(leaf: Any, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def bytes_here(tree: Tree) -> int:
    """Bytes on one device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * _bits(leaf.dtype) // 8 for leaf in jax.tree.leaves(tree)
    )


def _bits(dtype: Any) -> int:
    kind = jnp.iinfo if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo
    return int(kind(dtype).bits)
