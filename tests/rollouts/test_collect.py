"""Collected rollouts: what was drawn and earned, against every reply drawn and rated on its own."""

import threading
from random import Random

import numpy as np
import pytest

from aloe_jax.roles import derive_seed
from aloe_jax.rollouts.collect import RolloutCollector
from aloe_jax.rollouts.drawer import Drawer
from aloe_jax.rollouts.drawing import Drawing, EndedError
from aloe_jax.rollouts.rewards import calls_by_role
from aloe_jax.rollouts.settings import RLSettings
from aloe_jax.sampling.loading import load_sampler
from tests.rollouts.listeners import FACTS, PERSONAS, Listener, rating_of, said_by_user
from tests.rollouts.listeners import number as digest
from tests.sampling.tiny import saved_model

LENGTH, SEED, STEP = 1400, 3, 5
BASE = {"group": 3, "turns": 3, "rewards": {"judge": 1.0}, "draw": {"max_new_tokens": 6, "rows": 8}, "concurrency": 4}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_sampler(saved_model(tmp_path_factory.mktemp("tiny"), LENGTH), LENGTH, rows=8)


def collected(loaded, cast, personas=PERSONAS, length=LENGTH, group=3, **changes):
    rl = RLSettings(**BASE | changes)
    with RolloutCollector(rl, *loaded, cast, SEED, length) as collector:
        return rl, collector.collect(personas, STEP, group)


def drawn_alone(loaded, rl, path, seed):
    """(tokens, text) of a reply to a path, in a session of its own."""
    sampler, template = loaded
    session = sampler.session(1, LENGTH)
    session.replace(0, path)
    (reply,) = session.replies(rl.draw.max_new_tokens, rl.draw.temperature, seeds=[seed], stop=template.stop)
    return reply.tokens, template.decode(reply.tokens)


def user_seed(rollout, turn):
    return derive_seed(SEED, "user", rollout.id, turn, 0)


def rating_seed(*parts):
    return derive_seed(derive_seed(SEED, "reward", *parts), "judge", 0)


def way_to(rollout, group):
    """(group, the reply continued in it) of all turns before a group."""
    if group.after is None:
        return []
    before = rollout.groups[group.after[0]]
    return [*way_to(rollout, before), (before, before.siblings[group.after[1]])]


def label(rollout, group):
    """What a branch draws by: where it left the line that it came from."""
    if group.after is None:
        return rollout.id
    before = rollout.groups[group.after[0]]
    name, g = label(rollout, before), group.after[1]
    return name if g == before.continued[0] else f"{name} {before.turn}/{g}"


def followed(loaded, rl, rollout, number, g):
    """The ratings of a reply and of those that follow it, every one drawn in a session of its own."""
    stop, (_, template) = loaded[1].stop[0], loaded
    group = rollout.groups[number]
    turn, name = group.turn, label(rollout, group)
    history, path = [], []
    for before, taken in way_to(rollout, group):
        history += [{"role": "user", "content": before.user}, {"role": "assistant", "content": taken.text}]
        path += [*before.prompt, *taken.tokens, *([stop] if taken.tokens[-1] != stop else [])]
    said, path = group.user, [*path, *group.prompt]
    tokens, text = drawn_alone(loaded, rl, path, derive_seed(SEED, name, turn, g))
    assert (tuple(tokens), text) == (group.siblings[g].tokens, group.siblings[g].text)
    first = next(i for i, sibling in enumerate(group.siblings) if sibling.looks == group.siblings[g].looks)
    ratings = [rating_of(text, rating_seed(name, turn, first))]
    for depth in range(1, rl.lookahead + 1):
        history += [{"role": "user", "content": said}, {"role": "assistant", "content": text}]
        path += [*tokens, *([stop] if tokens[-1] != stop else [])]
        said = said_by_user(history, user_seed(rollout, turn + depth))
        path += template.continuation([*history, {"role": "user", "content": said}])
        tokens, text = drawn_alone(loaded, rl, path, derive_seed(SEED, name, turn, first, "ahead", depth))
        ratings.append(rating_of(text, rating_seed(name, turn, first, "ahead", depth)))
    return ratings


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_reply_earns_the_mean_over_itself_and_what_follows_it(loaded, ahead):
    rl, rollouts = collected(loaded, Listener(), PERSONAS[:3], lookahead=ahead)
    several = 0
    for rollout in rollouts:
        assert rollout.ended is None and len(rollout.groups) == 3
        for turn, group in enumerate(rollout.groups):
            for g in range(3):
                ratings = followed(loaded, rl, rollout, turn, g)
                assert len(ratings) == 1 + ahead
                assert group.rewards[g] == pytest.approx(np.mean(ratings))
                several += len(set(ratings)) > 1
    assert several > 5 or not ahead


