"""Log-probabilities of replies: only their tokens go through the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from aloe_jax.models.spec import LanguageModel
from aloe_jax.parallel.mesh import fitting_spec
from aloe_jax.training.head import token_logps, token_logps_and_entropies


class Scores(NamedTuple):
    """What an objective reads of a model: of every scored token of a batch, B rows of S, and by sums of every reply."""

    logps: jax.Array  # float32 [B,S] in nats: log p(token | its path); 0 at what fills up
    reply: jax.Array  # int32 [B,S]: the number of the token's reply in its row; 0: it fills up
    replies: jax.Array  # float32 [B,R]: sums over the tokens of every reply, end of turn included; entry 0 is 0
    entropy: jax.Array | None = None  # float32 [B,S] in nats, of the distribution that the token is of

    @classmethod
    def of_replies(cls, logps: jax.Array) -> Scores:
        """Scores of which only the sums are known, [B,R]: every reply as one token."""
        numbers = jnp.broadcast_to(jnp.arange(logps.shape[1], dtype=jnp.int32), logps.shape)
        return cls(logps, numbers, logps)


def reply_logps(model: LanguageModel, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Sum of log p(token | its path) over every reply's scored tokens, end of turn included.

    `model` is a Decoder; `batch` holds tokens, positions, subtree_end, parent and reply [B,T], reply_length [B,R] and,
    where they are known, the indices `scored` [B,S] of the tokens that count for a reply, filled up with indices of
    tokens that do not; without them every token goes through the head. Returns float32 [B,R] in nats; entry 0 and the
    numbers that a row does not use are 0.

    A token is predicted from the hidden state of its `parent`, the token before it on its own path: shifting by
    one would predict the first token of a reply from the end of its sibling.
    """
    return score(model, batch)[0].replies


def score(
    model: LanguageModel, batch: Mapping[str, jax.Array], entropy: bool = False
) -> tuple[Scores, jax.Array | None]:
    """The scores of a batch as of `reply_logps`, with what the model adds to a loss of mean 1 a unit of weight, if any.

    That is the loss of a router that sends too many tokens to the same experts: a scalar, by its own weight.
    """
    given = batch["tokens"], batch["positions"], batch["subtree_end"]
    penalised = getattr(model, "penalised_hidden", None)
    hidden, penalty = (model.hidden(*given), None) if penalised is None else penalised(*given)  # [B,T,D]
    scored = scored_indices(batch)
    tokens, parent, reply = (by_rows(pick, batch[name], scored) for name in ("tokens", "parent", "reply"))  # [B,S]
    states, head, cap = by_rows(pick, hidden, parent), model.unembedding(), model.final_cap
    entropies = None
    if entropy:
        logps, entropies = token_logps_and_entropies(states, head, tokens, cap=cap)
        entropies = jnp.where(reply > 0, entropies, 0.0)
    else:
        logps = token_logps(states, head, tokens, cap=cap)
    logps = jnp.where(reply > 0, logps, 0.0)
    return Scores(logps, reply, sums(logps, reply, batch["reply_length"].shape[1]), entropies), penalty


def scored_indices(batch: Mapping[str, jax.Array]) -> jax.Array:
    """The indices [B,S] of the tokens that go through the head: all [B,T], where the batch names none."""
    scored = batch.get("scored")
    if scored is None:
        tokens = batch["tokens"]
        scored = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return scored


def pick(values: jax.Array, index: jax.Array) -> jax.Array:
    """[B,T,...] at [B,S] -> [B,S,...]."""
    return jax.vmap(lambda values, index: values[index])(values, index)


def sums(values: jax.Array, numbers: jax.Array, count: int) -> jax.Array:
    """Sums of values [B,S] by number [B,S] -> [B,count]."""
    return by_rows(partial(_sums, count), values, numbers)


def _sums(count: int, values: jax.Array, numbers: jax.Array) -> jax.Array:
    return jax.vmap(partial(jax.ops.segment_sum, num_segments=count))(values, numbers)


def by_rows(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """`function` of every device's rows: left to itself, the compiler may gather those of all devices to index them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return function(*arrays)
    rows = PartitionSpec(*fitting_spec(mesh.shape, ("batch",), arrays[0].shape[:1]))
    return jax.shard_map(function, in_specs=(rows,) * len(arrays), out_specs=rows)(*arrays)
