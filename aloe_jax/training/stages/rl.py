"""On-policy training: the policy talks to simulated users, and learns from the replies that it drew itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from aloe_jax.data.packing import Rows
from aloe_jax.data.selection import BOTH, Selection
from aloe_jax.models.spec import ModelSpec
from aloe_jax.training.policy_losses import PolicyConstants, needs_reference, policy_objective
from aloe_jax.training.rollout_memory import rollout_memory
from aloe_jax.training.stages.stage import MemoryBeside, Stage, Watched
from aloe_jax.training.totals import Objective


class RL(Stage):
    """Learns to earn more than the other replies to the same message; `rl.loss` says how (policy_losses.py)."""

    shown = Watched(
        {
            "reward": "reward {:.3f}",
            "al": "AL {:.2f}",
            "no_variance": "equal {:.0%}",
            "entropy": "entropy {:.3f}",
            "accuracy": "accuracy {:.2f}",
            "kl": "kl {:.4f}",
            "log_ratio": "gap {:.1e}",
        }
    )
    entropy = True
    gaps = True

    @property
    def selection(self) -> Selection:
        """All replies: there is no data whose replies could be chosen from."""
        return BOTH

    @property
    def updates(self) -> int:
        """As configured."""
        return self.settings.rl.updates

    def describe(self) -> str:
        """The loss, and what is rewarded."""
        rl = self.settings.rl
        rewards = ", ".join(f"{weight:g} x {name}" for name, weight in rl.weights.items())
        more = f", {rl.branches} branches of the first {rl.branch_turns}" if rl.branches > 1 else ""
        more += f", {rl.lookahead} looked ahead" if rl.lookahead else ""
        more += f", advantages {rl.advantage}, replies averaged by {rl.normalise}"
        more += f", clipped to 1 - {rl.clip_low:g} and 1 + {rl.clip_high:g}" if rl.loss in ("grpo", "gspo") else ""
        more += f", beta {rl.beta:g}" if rl.loss == "dpo" else ""
        more += f", {rl.updates} updates a step" if rl.updates > 1 else ""
        more += f", entropy bonus {rl.entropy:g}" if rl.entropy else ""
        return f"RL ({rl.loss}, groups of {rl.group} over {rl.turns} turns{more}, reward {rewards}, KL {rl.kl:g})"

    def row_arrays(self, rows: Rows) -> dict[str, jax.ShapeDtypeStruct]:
        """See rollouts/batch.py."""
        replies, tokens = rows.reply_length.shape[1:], rows.tokens.shape[1:]
        found = {
            "advantage": jax.ShapeDtypeStruct(replies, jnp.float32),
            "weight": jax.ShapeDtypeStruct(replies, jnp.float32),
            "rival": jax.ShapeDtypeStruct(replies, jnp.int32),
            "drawn_logps": jax.ShapeDtypeStruct(tokens, jnp.float32),
        }
        if needs_reference(self.settings.rl):
            found["reference_logps"] = jax.ShapeDtypeStruct(tokens, jnp.float32)
        return found

    def memory_beside(self, spec: ModelSpec, mesh: Mesh) -> MemoryBeside:
        """See rollout_memory.py."""
        return rollout_memory(self.settings, spec, mesh)

    def objective(self, turns: int = 0) -> Objective:
        """See `policy_objective`."""
        rl = self.settings.rl
        return policy_objective(rl.loss, PolicyConstants.of(rl))
