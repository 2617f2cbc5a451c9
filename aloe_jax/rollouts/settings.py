"""Settings of on-policy training: who talks to the policy, what is rewarded, and how it learns from that."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from aloe_jax.ranges import AtOnce, Dollars, PathText, Positive, Rows, Several, Thousands, Weight
from aloe_jax.sampling.settings import DrawSettings
from aloe_jax.settings import Section

PolicyLoss = Literal["policy_gradient", "grpo", "gspo"]
RewardName = Literal["judge", "length"]  # see rewards.py
AdvantageName = Literal["centred", "standardised", "leave_one_out"]  # see advantages.py
RewardWeight = Annotated[float, Field(ge=-1e6, le=1e6)]
Normaliser = Literal["constant", "token", "sequence"]


class RolloutDrawSettings(DrawSettings):
    """How the policy draws its replies. What is learned from is always the distribution at temperature 1, uncut."""

    temperature: Annotated[float, Field(ge=0.01, le=10.0)] = 1.0  # greedy siblings would all be the same
    rows: Rows = 64  # replies that are drawn together; more wait their turn


class RLSettings(Section):
    """On-policy training on conversations with simulated users."""

    personas: PathText | None = None  # TFDS directory (…/aloe_personas/1.0.0) or JSONL: its training personas
    split: str = "train"
    heldout: Annotated[int, Field(ge=0, le=10_000)] = 16  # of them, the last ones: for validation, not learned from
    conversations: Thousands = 16  # a step
    group: Annotated[int, Field(ge=2, le=1024)] = 4  # replies that are drawn to every user message
    turns: Several = 10
    continued: Literal["random", "best"] = "random"  # which reply of a group the conversation goes on from
    rewards: dict[RewardName, RewardWeight] = Field(default={"judge": 1.0})  # by name, with their weights
    advantage: AdvantageName = "centred"
    loss: PolicyLoss = "grpo"
    normalise: Normaliser = "constant"
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2  # grpo and gspo: how far below 1 a ratio counts
    clip_high: Annotated[float, Field(gt=0, le=100)] = 0.28  # and how far above
    kl: Weight = 0.0  # of the divergence from the starting model; 0: no reference is kept
    entropy: Weight = 0.0  # bonus
    overlong: Literal["mask", "keep"] = "mask"  # replies without an end of turn: not learned from, or like others
    updates: Annotated[int, Field(ge=1, le=64)] = 1  # on the replies of a step, one after the other
    concurrency: AtOnce = 8  # calls to users, and as many to judges, at once
    max_cost: Dollars | None = None  # dollars that one run may spend; stops cleanly
    max_calls: Positive | None = None  # calls that one run may make; stops cleanly
    draw: RolloutDrawSettings = RolloutDrawSettings()

    @field_validator("rewards")
    @classmethod
    def _known_rewards(cls, rewards: dict[RewardName, float]) -> dict[RewardName, float]:
        for name, weight in rewards.items():
            if weight == 0:
                raise ValueError(f"{name}: its weight is 0; leave it out instead")
        if not rewards:
            raise ValueError(f"name at least one of {', '.join(get_args(RewardName))}")
        return rewards
