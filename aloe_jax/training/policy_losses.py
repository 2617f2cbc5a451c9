"""What is minimised over replies that the policy drew: the table of policy losses.

Shapes: B rows, S scored tokens, R replies. With π the policy, μ the policy that drew (the sampler, before the first
update), π_ref the starting model, A the advantage of a reply, and per token the ratio r = π / μ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from aloe_jax.rollouts.settings import Normaliser, PolicyLossName, RLSettings
from aloe_jax.training.logprobs import Scores, by_rows, pick, scored_indices, sums
from aloe_jax.training.totals import Largest, Mean, Objective, Totals


@dataclass(frozen=True)
class PolicyConstants:
    """What the losses are set with; see rollouts/settings.py."""

    clip_low: float
    clip_high: float
    normalise: Normaliser
    most_tokens: int  # of a reply
    kl: float
    entropy: float
    beta: float = 0.1

    @classmethod
    def of(cls, rl: RLSettings) -> PolicyConstants:
        """As configured."""
        return cls(rl.clip_low, rl.clip_high, rl.normalise, rl.draw.max_new_tokens, rl.kl, rl.entropy, rl.beta)


@dataclass(frozen=True)
class DrawnReplies:
    """What a loss reads, of every token: float32 [B,S]; of every reply: float32 [B,R]."""

    scores: Scores
    log_ratio: jax.Array  # [B,S] log π - log μ, 0 where no reply is learned from
    advantage: jax.Array  # [B,S]
    counted: jax.Array  # [B,S] 1 where the token is of a reply that may be learned from
    reply_advantage: jax.Array  # [B,R]
    reply_counted: jax.Array  # [B,R]
    lengths: jax.Array  # [B,R] tokens
    rival: jax.Array  # int32 [B,R] the number of the other reply of a pair; 0: none
    reference: jax.Array | None  # [B,S] log π_ref, where it is kept

    def spread(self, of_replies: jax.Array) -> jax.Array:
        """Values of replies [B,R] as values of their tokens [B,S]."""
        return by_rows(pick, of_replies, self.scores.reply)

    def summed(self, of_tokens: jax.Array) -> jax.Array:
        """Sums of values of tokens [B,S] by reply [B,R]."""
        return sums(of_tokens, self.scores.reply, self.lengths.shape[1])


# ---------------------------------------------------------------- losses

# What every token costs [B,S], or every reply [B,R] (see the entry), and statistics beside those of all losses.
Loss = Callable[[DrawnReplies, PolicyConstants], tuple[jax.Array, Totals]]


def policy_gradient(drawn: DrawnReplies, constants: PolicyConstants) -> tuple[jax.Array, Totals]:
    """-A log π (REINFORCE, Williams 1992): right for the first update on a batch only."""
    return -drawn.advantage * drawn.scores.logps, {}


def grpo(drawn: DrawnReplies, constants: PolicyConstants) -> tuple[jax.Array, Totals]:
    """-min(r A, clip(r, 1 - low, 1 + high) A) (arXiv 2402.03300, eq. 3; two bounds: arXiv 2503.14476, eq. 10).

    Statistics: clipped, the share of tokens whose ratio counts no further.
    """
    return _clipped(jnp.exp(drawn.log_ratio), drawn.advantage, drawn.counted, constants)


def gspo(drawn: DrawnReplies, constants: PolicyConstants) -> tuple[jax.Array, Totals]:
    """The same with one ratio a reply, (π(reply) / μ(reply))^(1 / tokens) (arXiv 2507.18071, eq. 5 and 7).

    Statistics: clipped, the share of replies whose ratio counts no further.
    """
    mean = drawn.summed(drawn.log_ratio) / jnp.maximum(drawn.lengths, 1)
    return _clipped(jnp.exp(mean), drawn.reply_advantage, drawn.reply_counted, constants)


def _clipped(
    ratio: jax.Array, advantage: jax.Array, counted: jax.Array, constants: PolicyConstants
) -> tuple[jax.Array, Totals]:
    low, high = 1 - constants.clip_low, 1 + constants.clip_high
    beyond = ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))
    costs = -jnp.minimum(ratio * advantage, jnp.clip(ratio, low, high) * advantage)
    return costs, {"clipped": Mean((beyond * counted).sum(), counted.sum())}


def dpo(drawn: DrawnReplies, constants: PolicyConstants) -> tuple[jax.Array, Totals]:
    """-log σ(β Δ), Δ = log π/π_ref of the better reply of a pair minus that of the other (arXiv 2305.18290, eq. 7).

    Online: the pair is drawn by the policy itself (OAIF, arXiv 2402.04792), the best and the worst of its group (as in
    arXiv 2405.07863). Both replies cost what their pair does, so that the mean over replies is that over pairs.

    Statistics, over pairs: margin (β Δ) and accuracy (margin > 0).
    """
    assert drawn.reference is not None
    there = drawn.rival > 0

    def other(values: jax.Array) -> jax.Array:
        return by_rows(pick, values, drawn.rival)

    score = drawn.scores.replies - drawn.summed(drawn.reference)
    sign = jnp.sign(drawn.reply_advantage - other(drawn.reply_advantage))
    margin = constants.beta * jnp.where(there, sign * (score - other(score)), 0.0)
    learned = drawn.reply_counted * there
    statistics = {"margin": margin, "accuracy": (margin > 0).astype(margin.dtype)}
    return -jax.nn.log_sigmoid(margin), {
        name: Mean((values * learned).sum(), learned.sum()) for name, values in statistics.items()
    }


@dataclass(frozen=True)
class PolicyLoss:
    """An entry of the table."""

    of: Loss
    of_replies: bool = False  # it returns what replies cost, and is a mean over replies, whatever `normalise` says
    pairs: bool = False  # only replies that are one of a pair are learned from
    reference: bool = False  # it reads the reference


POLICY_LOSSES: Mapping[PolicyLossName, PolicyLoss] = {
    "policy_gradient": PolicyLoss(policy_gradient),
    "grpo": PolicyLoss(grpo),
    "gspo": PolicyLoss(gspo, of_replies=True),
    "dpo": PolicyLoss(dpo, of_replies=True, pairs=True, reference=True),
}


def needs_reference(rl: RLSettings) -> bool:
    """Whether the log-probs of the starting model are computed for every batch."""
    return rl.kl > 0 or POLICY_LOSSES[rl.loss].reference


# ---------------------------------------------------------------- means


class Learned(NamedTuple):
    """What a loss is a mean over: float32."""

    tokens: jax.Array  # [B,S] 1 where the token is learned from
    replies: jax.Array  # [B,R] 1 where the reply is
    by_length: jax.Array  # [B,S] 1 / tokens of the token's reply
    most_tokens: int  # of a reply


# Weights of tokens [B,S], and what the weighted sum is divided by.
Normalise = Callable[[Learned], tuple[jax.Array, jax.Array]]

NORMALISERS: Mapping[Normaliser, Normalise] = {
    # The most tokens that the replies could have had (Dr. GRPO, arXiv 2503.20783, §3.2).
    "constant": lambda learned: (learned.tokens, learned.replies.sum() * learned.most_tokens),
    # Their tokens (arXiv 2503.14476, eq. 12).
    "token": lambda learned: (learned.tokens, learned.tokens.sum()),
    # Every reply by its own tokens, then by the number of replies (arXiv 2402.03300, eq. 3).
    "sequence": lambda learned: (learned.tokens * learned.by_length, learned.replies.sum()),
}


def policy_objective(name: PolicyLossName, constants: PolicyConstants) -> Objective:
    """The loss `name`, with the divergence from a reference and the entropy as its constants say.

    The batch has, beside the fields of rows: advantage, weight and rival [B,R], drawn_logps [B,T], and reference_logps
    [B,T] where `kl` is not 0 or the loss reads it. Costs of tokens are normalised as NORMALISERS say, costs of replies
    by the number of replies, and so are divergence and entropy beside them; both are of the replies that the loss
    learns from.

    Statistics: entropy (nats a token) and, with a reference, kl (of the reference from the policy, estimator k3 of
    Schulman 2020), both by tokens; log_ratio, the largest |log r| of a token at the first update; tokens a reply; and
    those of the loss.
    """
    entry = POLICY_LOSSES[name]

    def objective(scores: Scores, batch: Mapping[str, jax.Array]) -> Totals:
        assert scores.entropy is not None
        drawn = _drawn(scores, batch)
        costs, statistics = entry.of(drawn, constants)
        if entry.of_replies:
            costs = drawn.spread(costs)
        costs = costs - constants.entropy * scores.entropy
        tokens, replies = drawn.counted.sum(), drawn.reply_counted.sum()
        first = (batch["update"] == 0)[:, None] if "update" in batch else True
        totals = {
            "entropy": Mean((scores.entropy * drawn.counted).sum(), tokens),
            "log_ratio": Largest(jnp.where(first, jnp.abs(drawn.log_ratio), 0.0).max(), jnp.float32(1.0)),
            "reply_tokens": Mean((drawn.lengths * drawn.reply_counted).sum(), replies),
        }
        if drawn.reference is not None:
            behind = jnp.where(drawn.counted > 0, drawn.reference - scores.logps, 0.0)
            divergence = jnp.exp(behind) - behind - 1.0
            costs = costs + constants.kl * divergence
            totals["kl"] = Mean((divergence * drawn.counted).sum(), tokens)
        shares, over = NORMALISERS["sequence" if entry.of_replies else constants.normalise](
            _learned(drawn, entry.pairs, constants)
        )
        return {"loss": Mean((costs * shares).sum(), over)} | totals | statistics

    return objective


def _drawn(scores: Scores, batch: Mapping[str, jax.Array]) -> DrawnReplies:
    index = scored_indices(batch)
    counted = by_rows(pick, batch["weight"], scores.reply) * (scores.reply > 0)
    return DrawnReplies(
        scores,
        jnp.where(counted > 0, scores.logps - by_rows(pick, batch["drawn_logps"], index), 0.0),
        by_rows(pick, batch["advantage"], scores.reply),
        counted,
        batch["advantage"],
        batch["weight"],
        batch["reply_length"].astype(scores.logps.dtype),
        batch["rival"],
        by_rows(pick, batch["reference_logps"], index) if "reference_logps" in batch else None,
    )


def _learned(drawn: DrawnReplies, pairs: bool, constants: PolicyConstants) -> Learned:
    replies = drawn.reply_counted * (drawn.rival > 0) if pairs else drawn.reply_counted
    tokens = drawn.spread(replies) * drawn.counted
    return Learned(tokens, replies, drawn.spread(1.0 / jnp.maximum(drawn.lengths, 1)), constants.most_tokens)
