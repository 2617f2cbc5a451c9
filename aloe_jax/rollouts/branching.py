"""Which replies of a group a conversation goes on from."""

from __future__ import annotations

from random import Random

from aloe_jax.roles import RoleError
from aloe_jax.rollouts.drawing import Drawing
from aloe_jax.rollouts.lookahead import DrawnGroup
from aloe_jax.rollouts.rating import Rater
from aloe_jax.rollouts.settings import RLSettings


def continued(group: DrawnGroup, settings: RLSettings, rater: Rater, seed: int, drawing: Drawing) -> tuple[int, ...]:
    """The siblings that are continued, that of the main line first: `branches` at the first turns, then one.

    They are drawn by `seed`, or those with the highest rewards are taken, for which the ratings are waited for (the
    first ones where a rating fails). A reply that looks like another one comes after all that do not.
    """
    siblings = group.siblings
    size = len(siblings)
    if settings.continued == "random" or size == 1:
        draw = Random(f"{seed} {group.label} {group.turn}")
        first = draw.randrange(size)
        ranked = [first, *(g for g in draw.sample(range(size), size) if g != first)]
    else:
        ranked = list(range(size))
        try:
            earned = [rater.weighted(one) for one in rater.earned(group.ratings(), drawing)]
            ranked.sort(key=lambda g: -earned[g])
        except RoleError:
            pass
    # At the last turn nothing follows.
    branching = group.turn < min(settings.branch_turns, settings.turns - 1)
    foremost = {siblings[g].looks: g for g in reversed(ranked)}
    distinct_first = sorted(ranked, key=lambda g: foremost[siblings[g].looks] != g)
    return tuple(distinct_first[: settings.branches if branching else 1])
