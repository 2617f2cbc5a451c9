"""What is reported of rollouts, with and without branches."""

import numpy as np
import pytest

from aloe_jax.rollouts.statistics import statistics
from tests.random_rollouts import random_rollout


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_means_are_over_all_groups_that_have_rewards(branches):
    random = np.random.default_rng(branches)
    rollouts = [random_rollout(random, f"r{i}", dropped=0.3, branches=branches) for i in range(6)]
    groups = [group for rollout in rollouts for group in rollout.groups]
    rated = [group for group in groups if group.rewards is not None]
    assert 0 < len(rated) < len(groups) == 6 * (1 + 2 * branches)
    found = statistics(rollouts, 3, 1 + 2 * branches)
    assert found["coverage"] == pytest.approx(len(rated) / len(groups))
    every = [float(reward) for group in rated for reward in group.rewards]
    assert found["reward"] == pytest.approx(np.mean(every)) == found["reward/judge"]
    taken = [float(group.rewards[g]) for group in rated for g in group.continued]
    assert len(taken) == len(rated) + (branches - 1) * sum(group.turn == 0 for group in rated)
    assert found["al"] == pytest.approx(np.mean(taken))
    for turn in range(3):
        own = [float(reward) for group in rated if group.turn == turn for reward in group.rewards]
        assert found[f"reward/turn_{turn + 1:02d}"] == pytest.approx(np.mean(own))
    equal = [len(set(group.rewards.tolist())) == 1 for group in rated]
    assert found["no_variance"] == pytest.approx(np.mean(equal))
    cut = [not sibling.ended for group in groups for sibling in group.siblings]
    assert found["cut"] == pytest.approx(np.mean(cut))


def test_al_is_of_the_judge_whatever_else_is_rewarded():
    random = np.random.default_rng(0)
    rollouts = [random_rollout(random, f"r{i}", dropped=0.3) for i in range(6)]
    alone = statistics(rollouts, 3)
    for group in (group for rollout in rollouts for group in rollout.groups if group.rewards is not None):
        group.components = [one | {"belief": 0.5} for one in group.components]
        group.rewards = group.rewards + 5.0
    both = statistics(rollouts, 3)
    assert both["al"] == alone["al"] and both["reward"] == pytest.approx(alone["reward"] + 5.0)
    for group in (group for rollout in rollouts for group in rollout.groups if group.rewards is not None):
        group.components = [{"belief": one["belief"]} for one in group.components]
    assert "al" not in statistics(rollouts, 3)
