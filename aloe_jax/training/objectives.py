"""What is minimised, and the statistics beside it: SFT on replies, and preference losses over pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from aloe_jax.errors import AloeError
from aloe_jax.training.preference_losses import PREFERENCE_LOSSES, Constants, needs_reference
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.totals import Mean, Totals, add, read

__all__ = [
    "Mean", "Objective", "Totals", "add", "dpo_loss", "for_stage", "gather_pairs", "needs_reference",
    "preferred_nll", "read", "sft_loss",
]  # fmt: skip

Metrics = dict[str, jax.Array]
Objective = Callable[[jax.Array, Mapping[str, jax.Array]], Totals]


def dpo_loss(
    policy_logps: jax.Array,
    reference_logps: jax.Array | None,
    beta: float,
    *,
    loss: str = "sigmoid",
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    weights: jax.Array | None = None,
    lengths: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """Preference loss over pairs, with the rewards that it implies.

    `policy_logps` and `reference_logps` are [..., P, 2] (preferred, rejected) in nats (None where the loss has no
    reference), `lengths` [..., P, 2] in tokens (None: log-probs are per token already), `weights` [..., P] (None:
    all 1; 0 leaves a pair out). Returns the weighted mean loss and the weighted means of margin (reward of the
    preferred minus that of the rejected), accuracy (margin > 0) and both rewards, see `_pairwise`; `count` is the
    sum of weights.
    """
    weights = jnp.ones_like(policy_logps[..., 0]) if weights is None else weights
    constants = Constants(beta, label_smoothing, gamma)
    losses, rewards = _pairwise(policy_logps, reference_logps, lengths, weights > 0, loss, constants)
    values = {"loss": losses} | _statistics(rewards)
    count = weights.sum()
    metrics = {name: _divide((value * weights).sum(), count) for name, value in values.items()}
    return metrics["loss"], metrics | {"count": count}


def preferred_nll(policy_logps: jax.Array, lengths: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean over pairs of the preferred reply's -log p / |tokens|, the term that RPO adds to DPO.

    `policy_logps` [..., P, 2] in nats, `lengths` [..., P, 2] in tokens, `weights` [..., P] (arXiv 2404.19733, eq. 1).
    """
    return _divide((_nll(policy_logps, lengths) * weights).sum(), weights.sum())


def sft_loss(logps: jax.Array, lengths: jax.Array, normalise: str = "token") -> tuple[jax.Array, Metrics]:
    """Negative log-likelihood of replies: logps float32 [B, R] in nats, lengths int32 [B, R] in tokens (0: no reply).

    `token`: the mean over all reply tokens; `sequence`: the mean over replies of each reply's mean over its tokens.
    """
    totals = _sft_totals(logps, lengths, normalise)
    loss, nll = _divide(*totals["loss"]), _divide(*totals["nll"])
    return loss, {"loss": loss, "perplexity": jnp.exp(nll), "count": totals["loss"].weight}


def for_stage(settings: TrainSettings, turns: int = 0) -> Objective:
    """The objective of the configured stage: (reply logps [B, R], batch) -> Totals, of which "loss" is minimised.

    SFT: loss and nll, per token. DPO: loss; margin, accuracy (margin > 0), reward_preferred and reward_rejected;
    preferred_nll; and with a reference drift. All but loss and preferred_nll come a second time by turn, under the
    name "margin/turn" and so on, as arrays over turns 1 to `turns` (0: not at all; a deeper pair counts in the
    overall means only). `turn_weights` weigh pairs in the loss and in nothing else.

    drift is the mean over reply tokens of log π_ref - log π, Schulman's estimator k1 of KL(reference || policy) per
    token. It is unbiased for replies drawn from the reference; the data's were written by others, so take it for
    how far the policy has moved on these replies, of either sign: below 0, it has made them likelier.

    Raises AloeError where a setting of `dpo` cannot have an effect.
    """
    if settings.stage == "sft":
        return lambda logps, batch: _sft_totals(logps, batch["reply_length"], settings.sft.normalise)
    dpo = settings.dpo
    entry = PREFERENCE_LOSSES[dpo.loss]
    if dpo.label_smoothing and not entry.smooths:
        able = ", ".join(name for name, each in PREFERENCE_LOSSES.items() if each.smooths)
        raise AloeError(f"dpo.label_smoothing: {dpo.loss} does not smooth labels; set it to 0, or dpo.loss to {able}")
    if dpo.turn_weights and not any(dpo.turn_weights):
        raise AloeError("dpo.turn_weights: all are 0, so no pair counts; give at least one turn a weight")
    constants = Constants(dpo.beta, dpo.label_smoothing, dpo.gamma)

    def preference(logps: jax.Array, batch: Mapping[str, jax.Array]) -> Totals:
        turn = batch["pair_turn"]  # [B, P], 1-based, 0: no pair
        there = (turn > 0).astype(logps.dtype)
        policy, lengths = gather_pairs(logps, batch["pairs"]), gather_pairs(batch["reply_length"], batch["pairs"])
        reference = batch["reference"] if entry.reference else None
        losses, rewards = _pairwise(policy, reference, lengths, turn > 0, dpo.loss, constants)
        nll = _nll(policy, lengths)
        weights = there * _turn_weights(turn, dpo.turn_weights).astype(logps.dtype)
        totals = {
            "loss": _total((losses + dpo.sft_weight * nll) * weights, weights),
            "preferred_nll": _total(nll * there, there),
        }
        statistics = {name: (value * there, there) for name, value in _statistics(rewards).items()}
        if reference is not None:
            tokens = lengths.sum(axis=-1).astype(logps.dtype)
            statistics["drift"] = ((reference - policy).sum(axis=-1) * there, tokens * there)
        for name, parts in statistics.items():
            totals[name] = _total(*parts)
            if turns:
                at = turn[..., None] == jnp.arange(1, turns + 1)[None, None]  # [B, P, K]
                totals[f"{name}/turn"] = _total(*(part[..., None] * at for part in parts))
        return totals

    return preference