def test_looking_ahead_changes_no_draw(loaded):
    drawn = [collected(loaded, Listener(remote), lookahead=ahead)[1] for remote in (True, False) for ahead in (0, 1)]
    for rollouts in drawn[1:]:
        for one, other in zip(drawn[0], rollouts, strict=True):
            for mine, its in zip(one.groups, other.groups, strict=True):
                assert (mine.user, mine.prompt, mine.continued) == (its.user, its.prompt, its.continued)
                assert [sibling.tokens for sibling in mine.siblings] == [sibling.tokens for sibling in its.siblings]
                for sibling, same in zip(mine.siblings, its.siblings, strict=True):
                    np.testing.assert_allclose(sibling.logps, same.logps, atol=1e-4)
    for remote, ahead in ((0, 1), (2, 3)):
        assert any(
            (one.rewards != other.rewards).any()
            for a, b in zip(drawn[remote], drawn[ahead], strict=True)
            for one, other in zip(a.groups, b.groups, strict=True)
        )


def test_the_best_reply_with_what_follows_it_is_continued(loaded):
    _, rollouts = collected(loaded, Listener(), lookahead=1, continued="best")
    for rollout in rollouts:
        assert [group.continued for group in rollout.groups] == [
            (int(group.rewards.argmax()),) for group in rollout.groups
        ]
    _, random = collected(loaded, Listener())
    picked = [[(Random(f"{SEED} {rollout.id} {turn}").randrange(3),) for turn in range(3)] for rollout in random]
    assert [[group.continued for group in rollout.groups] for rollout in random] == picked


@pytest.mark.parametrize(
    ("changes", "groups"),
    [({"branches": 2}, [0, 1, 1, 2, 2]), ({"branches": 3, "branch_turns": 2, "lookahead": 1}, [0] + 3 * [1] + 9 * [2])],
)
def test_branches_are_conversations_of_their_own(loaded, changes, groups):
    """Every reply is what is drawn without forks after its own path; the main line is as without branches."""
    rl, rollouts = collected(loaded, Listener(), PERSONAS[:2], **changes)
    _, plain = collected(loaded, Listener(), PERSONAS[:2], **changes | {"branches": 1})
    for rollout, unbranched in zip(rollouts, plain, strict=True):
        assert rollout.ended is None and [group.turn for group in rollout.groups] == groups
        assert rl.groups == len(groups)
        for number, group in enumerate(rollout.groups):
            for g in range(3):
                assert group.rewards[g] == pytest.approx(np.mean(followed(loaded, rl, rollout, number, g)))
            follow = {one.after[1] for one in rollout.groups if one.after is not None and one.after[0] == number}
            assert follow == (set(group.continued) if group.turn < 2 else set())
            assert len(group.continued) == rl.lines(group.turn + 1) // rl.lines(group.turn) or group.turn == 2
        main = [group for group in rollout.groups if label(rollout, group) == rollout.id]
        assert rollout.history() == unbranched.history()
        for mine, its in zip(main, unbranched.groups, strict=True):
            assert mine.continued[0] == its.continued[0]
            assert [one.tokens for one in mine.siblings] == [one.tokens for one in its.siblings]
            np.testing.assert_array_equal(mine.rewards, its.rewards)


