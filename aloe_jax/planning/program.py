"""The training step of a run on arrays that do not exist: what `train` compiles, with shapes in place of values."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from aloe_jax.data.packing import Rows
from aloe_jax.models import backend
from aloe_jax.models.decoder import Compute, Decoder
from aloe_jax.models.lora import Adapter, adapters, attach
from aloe_jax.models.settings import ModelSettings
from aloe_jax.models.spec import ModelSpec
from aloe_jax.models.weights import nested, weights
from aloe_jax.parallel.mesh import sharding
from aloe_jax.training.program import TrainingProgram, build_program
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import stage_of

Tree = Any  # of jax.ShapeDtypeStruct


def abstract_program(settings: TrainSettings, spec: ModelSpec, mesh: Mesh, rows: Rows, steps: int) -> TrainingProgram:
    """What a run with these settings compiles, over shapes; `rows` are those of the training data.

    `settings.model.attention` is a method, not `auto`. Raises AloeError where settings contradict each other.
    """
    graph, params, frozen = abstract_model(settings.model, spec, mesh)
    turns = int(rows.pair_turn.max(initial=0))
    return build_program(settings, stage_of(settings), graph, params, frozen, mesh, rows, steps, turns)


def abstract_model(options: ModelSettings, spec: ModelSpec, mesh: Mesh) -> tuple[nnx.GraphDef, Tree, tuple[Tree, ...]]:
    """Graph, trained parameters and frozen ones, as `training.start.build_model` gives them."""
    compute = Compute(options.attention, options.remat, options.unroll, options.compute_dtype)
    if options.lora is None:
        return *backend.abstract_model(spec, options.dtype, mesh, compute), ()
    lora = options.lora

    def new() -> Decoder:
        return attach(Decoder(spec, rngs=nnx.Rngs(0), dtype=options.dtype, compute=compute), lora, 0, options.dtype)

    graph, *parts = nnx.split(nnx.eval_shape(new), Adapter, nnx.Param)
    trained, rest = (nnx.to_pure_dict(part) for part in parts)
    by_name = {f"adapters.{name}": weight for name, weight in adapters(spec, lora).items()}
    return graph, _on_mesh(trained, by_name, mesh), (_on_mesh(rest, weights(spec), mesh),)


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