def gather_pairs(logps: jax.Array, pairs: jax.Array) -> jax.Array:
    """Log-probs (or lengths) of both replies of every pair: [B, R], pairs [B, P, 2] -> [B, P, 2]."""
    batch, count, two = pairs.shape
    return jnp.take_along_axis(logps, pairs.reshape(batch, count * two), axis=1).reshape(pairs.shape)


def _pairwise(
    policy: jax.Array,
    reference: jax.Array | None,
    lengths: jax.Array | None,
    there: jax.Array,
    loss: str,
    constants: Constants,
) -> tuple[jax.Array, jax.Array]:
    """Losses [..., P] and rewards [..., P, 2] of pairs; where there is none (`there` [..., P]) they are finite.

    The reward of a reply is β times its score (see preference_losses): β (log π - log π_ref) (arXiv 2305.18290, §4),
    divided by its length where the loss compares rewards so divided.
    """
    entry = PREFERENCE_LOSSES[loss]
    scores = policy
    if entry.reference:
        if reference is None:
            raise ValueError(f"{loss} needs the reference's log-probs")
        scores = policy - reference
    if entry.per_token and lengths is not None:
        scores = scores / jnp.maximum(lengths, 1)
    # Before the loss, not after: the gradient of what is masked afterwards may be NaN, and 0 times NaN is NaN.
    scores = jnp.where(there[..., None], scores, -1.0)
    return entry.of(scores, constants), jax.lax.stop_gradient(constants.beta * scores)


def _statistics(rewards: jax.Array) -> Metrics:
    margin = rewards[..., 0] - rewards[..., 1]
    return {
        "margin": margin,
        "accuracy": (margin > 0).astype(rewards.dtype),
        "reward_preferred": rewards[..., 0],
        "reward_rejected": rewards[..., 1],
    }


def _sft_totals(logps: jax.Array, lengths: jax.Array, normalise: str) -> Totals:
    lengths = lengths.astype(logps.dtype)
    per_token = Mean(-logps.sum(), lengths.sum())
    if normalise == "token":
        return {"loss": per_token, "nll": per_token}
    return {
        "loss": Mean(-(logps / jnp.maximum(lengths, 1)).sum(), (lengths > 0).astype(logps.dtype).sum()),
        "nll": per_token,
    }


def _nll(policy_logps: jax.Array, lengths: jax.Array) -> jax.Array:
    return -policy_logps[..., 0] / jnp.maximum(lengths[..., 0], 1).astype(policy_logps.dtype)


def _turn_weights(turn: jax.Array, weights: tuple[float, ...]) -> jax.Array:
    """The weight of every pair [B, P] by its turn; the last one goes on for later turns."""
    if not weights:
        return jnp.ones_like(turn)
    return jnp.asarray(weights)[jnp.clip(turn, 1, len(weights)) - 1]


def _divide(total: jax.Array, weight: jax.Array) -> jax.Array:
    """The mean, 0 where nothing counts."""
    return total / jnp.where(weight > 0, weight, 1.0)


def _total(values: jax.Array, weights: jax.Array) -> Mean:
    """Summed over rows and pairs: [B, P], or [B, P, K] for one mean a turn."""
    return Mean(values.sum(axis=(0, 1)), weights.sum(axis=(0, 1)))