def test_branches_of_one_conversation_share_its_row(loaded):
    """Its last groups are left out where all of them together could be longer than a row."""
    rl, rollouts = collected(loaded, Listener(), PERSONAS[:2], length=260, branches=3)
    for rollout in rollouts:
        assert "might pass the 260 tokens of a row" in rollout.ended
        assert 1 < len(rollout.groups) < rl.groups and rollout.size() <= 260
        assert all(group.rewards is not None for group in rollout.groups)


@pytest.mark.parametrize("changes", [{"turns": 2}, {"branches": 3, "turns": 2}])
def test_looking_ahead_has_a_conversation_for_every_reply_and_no_more(loaded, monkeypatch, changes):
    """At the last turn all are alive; of their log-probs there is no use, and none are computed."""
    sampler, _ = loaded
    opened, alive, ahead = [], [], []
    session, single = sampler.session, Drawer.single

    def opening(batch, length, forks=1):
        opened.append((batch * forks, session(batch, length, forks)))
        return opened[-1][1]

    def drawing(self, of, prompts, now):
        alive.append((of, len(of.numbers)))
        ahead.extend(single(self, of, prompts, now))
        return ahead[-len(prompts) :]

    monkeypatch.setattr(sampler, "session", opening)
    monkeypatch.setattr(Drawer, "single", drawing)
    rl, _ = collected(loaded, Listener(), PERSONAS[:4], lookahead=1, **changes)
    assert len(opened) == 2
    for most, own in opened:
        assert most == 2 * rl.lines(1) * 3 == max(count for of, count in alive if of is own)
    assert ahead and all(sibling.logps == () for sibling in ahead)


def test_branches_follow_the_best_replies(loaded):
    _, rollouts = collected(loaded, Listener(), PERSONAS[:4], branches=2, continued="best")
    for rollout in rollouts:
        first = rollout.groups[0]
        assert first.continued[0] == first.rewards.argmax()
        assert first.rewards[first.continued[1]] == sorted(first.rewards)[-2]


def known(messages):
    return sum(any(fact in message for message in messages) for fact in FACTS) / (len(FACTS) + 1)


def test_belief_is_what_the_answer_to_a_reply_adds_to_what_is_known(loaded):
    _, rollouts = collected(loaded, Listener(), rewards={"belief": 2.0, "judge": 0.1})
    values = []
    for rollout in rollouts:
        said, along = [], []
        for turn, group in enumerate(rollout.groups):
            said.append(group.user)
            history = [*rollout.history()[: 2 * turn], {"role": "user", "content": group.user}]
            for sibling, components in zip(group.siblings, group.components, strict=True):
                through = [*history, {"role": "assistant", "content": sibling.text}]
                answer = said_by_user(through, user_seed(rollout, turn + 1))
                assert components["belief"] == pytest.approx(known([*said, answer]) - known(said))
                values.append(components["belief"])
            np.testing.assert_allclose(
                group.rewards, [2.0 * one["belief"] + 0.1 * one["judge"] for one in group.components]
            )
            along.append(group.components[group.continued[0]]["belief"])
        last = said_by_user(rollout.history(), user_seed(rollout, 3))
        assert sum(along) == pytest.approx(known([*said, last]) - known(said[:1]))
    assert len(set(np.round(values, 6))) > 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lookahead": 2},
        {"branches": 2, "branch_turns": 2},
        {"branches": 3, "lookahead": 1},
        {"rewards": {"belief": 1.0}},
        {"rewards": {"judge": 1.0, "belief": 1.0, "length": 0.1, "leakage": 1.0}},
        {"rewards": {"judge": 1.0, "belief": 1.0}, "lookahead": 1, "overlong": "penalise"},
    ],
)
def test_calls_are_those_of_the_dry_run(loaded, changes):
    cast = Listener()
    rl, rollouts = collected(loaded, cast, **changes)
    assert all(len({sibling.looks for sibling in group.siblings}) == 3 for made in rollouts for group in made.groups)
    assert len(set(cast.asked)) == sum(calls_by_role(rl, len(rollouts), rl.group).values())
    once = {ask for ask in cast.asked if ask[0] != "inducer"}
    assert len(once) == sum(ask[0] != "inducer" for ask in cast.asked)  # of the inducer's the journal has the second


