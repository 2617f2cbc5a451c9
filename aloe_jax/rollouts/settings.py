"""Settings of on-policy training: who talks to the policy, what is rewarded, and how it learns from that."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from aloe_jax.llm.settings import RoleSettings, RolesSettings, SteadyRole, shared_by_roles
from aloe_jax.ranges import AtOnce, Dollars, Factor, PathText, Positive, Rows, Several, Thousands, Weight
from aloe_jax.sampling.settings import DrawSettings
from aloe_jax.settings import Section

PolicyLossName = Literal["policy_gradient", "grpo", "gspo", "dpo"]
RewardName = Literal["judge", "length", "belief", "leakage", "overlong"]  # see rewards.py
AdvantageName = Literal["centred", "standardised", "leave_one_out"]  # see advantages.py
RewardWeight = Annotated[float, Field(ge=-1e6, le=1e6)]
Normaliser = Literal["constant", "token", "sequence"]


class RolloutDrawSettings(DrawSettings):
    """How the policy draws its replies. What is learned from is always the distribution at temperature 1, uncut."""

    temperature: Annotated[float, Field(ge=0.01, le=10.0)] = 1.0  # greedy siblings would all be the same
    rows: Rows = 64  # replies that are drawn together; more wait their turn


class WatchRoles(Section):
    """Who talks and who rates when a training is watched; a role that is not given is that of training.

    A setting given directly here holds for both.
    """

    user: RoleSettings | None = None
    judge: SteadyRole | None = None

    @model_validator(mode="before")
    @classmethod
    def _share(cls, values: object) -> object:
        return shared_by_roles(values, cls.model_fields)

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
    # At the first `branch_turns` turns so many replies of every group are continued, later one.
    branches: Annotated[int, Field(ge=1, le=64)] = 1
    branch_turns: Annotated[int, Field(ge=1, le=100)] = 1
    # Every reply goes on for so many further turns of its own, whose rewards count for it; of these nothing is learned.
    lookahead: Annotated[int, Field(ge=0, le=100)] = 0
    rewards: dict[RewardName, RewardWeight] = Field(default={"judge": 1.0})  # by name, with their weights
    advantage: AdvantageName = "centred"
    loss: PolicyLossName = "grpo"
    normalise: Normaliser = "constant"
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2  # grpo and gspo: how far below 1 a ratio counts
    clip_high: Annotated[float, Field(gt=0, le=100)] = 0.28  # and how far above
    beta: Factor = 0.1  # dpo: how far from the starting model; smaller is farther
    kl: Weight = 0.0  # of the divergence from the starting model; 0: no reference is kept, but for dpo
    entropy: Weight = 0.0  # bonus
    # Replies without an end of turn: not learned from, like others, or like others with the reward `overlong`.
    overlong: Literal["mask", "keep", "penalise"] = "mask"
    overlong_part: Annotated[float, Field(gt=0, le=1)] = 0.2  # penalise: the last part of the allowance, which costs
    updates: Annotated[int, Field(ge=1, le=64)] = 1  # on the replies of a step, one after the other
    concurrency: AtOnce = 8  # calls to users, and as many to judges, at once
    max_cost: Dollars | None = None  # dollars that one run may spend; stops cleanly
    max_calls: Positive | None = None  # calls that one run may make; stops cleanly
    draw: RolloutDrawSettings = RolloutDrawSettings()
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

    @model_validator(mode="after")
    def _consistent(self) -> RLSettings:
        if "overlong" in self.rewards and self.overlong != "penalise":
            raise ValueError(f"rewards: overlong is the reward of overlong=penalise, not of {self.overlong}; set that")
        if self.branches > self.group:
            raise ValueError(f"branches: {self.branches} of {self.group} replies (group) cannot be continued; lower it")
        return self

    def lines(self, turn: int) -> int:
        """How many conversations one has branched into at a turn, counted from 0."""
        return self.branches ** min(turn, self.branch_turns)

    @property
    def groups(self) -> int:
        """Groups of one rollout: one a turn, where it does not branch."""
        return sum(map(self.lines, range(self.turns)))

    @property
    def weights(self) -> dict[RewardName, float]:
        """The weights of all rewards: `rewards`, and 1 for `overlong` where cut replies are penalised."""
        return self.rewards if self.overlong != "penalise" else {**self.rewards, "overlong": 1.0, **self.rewards}

    @property
    def late_tokens(self) -> int:
        """How many of the last tokens of a reply's allowance cost it something where cut replies are penalised."""
        return max(1, round(self.overlong_part * self.draw.max_new_tokens))
