"""The compiled steps: one update, one evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aloe_jax.data.loader import Batch
from aloe_jax.parallel.mesh import sharding
from aloe_jax.training.logprobs import reply_logps
from aloe_jax.training.objectives import Metrics

Params = dict[str, Any]  # what is trained
Frozen = tuple[Params, ...]  # the rest of the model: () or, beside adapters, one tree of its weights
State = dict[str, Any]  # {"params", "optimizer"}
Objective = Callable[[jax.Array, Any], tuple[jax.Array, Metrics]]


@dataclass(frozen=True)
class Step:
    """A compiled function, called with what changes from step to step; the frozen parameters go in between."""

    compiled: Any
    frozen: Frozen

    def __call__(self, changing: Any, batch: Any) -> Any:
        """(state or params, batch on devices) -> what `compiled` returns."""
        return self.compiled(changing, self.frozen, batch)


def new_state(params: Params, optimizer: optax.GradientTransformation, mesh: Mesh) -> State:
    """Parameters with fresh optimizer state; moments lie where their parameters lie, scalars everywhere."""
    shapes = jax.eval_shape(optimizer.init, params)
    by_shape = optax.tree.map_params(
        optimizer,
        lambda _, param: param.sharding,
        shapes,
        params,
        transform_non_params=lambda _: NamedSharding(mesh, PartitionSpec()),
    )
    return {"params": params, "optimizer": jax.jit(optimizer.init, out_shardings=by_shape)(params)}


def train_step(
    graph: nnx.GraphDef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: State,
    frozen: Frozen = (),
) -> Callable[[State, Any], tuple[State, Metrics]]:
    """(state, batch on devices) -> (state, metrics), compiled once a batch shape; the old state is donated.

    `state` gives the shardings that the new state keeps; `frozen` is an argument of what is compiled, no constant.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state)

    def loss(params: Params, frozen: Frozen, batch: Any) -> tuple[jax.Array, Metrics]:
        return objective(reply_logps(nnx.merge(graph, params, *frozen), batch), batch)

    def step(state: State, frozen: Frozen, batch: Any) -> tuple[State, Metrics]:
        gradients, metrics = jax.grad(loss, has_aux=True)(state["params"], frozen, batch)
        updates, optimizer_state = optimizer.update(gradients, state["optimizer"], state["params"])
        metrics["grad_norm"] = optax.tree.norm(gradients)
        return {"params": optax.apply_updates(state["params"], updates), "optimizer": optimizer_state}, metrics

    return Step(jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)), frozen)


def evaluation_step(graph: nnx.GraphDef, objective: Objective, frozen: Frozen = ()) -> Callable[[Params, Any], Metrics]:
    """(params, batch on devices) -> metrics."""

    @jax.jit
    def step(params: Params, frozen: Frozen, batch: Any) -> Metrics:
        return objective(reply_logps(nnx.merge(graph, params, *frozen), batch), batch)[1]

    return Step(step, frozen)


def logps_step(graph: nnx.GraphDef, frozen: Frozen = ()) -> Callable[[Params, Any], jax.Array]:
    """(params, batch on devices) -> reply log-probs float32 [B, R]."""

    @jax.jit
    def step(params: Params, frozen: Frozen, batch: Any) -> jax.Array:
        return reply_logps(nnx.merge(graph, params, *frozen), batch)

    return Step(step, frozen)


def place(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    """A batch on the devices, split by rows."""
    return {
        name: jax.device_put(values, sharding(mesh, ("batch", *(None,) * (values.ndim - 1)), values.shape))
        for name, values in batch.items()
    }


def mean_over(parts: list[Metrics]) -> dict[str, float]:
    """Means over several batches, each weighted by its `count` (which becomes the total)."""
    parts = jax.device_get(parts)
    total = sum(float(part["count"]) for part in parts)
    means = {
        name: sum(float(part[name]) * float(part["count"]) for part in parts) / max(total, 1.0)
        for name in parts[0]
        if name != "count"
    }
    if "perplexity" in means and "loss" in means:
        # A mean of exponentials is not the exponential of the mean.
        logs = sum(float(jnp.log(part["perplexity"])) * float(part["count"]) for part in parts) / max(total, 1.0)
        means["perplexity"] = float(jnp.exp(logs))
    return means | {"count": total}