def test_a_user_without_an_answer_costs_the_group_that_looked_ahead(loaded):
    whole = collected(loaded, Listener(), lookahead=1)[1]
    spoiled = next(g for g in range(3) if g not in whole[0].groups[1].continued)
    gone = repr([message["content"] for message in whole[0].history()[:2]])[:-1]  # how conversations so far begin
    text = whole[0].groups[1].siblings[spoiled].text
    cast = Listener(fails=lambda role, said: role == "user" and said.startswith(gone) and said.endswith(f"{text!r}]"))
    rollouts = collected(loaded, cast, lookahead=1)[1]
    assert "looking 1 ahead: user: blocked" in rollouts[0].groups[1].dropped
    assert rollouts[0].groups[1].rewards is None
    for one, other in zip(whole, rollouts, strict=True):
        for mine, its in zip(one.groups, other.groups, strict=True):
            if its.dropped is None:
                np.testing.assert_array_equal(mine.rewards, its.rewards)
            assert mine.siblings == its.siblings
    assert sum(group.dropped is not None for made in rollouts for group in made.groups) == 1


def test_without_room_replies_of_a_group_are_looked_ahead_of_equally_far(loaded):
    rl, rollouts = collected(loaded, Listener(), PERSONAS[:2], length=160, turns=1, lookahead=6)
    reached = set()
    for rollout in rollouts:
        for turn, group in enumerate(rollout.groups):
            ratings = [followed(loaded, rl, rollout, turn, g) for g in range(3)]
            fits = {
                depth for depth in range(1, 8)
                if np.allclose(group.rewards, [np.mean(of_reply[:depth]) for of_reply in ratings])
            }  # fmt: skip
            assert fits
            reached |= {min(fits)}
    assert min(reached) < 7 and max(reached) > 1


def test_one_reply_a_turn_is_not_looked_ahead_of(loaded):
    cast = Listener()
    collected(loaded, cast, group=1, lookahead=2)
    assert sum(ask[0] == "judge" for ask in cast.asked) == 5 * 3


def test_after_the_end_no_further_call_begins(loaded):
    """Judges are being asked when the drawing is ended; neither their next attempts nor the inducer follow."""
    asked, ended, rl = [], threading.Event(), RLSettings(**BASE | {
        "turns": 1, "group": 8, "rewards": {"judge": 1.0, "belief": 1.0},
    })  # fmt: skip

    class Slow(Listener):
        def judge(self, persona, history, reply, seed):
            asked.append(reply)
            ended.wait(60)
            return super().judge(persona, history, reply, seed)

    cast = Slow(fails=lambda role, text: role == "judge" and digest(text, 2))
    drawing = Drawing(ending=lambda: "a signal" if len(asked) == rl.concurrency else None)
    with RolloutCollector(rl, *loaded, cast, SEED, LENGTH) as collector:
        with pytest.raises(EndedError, match="a signal"):
            collector.collect(PERSONAS[:1], STEP, 8, drawing)
        ended.set()
    judged = [ask for ask in cast.asked if ask[0] == "judge"]
    assert sorted(ask[1] for ask in judged) == sorted(asked) and len(set(asked)) == rl.concurrency
    assert any(digest(ask[1], 2) for ask in judged) and not all(digest(ask[1], 2) for ask in judged)
    assert not any(ask[0] == "inducer" for ask in cast.asked)
