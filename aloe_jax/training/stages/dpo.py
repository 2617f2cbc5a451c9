"""Preference optimisation over pairs of replies, against the frozen starting model by most losses."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from aloe_jax.data.loader import Batch
from aloe_jax.data.packing import Rows
from aloe_jax.data.selection import PAIRS
from aloe_jax.data.sources import Split
from aloe_jax.errors import AloeError
from aloe_jax.training.logprobs import Scores
from aloe_jax.training.preference_losses import PREFERENCE_LOSSES, Constants
from aloe_jax.training.reference import ReferenceCache
from aloe_jax.training.settings import TrainSettings
from aloe_jax.training.stages.stage import Stage, StartingModel, Watched
from aloe_jax.training.totals import Mean, Objective, Totals, divided


class DPO(Stage):
    """Learns to prefer a reply to the other one of its pair; `dpo.loss` says how (preference_losses.py)."""

    shown = Watched(
        {"margin": "margin {:+.3f}", "accuracy": "accuracy {:.3f}"},
        by_turn={"accuracy": "{:.2f}", "margin": "{:+.2f}"},
    )
    selection = PAIRS

    def __init__(self, settings: TrainSettings):
        """Raises AloeError where a setting of `dpo` cannot have an effect."""
        super().__init__(settings)
        dpo = settings.dpo
        self.loss = PREFERENCE_LOSSES[dpo.loss]
        if dpo.label_smoothing and not self.loss.smooths:
            able = ", ".join(name for name, loss in PREFERENCE_LOSSES.items() if loss.smooths)
            raise AloeError(
                f"dpo.label_smoothing: {dpo.loss} does not smooth labels; set it to 0, or dpo.loss to {able}"
            )
        if dpo.turn_weights and not any(dpo.turn_weights):
            raise AloeError("dpo.turn_weights: all are 0, so no pair counts; give at least one turn a weight")

    def describe(self) -> str:
        """The loss with its constants."""
        dpo = self.settings.dpo
        smoothing = f"label smoothing {dpo.label_smoothing}"
        gamma = f", gamma {dpo.gamma:g}" if dpo.loss == "simpo" else ""
        by_turn = f", weights by turn {', '.join(f'{w:g}' for w in dpo.turn_weights)}" if dpo.turn_weights else ""
        return f"DPO ({dpo.loss}, beta {dpo.beta}{gamma}, {smoothing}, SFT term {dpo.sft_weight}{by_turn})"

    def row_arrays(self, rows: Rows) -> dict[str, jax.ShapeDtypeStruct]:
        """The reference's log-probs of both replies of every pair [P, 2], where the loss has a reference."""
        if not self.loss.reference:
            return {}
        return {"reference": jax.ShapeDtypeStruct(rows.pairs.shape[1:], jnp.float32)}

    def compute_row_arrays(self, model: StartingModel, rows: Mapping[Split, Rows]) -> Mapping[Split, Batch]:
        """Reference log-probs [N, P, 2]: computed once, and kept where other runs find them (`dpo.reference_cache`)."""
        if not self.loss.reference:
            return {}
        cache = ReferenceCache(
            self.settings.dpo.reference_cache or model.directory.parent / "reference-logps", model.digest()
        )
        found: dict[Split, Batch] = {}
        for split, of_split in rows.items():
            with model.progress(f"reference log-probs, {split}") as progress:
                found[split] = {"reference": cache.for_rows(of_split, self.settings.data.rows, model.logps, progress)}
        return found

    def objective(self, turns: int = 0) -> Objective:
        """Loss; margin, accuracy (margin > 0), reward_preferred and reward_rejected; preferred_nll; drift.

        All but loss and preferred_nll come a second time by turn, under the name "margin/turn" and so on, as arrays
        over turns 1 to `turns` (0: not at all; a deeper pair counts in the overall means only). `turn_weights` weigh
        pairs in the loss and in nothing else.

        drift, where there is a reference, is the mean over reply tokens of log π_ref - log π, Schulman's estimator k1
        of KL(reference || policy) per token. It is unbiased for replies drawn from the reference; the data's were
        written by others, so take it for how far the policy has moved on these replies, of either sign: below 0, it
        has made them likelier.
        """
        dpo, entry = self.settings.dpo, self.loss
        constants = Constants(dpo.beta, dpo.label_smoothing, dpo.gamma)

        def preference(scores: Scores, batch: Mapping[str, jax.Array]) -> Totals:
            logps = scores.replies
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
) -> tuple[jax.Array, dict[str, jax.Array]]:
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
    metrics = {name: divided((value * weights).sum(), count) for name, value in values.items()}
    return metrics["loss"], metrics | {"count": count}


def preferred_nll(policy_logps: jax.Array, lengths: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean over pairs of the preferred reply's -log p / |tokens|, the term that RPO adds to DPO.

    `policy_logps` [..., P, 2] in nats, `lengths` [..., P, 2] in tokens, `weights` [..., P] (arXiv 2404.19733, eq. 1).
    """
    return divided((_nll(policy_logps, lengths) * weights).sum(), weights.sum())


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


def _statistics(rewards: jax.Array) -> dict[str, jax.Array]:
    margin = rewards[..., 0] - rewards[..., 1]
    return {
        "margin": margin,
        "accuracy": (margin > 0).astype(rewards.dtype),
        "reward_preferred": rewards[..., 0],
        "reward_rejected": rewards[..., 1],
    }


def _nll(policy_logps: jax.Array, lengths: jax.Array) -> jax.Array:
    return -policy_logps[..., 0] / jnp.maximum(lengths[..., 0], 1).astype(policy_logps.dtype)


def _turn_weights(turn: jax.Array, weights: tuple[float, ...]) -> jax.Array:
    """The weight of every pair [B, P] by its turn; the last one goes on for later turns."""
    if not weights:
        return jnp.ones_like(turn)
    return jnp.asarray(weights)[jnp.clip(turn, 1, len(weights)) - 1]


def _total(values: jax.Array, weights: jax.Array) -> Mean:
    """Summed over rows and pairs: [B, P], or [B, P, K] for one mean a turn."""
    return Mean(values.sum(axis=(0, 1)), weights.sum(axis=(0, 1)))
