"""The training step of a run on arrays that do not exist: what `train` compiles, with shapes in place of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from aloe_jax.data.loader import FIELDS
from aloe_jax.data.packing import Rows
from aloe_jax.models.spec import Compute, ModelSpec
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
    options = settings.model
    compute = Compute(attention_of(settings, spec, mesh), options.remat, options.unroll, options.compute_dtype)
    model = spec.abstract(options.dtype, mesh, compute, options.lora)
    params, frozen = model.trained, model.frozen
    optimizer = MasterCopies(make_optimizer(settings.optimizer, steps))
    made = jax.eval_shape(optimizer.init, params)
    state = {"params": params, "optimizer": jax.tree.map(_placed, made, state_shardings(made, params, mesh))}
    objective = for_stage(settings, int(rows.pair_turn.max(initial=0)))
    step = train_step(model.graph, objective, optimizer, state, mesh, frozen, settings.data.accumulate)
    return AbstractStep(step, state, frozen, abstract_batch(settings, mesh, rows))


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


def _placed(leaf: Any, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
