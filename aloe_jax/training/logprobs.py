"""Log-probabilities of whole replies: only their tokens go through the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from aloe_jax.models.spec import LanguageModel
from aloe_jax.parallel.mesh import fitting_spec
from aloe_jax.training.head import token_logps


def reply_logps(model: LanguageModel, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Sum of log p(token | its path) over every reply's scored tokens, end of turn included.

    `model` is a Decoder; `batch` holds tokens, positions, subtree_end, parent and reply [B,T], reply_length [B,R] and,
    where they are known, the indices `scored` [B,S] of the tokens that count for a reply, filled up with indices of
    tokens that do not; without them every token goes through the head. Returns float32 [B,R] in nats; entry 0 and the
    numbers that a row does not use are 0.

    A token is predicted from the hidden state of its `parent`, the token before it on its own path: shifting by
    one would predict the first token of a reply from the end of its sibling.
    """
    return penalised_reply_logps(model, batch)[0]


def penalised_reply_logps(model: LanguageModel, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array | None]:
    """As `reply_logps`, with what the model adds to a loss of mean 1 a unit of weight, where it adds anything.

    That is the loss of a router that sends too many tokens to the same experts: a scalar, by its own weight.
    """
    given = batch["tokens"], batch["positions"], batch["subtree_end"]
    penalised = getattr(model, "penalised_hidden", None)
    hidden, penalty = (model.hidden(*given), None) if penalised is None else penalised(*given)  # [B,T,D]
    scored = batch.get("scored")
    if scored is None:
        scored = jnp.broadcast_to(jnp.arange(hidden.shape[1]), batch["tokens"].shape)
    tokens, parent, reply = (_by_rows(_pick, batch[name], scored) for name in ("tokens", "parent", "reply"))  # [B,S]
    cap = model.final_cap
    logps = token_logps(_by_rows(_pick, hidden, parent), model.unembedding(), tokens, cap=cap)
    logps = jnp.where(reply > 0, logps, 0.0)
    return _by_rows(partial(_sums, batch["reply_length"].shape[1]), logps, reply), penalty


def _pick(values: jax.Array, index: jax.Array) -> jax.Array:
    """[B,T,...] at [B,S] -> [B,S,...]."""
    return jax.vmap(lambda values, index: values[index])(values, index)


def _sums(count: int, values: jax.Array, numbers: jax.Array) -> jax.Array:
    """Sums of values [B,S] by number [B,S] -> [B,count]."""
    return jax.vmap(partial(jax.ops.segment_sum, num_segments=count))(values, numbers)


def _by_rows(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """`function` of every device's rows: left to itself, the compiler may gather those of all devices to index them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return function(*arrays)
    rows = PartitionSpec(*fitting_spec(mesh.shape, ("batch",), arrays[0].shape[:1]))
    return jax.shard_map(function, in_specs=(rows,) * len(arrays), out_specs=rows)(*arrays)
