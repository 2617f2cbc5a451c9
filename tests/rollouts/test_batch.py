"""Rollouts as token trees in rows: every reply after its own prompt, with its own log-probs and advantage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.data.loader import FIELDS
from aloe_jax.rollouts.advantages import ADVANTAGES, advantages
from aloe_jax.rollouts.batch import BatchShape, batch_of
from tests.random_rollouts import STOP, paths, random_rollout

SHAPE = BatchShape(rows=4, length=160, rollouts=4, groups=7, group=3, parts=2)


def path_in_row(rows, row, at):
    """Tokens up to index `at` along parents."""
    tokens = []
    while True:
        tokens.append(int(rows.tokens[row, at]))
        if rows.positions[row, at] == 0:
            return tokens[::-1]
        at = int(rows.parent[row, at])


def check_rivals(group, where, batch):
    """Best and worst of the replies of a group that are learned from name each other, all others nobody."""
    rivals = {g: int(batch["rival"][row, number]) for g, (row, number) in enumerate(where)}
    learned = [g for g, sibling in enumerate(group.siblings) if group.rewards is not None and sibling.ended]
    earned = [group.rewards[g] for g in learned]
    if not learned or max(earned) == min(earned):
        assert not any(rivals.values())
        return
    numbers = {number: g for g, (_, number) in enumerate(where)}
    one, other = (g for g in rivals if rivals[g])
    assert (numbers[rivals[one]], numbers[rivals[other]]) == (other, one)
    first = {reward: g for reward, g in zip(reversed(earned), reversed(learned), strict=True)}
    assert {one, other} == {first[min(earned)], first[max(earned)]}


@given(st.integers(0, 2**32 - 1))
def test_every_reply_follows_its_prompt_with_what_was_drawn_and_earned(seed):
    random = np.random.default_rng(seed)
    rollouts = [
        random_rollout(
            random, f"r/{i}", turns=int(random.integers(0, 4)), dropped=0.2, branches=int(random.integers(1, 4))
        )
        for i in range(4)
    ]
    rows, batch = batch_of(rollouts, SHAPE, STOP, "centred", mask_overlong=True)
    assert {name: values.shape for name, values in batch.items() if name in FIELDS} == {
        name: getattr(SHAPE.example(), name).shape for name in FIELDS
    }
    expected = {name: path for rollout in rollouts for name, path in paths(rollout).items()}
    seen = {}
    for row, names in enumerate(rows.reply_ids):
        for number, name in enumerate(names, start=1):
            own = np.flatnonzero(rows.reply[row] == number)
            tokens, length = expected[name]
            assert len(own) == length == batch["reply_length"][row, number]
            assert path_in_row(rows, row, own[-1]) == tokens
            seen[name] = row, number, own
    assert seen.keys() == expected.keys()
    for rollout in rollouts:
        for turn, group in enumerate(rollout.groups):
            for g, sibling in enumerate(group.siblings):
                row, number, own = seen[f"{rollout.id}/{turn}/{g}"]
                np.testing.assert_allclose(batch["drawn_logps"][row, own], sibling.logps, rtol=1e-6)
                learned = group.rewards is not None and sibling.ended
                assert batch["weight"][row, number] == learned
                if learned:
                    own_advantage = group.rewards[g] - group.rewards.mean()
                    np.testing.assert_allclose(batch["advantage"][row, number], own_advantage, atol=1e-6)
                else:
                    assert batch["advantage"][row, number] == 0
            check_rivals(group, [seen[f"{rollout.id}/{turn}/{g}"][:2] for g in range(len(group.siblings))], batch)
    assert (batch["weight"] > 0).sum() == (batch["reply_length"] > 0).sum() - sum(
        group.rewards is None or not sibling.ended
        for rollout in rollouts for group in rollout.groups for sibling in group.siblings
    )  # fmt: skip


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_a_tree_is_in_depth_first_order_with_every_branch_after_its_reply(seed, branches):
    rollout = random_rollout(np.random.default_rng(seed), "r", branches=branches)
    assert len(rollout.groups) == 1 + 2 * branches
    nodes = rollout.tree(STOP).nodes
    assert sum(len(node.tokens) for node in nodes) <= rollout.size()
    for number, node in enumerate(nodes):
        assert node.parent < number
        inside = [n for n in range(number + 1, len(nodes)) if node.parent in ancestors(nodes, n)]
        assert node.parent < 0 or inside == list(range(number + 1, number + 1 + len(inside)))
        assert node.turn == sum(not nodes[n].id for n in (number, *ancestors(nodes, number)) if n >= 0) - 1
    messages = rollout.history()
    assert len(messages) == 6
    assert messages[1]["content"] == rollout.groups[0].siblings[rollout.groups[0].continued[0]].text


def ancestors(nodes, number):
    found = []
    while number >= 0:
        number = nodes[number].parent
        found.append(number)
    return found


def test_rows_with_replies_come_in_the_first_parts():
    random = np.random.default_rng(0)
    shape = BatchShape(rows=8, length=96, rollouts=8, groups=3, group=3, parts=4)
    rows, _ = batch_of([random_rollout(random, f"{i}", turns=1) for i in range(3)], shape, STOP, "centred", False)
    filled = {row % shape.parts for row, ids in enumerate(rows.reply_ids) if ids}
    assert filled == {0}


def test_replies_that_were_cut_count_where_they_are_kept():
    random = np.random.default_rng(1)
    made = [random_rollout(random, "r", cut=1.0)]
    masked, kept = (batch_of(made, SHAPE, STOP, "centred", mask_overlong=mask)[1] for mask in (True, False))
    assert masked["weight"].sum() == 0 and kept["weight"].sum() == 9


@pytest.mark.parametrize("name", ADVANTAGES)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=8))
def test_advantages(name, rewards):
    rewards = np.array(rewards, np.float64)
    found = advantages(name, rewards)
    if rewards.max() == rewards.min():
        assert (found == 0).all()
        return
    np.testing.assert_allclose(found.sum(), 0, atol=1e-9)
    assert (np.argsort(found, kind="stable") == np.argsort(rewards, kind="stable")).all()
    expected = {
        "centred": lambda i: rewards[i] - np.mean(rewards),
        "standardised": lambda i: (rewards[i] - np.mean(rewards)) / np.sqrt(np.mean((rewards - np.mean(rewards)) ** 2)),
        "leave_one_out": lambda i: rewards[i] - np.mean(np.delete(rewards, i)),
    }[name]
    np.testing.assert_allclose(found, [expected(i) for i in range(len(rewards))], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reward", [0.1, 1 / 3, 5.0])
@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_group_of_equal_rewards_has_no_advantage_at_all(name, reward):
    assert (advantages(name, np.full(7, reward)) == 0).all()
