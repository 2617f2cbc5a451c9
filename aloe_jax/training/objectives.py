"""What is minimised: SFT on replies, and the DPO family as a table of small functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from aloe_jax import config

Metrics = dict[str, jax.Array]


def sigmoid(delta: jax.Array, beta: float, label_smoothing: float) -> jax.Array:
    """-log σ(β Δ), DPO (arXiv 2305.18290, eq. 7); smoothed: labels flipped with that probability (conservative DPO)."""
    keep = jax.nn.log_sigmoid(beta * delta)
    flip = jax.nn.log_sigmoid(-beta * delta)
    return -(1 - label_smoothing) * keep - label_smoothing * flip


def ipo(delta: jax.Array, beta: float, label_smoothing: float) -> jax.Array:
    """(Δ - 1 / 2β)², IPO (arXiv 2310.12036, eq. 17)."""
    del label_smoothing
    return (delta - 1 / (2 * beta)) ** 2


def hinge(delta: jax.Array, beta: float, label_smoothing: float) -> jax.Array:
    """max(0, 1 - β Δ), the hinge of SLiC (arXiv 2305.10425) on DPO's implicit reward."""
    del label_smoothing
    return jax.nn.relu(1 - beta * delta)


PREFERENCE_LOSSES: dict[str, Callable[[jax.Array, float, float], jax.Array]] = {
    "sigmoid": sigmoid,
    "ipo": ipo,
    "hinge": hinge,
}


def dpo_loss(
    policy_logps: jax.Array,
    reference_logps: jax.Array,
    beta: float,
    *,
    loss: str = "sigmoid",
    label_smoothing: float = 0.0,
    weights: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """Preference loss over pairs, with the rewards that it implies.

    `policy_logps` and `reference_logps` are [..., P, 2] (preferred, rejected) in nats, `weights` [..., P] (None:
    all 1; 0 leaves a pair out). The implicit reward of a reply is β (policy logp - reference logp)
    (arXiv 2305.18290, §4). Returns the weighted mean loss and the weighted means of margin (reward of the preferred
    minus that of the rejected), accuracy (margin > 0) and both rewards; `count` is the sum of weights.
    """
    rewards = beta * (policy_logps - reference_logps)
    margin = rewards[..., 0] - rewards[..., 1]
    losses = PREFERENCE_LOSSES[loss](margin / beta, beta, label_smoothing)
    weights = jnp.ones_like(margin) if weights is None else weights
    count = weights.sum()

    def mean(x: jax.Array) -> jax.Array:
        return (x * weights).sum() / jnp.maximum(count, 1.0)

    metrics = {
        "loss": mean(losses),
        "margin": mean(margin),
        "accuracy": mean((margin > 0).astype(jnp.float32)),
        "reward_preferred": mean(rewards[..., 0]),
        "reward_rejected": mean(rewards[..., 1]),
        "count": count,
    }
    return metrics["loss"], metrics


def preferred_nll(policy_logps: jax.Array, lengths: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean over pairs of the preferred reply's -log p / |tokens|, the term that RPO adds to DPO.

    `policy_logps` [..., P, 2] in nats, `lengths` [..., P, 2] in tokens, `weights` [..., P] (arXiv 2404.19733, eq. 1).
    """
    per_token = -policy_logps[..., 0] / jnp.maximum(lengths[..., 0].astype(jnp.float32), 1.0)
    return (per_token * weights).sum() / jnp.maximum(weights.sum(), 1.0)


def sft_loss(logps: jax.Array, lengths: jax.Array, normalise: str = "token") -> tuple[jax.Array, Metrics]:
    """Negative log-likelihood of replies: logps float32 [B, R] in nats, lengths int32 [B, R] in tokens (0: no reply).

    `token`: the mean over all reply tokens; `sequence`: the mean over replies of each reply's mean over its tokens.
    """
    lengths = lengths.astype(jnp.float32)
    tokens = lengths.sum()
    per_token = -logps.sum() / jnp.maximum(tokens, 1.0)
    if normalise == "token":
        loss, count = per_token, tokens
    else:
        count = (lengths > 0).sum().astype(jnp.float32)
        loss = -(logps / jnp.maximum(lengths, 1.0)).sum() / jnp.maximum(count, 1.0)
    return loss, {"loss": loss, "perplexity": jnp.exp(per_token), "count": count}


def for_stage(settings: config.Train) -> Callable[[jax.Array, Any], tuple[jax.Array, Metrics]]:
    """The objective of the configured stage: (reply logps [B, R], batch) -> loss, metrics."""
    if settings.stage == "sft":
        return lambda logps, batch: sft_loss(logps, batch["reply_length"], settings.sft.normalise)

    def preference(logps: jax.Array, batch: Any) -> tuple[jax.Array, Metrics]:
        pairs, weights = gather_pairs(logps, batch["pairs"]), (batch["pair_turn"] > 0).astype(jnp.float32)
        loss, metrics = dpo_loss(
            pairs,
            batch["reference"],
            settings.dpo.beta,
            loss=settings.dpo.loss,
            label_smoothing=settings.dpo.label_smoothing,
            weights=weights,
        )
        if settings.dpo.sft_weight:
            lengths = gather_pairs(batch["reply_length"], batch["pairs"])
            nll = preferred_nll(pairs, lengths, weights)
            loss = loss + settings.dpo.sft_weight * nll
            metrics |= {"loss": loss, "preferred_nll": nll}
        return loss, metrics

    return preference


def gather_pairs(logps: jax.Array, pairs: jax.Array) -> jax.Array:
    """Log-probs of both replies of every pair: logps [B, R], pairs [B, P, 2] -> [B, P, 2]."""
    batch, count, two = pairs.shape
    return jnp.take_along_axis(logps, pairs.reshape(batch, count * two), axis=1).reshape(pairs.shape)
