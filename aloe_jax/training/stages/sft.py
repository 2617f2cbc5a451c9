"""Supervised fine-tuning: the likelihood of replies in the context in which they were given."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from aloe_jax.data.selection import REPLIES, Selection
from aloe_jax.training.stages.stage import Stage, Watched
from aloe_jax.training.totals import Mean, Objective, Totals, divided


class SFT(Stage):
    """Learns the replies that `sft.replies` names. Statistics: loss and nll, per token."""

    shown = Watched({"perplexity": "ppl {:.2f}"})

    @property
    def selection(self) -> Selection:
        """As configured."""
        return REPLIES[self.settings.sft.replies]

    def describe(self) -> str:
        """Which replies, and how they are averaged."""
        sft = self.settings.sft
        baseline = " (a baseline: what people did not prefer)" if sft.replies == "rejected" else ""
        return f"SFT on {sft.replies} replies{baseline}, averaged by {sft.normalise}"

    def objective(self, turns: int = 0) -> Objective:
        """See `sft_loss`."""
        return lambda scores, batch: _totals(scores.replies, batch["reply_length"], self.settings.sft.normalise)


def sft_loss(logps: jax.Array, lengths: jax.Array, normalise: str = "token") -> tuple[jax.Array, dict[str, jax.Array]]:
    """Negative log-likelihood of replies: logps float32 [B, R] in nats, lengths int32 [B, R] in tokens (0: no reply).

    `token`: the mean over all reply tokens; `sequence`: the mean over replies of each reply's mean over its tokens.
    """
    totals = _totals(logps, lengths, normalise)
    loss, nll = divided(*totals["loss"]), divided(*totals["nll"])
    return loss, {"loss": loss, "perplexity": jnp.exp(nll), "count": totals["loss"].weight}


def _totals(logps: jax.Array, lengths: jax.Array, normalise: str) -> Totals:
    lengths = lengths.astype(logps.dtype)
    per_token = Mean(-logps.sum(), lengths.sum())
    if normalise == "token":
        return {"loss": per_token, "nll": per_token}
    return {
        "loss": Mean(-(logps / jnp.maximum(lengths, 1)).sum(), (lengths > 0).astype(logps.dtype).sum()),
        "nll": per_token,
    }
