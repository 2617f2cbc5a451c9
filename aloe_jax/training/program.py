"""The program of a run: everything that is compiled, built from settings by one function.

Training builds it over real arrays and runs it; planning builds it over shapes and compiles it for machines that are
not at hand. Nothing is compiled or computed here: a step compiles when it is first called or lowered.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from aloe_jax.data.loader import FIELDS
from aloe_jax.data.packing import Rows
from aloe_jax.models.settings import ModelSettings
from aloe_jax.models.spec import Compute, ModelParts, ModelSpec
from aloe_jax.parallel.mesh import sharding
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.optimizer import make_optimizer, state_shardings
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import Stage, stage_of
from aloe_jax.training.step import (
    Frozen,
    Params,
    State,
    Step,
    evaluation_step,
    logps_step,
    token_logps_step,
    train_step,
)
from aloe_jax.training.totals import Totals


@dataclass(frozen=True)
class TrainingProgram:
    """What a run compiles. `state`, `frozen` and `batch` are what a step is called with, as shapes on the mesh."""

    step: Step[State, tuple[State, Totals]]  # (state, batch) -> (state, totals)
    evaluate: Step[Params, Totals]  # (params, batch) -> totals
    logps: Step[Params, jax.Array]  # (params, batch) -> log-probs [B, R]
    token_logps: Step[Params, jax.Array]  # (params, batch) -> log-probs of every scored token [B, S]
    optimizer: MasterCopies
    state: State
    frozen: Frozen
    batch: dict[str, jax.ShapeDtypeStruct]


def build_program(
    settings: TrainSettings,
    stage: Stage,
    model: ModelParts,
    mesh: Mesh,
    rows: Rows,
    steps: int,
    turns: int,
) -> TrainingProgram:
    """The program of a run of `steps` steps on batches shaped like `rows`, with statistics by turn up to `turns`.

    The parameters of `model` are arrays on the mesh, or jax.ShapeDtypeStructs with their shardings. Raises AloeError
    where settings contradict each other.
    """
    graph, params, frozen = model
    objective = stage.objective(turns)
    optimizer = MasterCopies(make_optimizer(settings.optimizer, steps * stage.updates))
    state = state_shapes(params, optimizer, mesh)
    return TrainingProgram(
        step=train_step(
            graph,
            objective,
            optimizer,
            state,
            mesh,
            frozen,
            parts=settings.data.accumulate,
            passes=stage.updates,
            entropy=stage.entropy,
            gaps=stage.gaps,
        ),
        evaluate=evaluation_step(graph, objective, mesh, frozen),
        logps=logps_step(graph, mesh, frozen),
        token_logps=token_logps_step(graph, mesh, frozen),
        optimizer=optimizer,
        state=state,
        frozen=jax.tree.map(_shape, frozen),
        batch=batch_shapes(settings.data.rows, stage, mesh, rows),
    )


def abstract_program(settings: TrainSettings, spec: ModelSpec, mesh: Mesh, rows: Rows, steps: int) -> TrainingProgram:
    """The same over shapes, for devices that need not exist; `settings` are resolved (see start.resolve)."""
    options = settings.model
    model = spec.abstract(options.dtype, mesh, compute_of(options), options.lora)
    turns = int(rows.pair_turn.max(initial=0))
    return build_program(settings, stage_of(settings), model, mesh, rows, steps, turns)


def compute_of(options: ModelSettings) -> Compute:
    """How the model computes; `options.attention` is a method, not `auto`."""
    return Compute(options.attention, options.remat, options.unroll, options.compute_dtype)


def state_shapes(params: Params, optimizer: MasterCopies, mesh: Mesh) -> State:
    """The training state as shapes: parameters, and moments and copies, which are laid out as their parameters are."""
    fresh = jax.eval_shape(optimizer.init, params)
    where = state_shardings(fresh, params, mesh)
    return {
        "params": jax.tree.map(_shape, params),
        "optimizer": jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), fresh, where
        ),
    }


def batch_shapes(size: int, stage: Stage, mesh: Mesh, rows: Rows) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of `size` rows as shapes, split over the mesh by rows."""
    one_row = {name: jax.ShapeDtypeStruct(getattr(rows, name).shape[1:], jnp.int32) for name in FIELDS}
    return {
        name: jax.ShapeDtypeStruct(
            (size, *row.shape),
            row.dtype,
            sharding=sharding(mesh, ("batch", *(None,) * len(row.shape)), (size, *row.shape)),
        )
        for name, row in (one_row | stage.row_arrays(rows)).items()
    }


def _shape(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
