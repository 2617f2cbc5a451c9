"""Whether those who rate a policy in training are of the family of those who talk with it, or who watch it."""

from __future__ import annotations

from aloe_jax.llm.families import family, kinship, known_family
from aloe_jax.llm.settings import RolesSettings
from aloe_jax.rollouts.settings import RLSettings


def same_family(rl: RLSettings, roles: RolesSettings, policy: str | None) -> list[str]:
    """A sentence for every role that rates or watches and is of the family of another.

    `policy`: the name of the model that the policy's runs started from (`publishing.model_card.Origin.base`). A whole
    path names who stored it, too, and is no name of a model.
    """
    found = []
    if "judge" in rl.rewards:
        others = {"the users": family(roles.user), "the policy": known_family(policy or "")}
        found.append(kinship("the judge", family(roles.judge), others, "name another as roles.judge"))
    if rl.watch is not None:
        watch = rl.watch.roles.others(roles)
        for name, other in (("judge", watch.judge), ("user", watch.user)):
            if other is not None:
                own = {f"the training's {name}": family(getattr(roles, name))}
                remedy = f"name another as rl.watch.roles.{name}"
                found.append(kinship(f"the {name} of the watch", family(other), own, remedy))
    return [sentence for sentence in found if sentence is not None]
