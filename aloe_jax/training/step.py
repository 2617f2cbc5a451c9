"""The compiled steps: one update, one evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypedDict

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Wrapped

from aloe_jax.models.spec import LanguageModel, Parameters
from aloe_jax.training.logprobs import reply_logps, score
from aloe_jax.training.master import MasterCopies, MasterState
from aloe_jax.training.optimizer import state_shardings
from aloe_jax.training.totals import Mean, Objective, Totals, add

Params = Parameters  # what is trained
Frozen = tuple[Params, ...]  # the rest of the model: () or, beside adapters, one tree of its weights


class State(TypedDict):
    """What a step changes; its leaves are arrays, or shapes of arrays in a plan."""

    params: Params
    optimizer: MasterState


OnDevices = Mapping[str, jax.Array]  # a batch on the devices


@dataclass(frozen=True)
class Step[C, R]:
    """A compiled function, called with what changes from step to step; the frozen parameters go in between."""

    compiled: Wrapped
    frozen: Frozen

    def __call__(self, changing: C, batch: OnDevices) -> R:
        """(state or params, batch on devices) -> what `compiled` returns."""
        return self.compiled(changing, self.frozen, batch)


def new_state(params: Params, optimizer: MasterCopies, mesh: Mesh) -> State:
    """Parameters with fresh optimizer state; moments and copies lie where their parameters lie, scalars everywhere."""
    where = state_shardings(jax.eval_shape(optimizer.init, params), params, mesh)
    return {"params": params, "optimizer": jax.jit(optimizer.init, out_shardings=where)(params)}


def train_step(
    graph: nnx.GraphDef[LanguageModel],
    objective: Objective,
    optimizer: MasterCopies,
    state: State,
    mesh: Mesh,
    frozen: Frozen = (),
    parts: int = 1,
    passes: int = 1,
    entropy: bool = False,
    gaps: bool = False,
) -> Step[State, tuple[State, Totals]]:
    """(state, batch on devices) -> (state, totals), compiled once a batch shape; the old state is donated.

    `state` gives the shardings that the new state keeps; `frozen` is an argument of what is compiled, no constant.
    With `parts` > 1 gradients of so many parts of the batch are computed one after the other and added up, in
    float32: the loss is a mean over the whole batch whatever the number of parts. With `passes` > 1 so many updates
    are made on the same batch, one after the other; the objective finds the number of the pass in "update" [B].
    `entropy`: whether the objective reads entropies. `gaps`: parts without a reply may come, and cost nothing.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state)

    def total(params: Params, frozen: Frozen, batch: OnDevices) -> tuple[jax.Array, Totals]:
        totals = _totals(nnx.merge(graph, params, *frozen), objective, batch, entropy)
        return totals["loss"].total, totals

    def gradient(params: Params, frozen: Frozen, batch: OnDevices) -> tuple[Params, Totals]:
        gradients, totals = jax.grad(total, has_aux=True)(params, frozen, batch)
        return lax.with_sharding_constraint(gradients, shardings["params"]), totals  # never a whole one anywhere

    def update(state: State, frozen: Frozen, batch: OnDevices) -> tuple[State, Totals]:
        if parts == 1:
            gradients, totals = gradient(state["params"], frozen, batch)
        else:
            gradients, totals = accumulated(lambda part: gradient(state["params"], frozen, part), batch, parts, gaps)
        weight = jnp.where(totals["loss"].weight > 0, totals["loss"].weight, 1.0)
        gradients = jax.tree.map(lambda g: g.astype(jnp.float32) / weight, gradients)
        totals["grad_norm"] = Mean(optax.tree.norm(gradients), jnp.float32(1))
        params, optimizer_state = optimizer.apply(gradients, state["optimizer"], state["params"])
        return {"params": params, "optimizer": optimizer_state}, totals

    def step(state: State, frozen: Frozen, batch: OnDevices) -> tuple[State, Totals]:
        if passes == 1:
            return update(state, frozen, batch)
        rows = batch["tokens"].shape[:1]

        def further(carry: tuple[State, Totals], number: jax.Array) -> tuple[tuple[State, Totals], None]:
            state, totals = update(carry[0], frozen, {**batch, "update": jnp.broadcast_to(number, rows)})
            return (state, add(carry[1], totals)), None

        first = update(state, frozen, {**batch, "update": jnp.zeros(rows, jnp.int32)})
        return lax.scan(further, first, jnp.arange(1, passes))[0]

    where = shardings, everywhere(mesh)
    return Step(jax.jit(step, donate_argnums=0, out_shardings=where), frozen)


