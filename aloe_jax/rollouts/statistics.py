"""What a person watches of the rollouts of a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from aloe_jax.rollouts.rollout import Group, Rollout


def statistics(rollouts: Sequence[Rollout], turns: int, asked: int | None = None) -> dict[str, float]:
    """Means over the replies of rollouts of at most `turns` turns; what nothing is known of is left out.

    `asked`: groups that a rollout was to have, where it branches; None: one a turn.

    reward, and by turn and by component; al, the judge's mean rating of the replies that were continued; no_variance,
    the share of groups whose rewards are all equal; cut, the share of replies without an end of turn; coverage, the
    share of the groups that were asked for whose replies have rewards.
    """
    groups = [group for rollout in rollouts for group in rollout.groups]
    rated = [group for group in groups if group.rewards is not None]
    found = {"coverage": len(rated) / (len(rollouts) * (asked or turns))} if rollouts else {}
    siblings = [sibling for group in groups for sibling in group.siblings]
    if siblings:
        found["cut"] = float(np.mean([not sibling.ended for sibling in siblings]))
    if not rated:
        return found
    found["reward"] = mean_reward(rated)
    if "judge" in rated[0].components[0]:
        found["al"] = float(np.mean([group.components[g]["judge"] for group in rated for g in group.continued]))
    if len(rated[0].siblings) > 1:
        equal = [group.rewards.max() == group.rewards.min() for group in rated if group.rewards is not None]
        found["no_variance"] = float(np.mean(equal))
    for name in rated[0].components[0]:
        found[f"reward/{name}"] = float(np.mean([one[name] for group in rated for one in group.components]))
    for turn in range(turns):
        of_turn = [group for group in rated if group.turn == turn]
        if of_turn:
            found[f"reward/turn_{turn + 1:02d}"] = mean_reward(of_turn)
    return found


def missing(rollouts: Sequence[Rollout]) -> str:
    """What is missing of rollouts, in one line with the most frequent reasons; "" when nothing is."""
    dropped = Counter(group.dropped for rollout in rollouts for group in rollout.groups if group.dropped is not None)
    ended = Counter(rollout.ended for rollout in rollouts if rollout.ended is not None)
    parts = []
    for counter, what in ((dropped, "groups without rewards"), (ended, "conversations ended early")):
        if counter:
            (reason, times), *others = counter.most_common()
            more = f", {sum(count for _, count in others)} for other reasons" if others else ""
            parts.append(f"{counter.total()} {what} ({reason}{f', {times} times' if times > 1 else ''}{more})")
    return "; ".join(parts)


def mean_reward(groups: Sequence[Group]) -> float:
    """Over all replies of groups that have rewards."""
    return float(np.mean(np.concatenate([group.rewards for group in groups if group.rewards is not None])))
