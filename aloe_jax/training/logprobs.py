"""Log-probabilities of whole replies, without ever holding [B, T, V] logits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

CHUNK = 512  # tokens of a row whose logits exist at once


def reply_logps(model: Any, batch: Mapping[str, jax.Array], chunk: int = CHUNK) -> jax.Array:
    """Sum of log p(token | its path) over every reply's scored tokens, end of turn included.

    `model` is a Decoder; `batch` holds tokens, positions, subtree_end, parent and reply [B, T], and
    reply_length [B, R]. Returns float32 [B, R] in nats; entry 0 and the numbers that a row does not use are 0.

    A token is predicted from the hidden state of its `parent`, the token before it on its own path: shifting by
    one would predict the first token of a reply from the end of its sibling.
    """
    hidden = model.hidden(batch["tokens"], batch["positions"], batch["subtree_end"])  # [B, T, D]
    before = jnp.take_along_axis(hidden, batch["parent"][..., None], axis=1)
    logps = token_logps(before, model.unembedding(), batch["tokens"], chunk)
    logps = jnp.where(batch["reply"] > 0, logps, 0.0)
    replies = batch["reply_length"].shape[1]
    return jax.vmap(partial(jax.ops.segment_sum, num_segments=replies))(logps, batch["reply"])


def token_logps(hidden: jax.Array, unembedding: jax.Array, labels: jax.Array, chunk: int = CHUNK) -> jax.Array:
    """log softmax(hidden @ unembedding)[labels] for hidden [B, T, D], unembedding [D, V], labels [B, T].

    Computed `chunk` tokens at a time, with the log-sum-exp in float32; logits are recomputed in the backward
    pass where there is more than one chunk. Returns float32 [B, T].
    """
    length = labels.shape[1]

    def logps(hidden: jax.Array, labels: jax.Array) -> jax.Array:
        logits = jnp.einsum("btd,dv->btv", hidden, unembedding, preferred_element_type=jnp.float32)
        label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        return label_logits - jax.nn.logsumexp(logits, axis=-1)

    if length <= chunk:
        return logps(hidden, labels)
    pieces = -(-length // chunk)
    pad = pieces * chunk - length

    def split(x: jax.Array) -> jax.Array:  # [B, T, ...] -> [pieces, B, chunk, ...]
        x = jnp.pad(x, ((0, 0), (0, pad), *((0, 0),) * (x.ndim - 2)))
        return x.reshape(x.shape[0], pieces, chunk, *x.shape[2:]).swapaxes(0, 1)

    by_piece = jax.lax.map(jax.checkpoint(lambda piece: logps(*piece)), (split(hidden), split(labels)))
    return by_piece.swapaxes(0, 1).reshape(labels.shape[0], -1)[:, :length]