def _totals(model: LanguageModel, objective: Objective, batch: OnDevices, entropy: bool = False) -> Totals:
    """The objective's; where routers of experts have a loss, with it as "router", and in "loss"."""
    scores, penalty = score(model, batch, entropy)
    totals = objective(scores, batch)
    if penalty is not None:
        loss = totals["loss"]
        totals["router"] = Mean(penalty * loss.weight, loss.weight)
        totals["loss"] = Mean(loss.total + penalty * loss.weight, loss.weight)
    return totals


def accumulated(
    gradient: Callable[[OnDevices], tuple[Params, Totals]], batch: OnDevices, parts: int, gaps: bool = False
) -> tuple[Params, Totals]:
    """Sums of `gradient` over `parts` equal parts of a batch, in float32, holding the activations of one part.

    Part i has the rows i, i + parts, …: every device finds its share of each part among the rows that it holds. With
    `gaps` a part without a reply is passed over.
    """
    split = {
        name: jnp.moveaxis(values.reshape(values.shape[0] // parts, parts, *values.shape[1:]), 1, 0)
        for name, values in batch.items()
    }

    def summed(so_far: tuple[Params, Totals], part: OnDevices) -> tuple[Params, Totals]:
        gradients, totals = gradient(part)
        return jax.tree.map(lambda total, new: total + new.astype(jnp.float32), so_far[0], gradients), add(
            so_far[1], totals
        )

    def body(so_far: tuple[Params, Totals], part: OnDevices) -> tuple[tuple[Params, Totals], None]:
        if not gaps:
            return summed(so_far, part), None
        return lax.cond((part["reply_length"] > 0).any(), summed, lambda so_far, _: so_far, so_far, part), None

    first = {name: values[0] for name, values in split.items()}
    shapes = jax.eval_shape(gradient, first)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
    return lax.scan(body, nothing, split)[0]


def evaluation_step(
    graph: nnx.GraphDef[LanguageModel], objective: Objective, mesh: Mesh, frozen: Frozen = ()
) -> Step[Params, Totals]:
    """(params, batch on devices) -> totals, the same that training reports."""

    def step(params: Params, frozen: Frozen, batch: OnDevices) -> Totals:
        return _totals(nnx.merge(graph, params, *frozen), objective, batch)

    return Step(jax.jit(step, out_shardings=everywhere(mesh)), frozen)


def logps_step(graph: nnx.GraphDef[LanguageModel], mesh: Mesh, frozen: Frozen = ()) -> Step[Params, jax.Array]:
    """(params, batch on devices) -> reply log-probs float32 [B, R], whole on every device."""

    def step(params: Params, frozen: Frozen, batch: OnDevices) -> jax.Array:
        return reply_logps(nnx.merge(graph, params, *frozen), batch)

    return Step(jax.jit(step, out_shardings=everywhere(mesh)), frozen)


def token_logps_step(graph: nnx.GraphDef[LanguageModel], mesh: Mesh, frozen: Frozen = ()) -> Step[Params, jax.Array]:
    """(params, batch on devices) -> log-probs of every scored token, float32 [B, S], whole on every device."""

    def step(params: Params, frozen: Frozen, batch: OnDevices) -> jax.Array:
        return score(nnx.merge(graph, params, *frozen), batch)[0].logps

    return Step(jax.jit(step, out_shardings=everywhere(mesh)), frozen)


def everywhere(mesh: Mesh) -> NamedSharding:
    """Whole on every device, so that every process can read it."""
    return NamedSharding(mesh, PartitionSpec())
