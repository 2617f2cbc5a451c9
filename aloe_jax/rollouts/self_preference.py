"""Warnings of self-preference bias in RL: a judge of the family of the users or the policy, or a watch of theirs."""

from __future__ import annotations

from aloe_jax.llm.families import family, known_family, self_preference_warning
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.rollouts.settings import RLSettings


def self_preference_warnings(rl: RLSettings, roles: RolesSettings, policy: str | None) -> list[str]:
    """A sentence for every rating or watching role of the same family as another.

    `policy`: the name of the model that the policy's runs started from (`publishing.model_card.Origin.base`). A whole
    path names who stored it, too, and is no name of a model.
    """
    found = []
    if "judge" in rl.rewards:
        others = {"the users": family(roles.user), "the policy": known_family(policy or "")}
        found.append(self_preference_warning("the judge", family(roles.judge), others, "name another as roles.judge"))
    if rl.watch is not None:
        watch = rl.watch.roles.others(roles)
        for name, other in (("judge", watch.judge), ("user", watch.user)):
            if other is not None:
                own = {f"the training's {name}": family(getattr(roles, name))}
                remedy = f"name another as rl.watch.roles.{name}"
                found.append(self_preference_warning(f"the {name} of the watch", family(other), own, remedy))
    return [sentence for sentence in found if sentence is not None]
