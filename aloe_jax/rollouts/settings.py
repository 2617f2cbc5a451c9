"""Settings of on-policy training: who talks to the policy, what is rewarded, and how it learns from that."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from aloe_jax.llm.settings import RoleSettings, RolesSettings, SteadyRole
from aloe_jax.ranges import AtOnce, Dollars, PathText, Positive, Several, Thousands, Tokens, Weight
from aloe_jax.sampling.settings import CacheType
from aloe_jax.settings import Section

PolicyLoss = Literal["policy_gradient", "grpo", "gspo"]
RewardName = Literal["judge", "length"]  # see rewards.py
AdvantageName = Literal["centred", "standardised", "leave_one_out"]  # see advantages.py
RewardWeight = Annotated[float, Field(ge=-1e6, le=1e6)]
Normaliser = Literal["constant", "token", "sequence"]


class DrawSettings(Section):
    """How the policy draws its replies. What is learned from is always the distribution at temperature 1, uncut."""

    temperature: Annotated[float, Field(ge=0.01, le=10.0)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=2**20)] = 0
    top_p: Annotated[float, Field(ge=1e-6, le=1.0)] = 1.0
    max_new_tokens: Tokens = 128
    rows: Annotated[int, Field(ge=1, le=65_536)] = 64  # replies that are drawn together; more wait their turn
    cache: CacheType = "compute"  # how keys and values are stored


class WatchRoles(Section):
    """Who talks and who rates when a training is watched; a role that is not given is that of training.

    A setting given directly here holds for both.
    """

    user: RoleSettings | None = None
    judge: SteadyRole | None = None

    @model_validator(mode="before")
    @classmethod
    def _share(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        shared = {key: value for key, value in values.items() if key in RoleSettings.model_fields}
        own = {key: value for key, value in values.items() if key not in shared}
        if shared:
            for name in cls.model_fields:
                given = own.get(name) or {}
                own[name] = shared | given if isinstance(given, dict) else given
        return own

    def others(self, roles: RolesSettings) -> WatchRoles:
        """Those of them that answer otherwise than `roles` do: by provider, server, model or how it is asked."""

        def known(role: RoleSettings) -> object:
            return role.provider, role.endpoint, role.shaping()

        return self.model_copy(
            update={
                name: None
                for name, role in (("user", self.user), ("judge", self.judge))
                if role is not None and known(role) == known(getattr(roles, name))
            }
        )


class WatchSettings(Section):
    """Talk with held-out personas under another judge, another user or both, which nothing is learned from."""

    every: Positive = 20  # steps
    personas: Thousands = 8  # the first ones of those held out
    roles: WatchRoles = WatchRoles()


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
    draw: DrawSettings = DrawSettings()
    watch: WatchSettings | None = None  # of the training, by roles that it does not learn from

    @field_validator("rewards")
    @classmethod
    def _known_rewards(cls, rewards: dict[RewardName, float]) -> dict[RewardName, float]:
        for name, weight in rewards.items():
            if weight == 0:
                raise ValueError(f"{name}: its weight is 0; leave it out instead")
        if not rewards:
            raise ValueError(f"name at least one of {', '.join(get_args(RewardName))}")
        return rewards
