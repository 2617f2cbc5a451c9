"""What is minimised over replies that the policy drew: the table of policy losses.

Shapes: B rows, S scored tokens, R replies. With π the policy, μ the policy that drew (the sampler, before the first
update), A the advantage of a reply, and per token the ratio r = π / μ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from aloe_jax.training.logprobs import Scores, by_rows, pick, scored_indices, sums
from aloe_jax.training.totals import Largest, Mean, Objective, Totals


@dataclass(frozen=True)
class PolicyConstants:
    """What the losses are set with; see rollouts/settings.py."""

    clip_low: float
    clip_high: float
    normalise: str
    most_tokens: int  # of a reply
    kl: float
    entropy: float


@dataclass(frozen=True)
class DrawnReplies:
    """What a loss reads, of every token: float32 [B,S]; of every reply: float32 [B,R]."""

    scores: Scores
    log_ratio: jax.Array  # [B,S] log π - log μ, 0 where no reply is learned from
    advantage: jax.Array  # [B,S]
    counted: jax.Array  # [B,S] 1 where the token is learned from
    reply_advantage: jax.Array  # [B,R]
    reply_counted: jax.Array  # [B,R]
    lengths: jax.Array  # [B,R] tokens


Loss = Callable[[DrawnReplies, PolicyConstants], jax.Array]  # what every token costs [B,S]


def policy_gradient(drawn: DrawnReplies, constants: PolicyConstants) -> jax.Array:
    """-A log π (REINFORCE, Williams 1992): right for the first update on a batch only."""
    return -drawn.advantage * drawn.scores.logps


def grpo(drawn: DrawnReplies, constants: PolicyConstants) -> jax.Array:
    """-min(r A, clip(r, 1 - low, 1 + high) A) (arXiv 2402.03300, eq. 3; two bounds: arXiv 2503.14476, eq. 10)."""
    return _clipped(jnp.exp(drawn.log_ratio), drawn.advantage, constants)


def gspo(drawn: DrawnReplies, constants: PolicyConstants) -> jax.Array:
    """The same with one ratio a reply, (π(reply) / μ(reply))^(1 / tokens) (arXiv 2507.18071, eq. 5 and 7).

    Every token of a reply costs what the reply does; the loss is a mean over a reply's tokens, then over replies.
    """
    numbers, lengths = drawn.scores.reply, jnp.maximum(drawn.lengths, 1)
    mean = sums(drawn.log_ratio, numbers, lengths.shape[1]) / lengths
    return by_rows(pick, _clipped(jnp.exp(mean), drawn.reply_advantage, constants), numbers)


def _clipped(ratio: jax.Array, advantage: jax.Array, constants: PolicyConstants) -> jax.Array:
    bounded = jnp.clip(ratio, 1 - constants.clip_low, 1 + constants.clip_high)
    return -jnp.minimum(ratio * advantage, bounded * advantage)


POLICY_LOSSES: Mapping[str, Loss] = {"policy_gradient": policy_gradient, "grpo": grpo, "gspo": gspo}


def policy_objective(name: str, constants: PolicyConstants) -> Objective:
    """The loss `name`, with the divergence from a reference and the entropy as its constants say.

    The batch has, beside the fields of rows: advantage and weight [B,R], drawn_logps [B,T], and reference_logps
    [B,T] where `kl` is not 0. Normalised by `constant`: the most tokens that the replies could have had (Dr. GRPO,
    arXiv 2503.20783, §3.2); `token`: their tokens; `sequence`: every reply by its own tokens, then by the number of
    replies (arXiv 2402.03300, eq. 3). gspo is a mean over replies, whatever is set.

    Statistics: entropy (nats a token) and kl (of the reference from the policy, estimator k3 of Schulman 2020), both by
    tokens; clipped, the share of tokens whose ratio counts no further; log_ratio, the largest |log r| of a token at the
    first update; tokens a reply.
    """

    def objective(scores: Scores, batch: Mapping[str, jax.Array]) -> Totals:
        index = scored_indices(batch)
        counted = by_rows(pick, batch["weight"], scores.reply) * (scores.reply > 0)
        log_ratio = jnp.where(counted > 0, scores.logps - by_rows(pick, batch["drawn_logps"], index), 0.0)
        lengths = batch["reply_length"].astype(scores.logps.dtype)
        drawn = DrawnReplies(
            scores,
            log_ratio,
            by_rows(pick, batch["advantage"], scores.reply),
            counted,
            batch["advantage"],
            batch["weight"],
            lengths,
        )
        costs = POLICY_LOSSES[name](drawn, constants)
        assert scores.entropy is not None
        divergence = None
        if constants.kl:
            behind = jnp.where(counted > 0, by_rows(pick, batch["reference_logps"], index) - scores.logps, 0.0)
            divergence = jnp.exp(behind) - behind - 1.0
            costs = costs + constants.kl * divergence
        costs = costs - constants.entropy * scores.entropy
        tokens, replies = counted.sum(), batch["weight"].sum()
        if name == "gspo" or constants.normalise == "sequence":
            shares = by_rows(pick, 1.0 / jnp.maximum(lengths, 1), scores.reply)
            loss = Mean((costs * counted * shares).sum(), replies)
        elif constants.normalise == "token":
            loss = Mean((costs * counted).sum(), tokens)
        else:
            loss = Mean((costs * counted).sum(), replies * constants.most_tokens)
        ratio = jnp.exp(log_ratio)
        beyond = ((drawn.advantage > 0) & (ratio > 1 + constants.clip_high)) | (
            (drawn.advantage < 0) & (ratio < 1 - constants.clip_low)
        )
        first = (batch["update"] == 0)[:, None] if "update" in batch else True
        totals = {
            "loss": loss,
            "entropy": Mean((scores.entropy * counted).sum(), tokens),
            "clipped": Mean((beyond * counted).sum(), tokens),
            "log_ratio": Largest(jnp.where(first, jnp.abs(log_ratio), 0.0).max(), jnp.float32(1.0)),
            "reply_tokens": Mean((lengths * batch["weight"]).sum(), replies),
        }
        if divergence is not None:
            totals["kl"] = Mean((divergence * counted).sum(), tokens)
        return totals

    return objective
