"""The collaboration: what a turn records, and that order of work and interruptions leave no trace."""

from collections import Counter

import pytest

from aloe_jax.conversation import Persona
from aloe_jax.errors import AloeError
from aloe_jax.llm.budget import Budget
from aloe_jax.llm.ledger import Ledger
from aloe_jax.llm.protocol import UnavailableError
from aloe_jax.llm.world import seed_personalities, seed_profiles
from aloe_jax.roles import Cast, RoleError
from datagen.conversations import (
    GIVE_UP,
    TURN_ATTEMPTS,
    plan,
    recorded_conversations,
    write_conversation,
    write_conversations,
)
from datagen.journal import CONVERSATION
from datagen.settings import ConversationsSettings
from tests.players import Players, small_settings, some_personas

PERSONAS = some_personas(3)


def talk(turns: int, **settings) -> ConversationsSettings:
    return ConversationsSettings(turns=turns, **settings)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "journal.sqlite") as opened:
        yield opened


def test_every_turn_continues_the_branch_that_was_followed():
    tree = write_conversation(Players(), "c", PERSONAS[0], talk(8), seed=1)
    assert len(tree.turns) == 8
    for number, turn in enumerate(tree.turns):
        assert f"turn {number} " in turn.user
        assert turn.inferred_profile == f"{number + 1} messages"  # this message included
        assert {turn.preferred, turn.rejected} == {f"hinted reply to {turn.user}", f"plain reply to {turn.user}"}
        assert turn.reply(turn.hinted).startswith("hinted")
        assert turn.reply(turn.plain).startswith("plain")
    assert {turn.continued for turn in tree.turns} == {"preferred", "rejected"}


def test_the_judgement_is_the_verifiers_whatever_the_order_shown():
    trees = [write_conversation(Players(), f"c{k}", PERSONAS[0], talk(10), seed=0) for k in range(5)]
    assert {turn.hinted for tree in trees for turn in tree.turns} == {"preferred"}


def test_a_verifier_that_favours_a_position_favours_neither_reply():
    cast = Players()
    cast.judgement = "first"
    turns = [turn for k in range(20) for turn in write_conversation(cast, f"c{k}", PERSONAS[0], talk(10), seed=0).turns]
    assert {turn.shown_first for turn in turns} == {"preferred"}  # so that the bias shows in the data
    assert {(turn.favoured_first, turn.favoured_second) for turn in turns} == {(None, None)}
    hinted = sum(turn.hinted == "preferred" for turn in turns)
    followed = sum(turn.continued == "preferred" for turn in turns)
    assert 70 < hinted < 130  # of 200, ± 4 standard deviations
    assert 70 < followed < 130


def test_equal_replies_are_drawn_again_then_given_up(tmp_path, ledger):
    cast = Players()
    cast.equal_draws = 3
    assert write_conversation(cast, "c", PERSONAS[0], talk(2), seed=0).turns[0].rejected.startswith("plain")
    cast = Players()
    cast.equal_draws = 10**9
    settings = small_settings(tmp_path, count=4)
    outcome = write_conversations(ledger, cast, PERSONAS, settings)
    assert (outcome.written, outcome.left) == (0, 0)
    assert outcome.skipped == {"the two replies are equal": 4}
    assert ledger.all(CONVERSATION) == {}


def test_a_spoiled_conversation_is_counted_and_tried_again_by_the_next_run(tmp_path, ledger):
    cast = Players()
    cast.spoiled_messages = TURN_ATTEMPTS + 1  # more than one run tries
    settings = small_settings(tmp_path, count=6)
    outcome = write_conversations(ledger, cast, PERSONAS, settings)
    assert (outcome.written, outcome.skipped) == (0, {"user (by rule): unusable answer twice, number 5": 6})
    outcome = write_conversations(ledger, cast, PERSONAS, settings)
    assert (outcome.written, outcome.skipped.total()) == (6, 0)


def test_one_spoiled_turn_is_tried_again_with_another_seed():
    cast = Players()
    cast.spoiled_messages = 1
    spoiled = write_conversation(cast, "c", PERSONAS[0], talk(2), seed=0)
    clean = write_conversation(Players(), "c", PERSONAS[0], talk(2), seed=0)
    assert spoiled.turns[0].user != clean.turns[0].user
    assert spoiled.turns[1].user == clean.turns[1].user


def test_more_attempts_never_change_a_conversation():
    few = write_conversation(Players(), "c", PERSONAS[0], talk(4), seed=0, attempts=1)
    assert write_conversation(Players(), "c", PERSONAS[0], talk(4), seed=0, attempts=9) == few


def test_a_model_that_cannot_be_reached_stops_the_run(tmp_path, ledger):
    cast = Players()
    cast.error = AloeError("model x: no key; set X_KEY")
    with pytest.raises(AloeError, match="set X_KEY"):
        write_conversations(ledger, cast, PERSONAS, small_settings(tmp_path))


def test_concurrency_leaves_no_trace(tmp_path):
    def records(concurrency):
        settings = small_settings(tmp_path, count=16, concurrency=concurrency)
        with Ledger(tmp_path / f"{concurrency}.sqlite") as ledger:
            outcome = write_conversations(ledger, Cast(settings.roles, ledger), PERSONAS, settings)
            assert outcome.written == 16
            return ledger.all(CONVERSATION), recorded_conversations(ledger, PERSONAS, settings)

    (one, one_in_order), (eight, eight_in_order) = records(1), records(8)
    assert one == eight
    assert one_in_order == eight_in_order


def test_the_plan_uses_every_persona_before_any_again_and_only_grows():
    ids = [name for name, _ in plan(PERSONAS, 20, seed=3)]
    assert len(set(ids)) == 20
    people = [name.rpartition("-")[0] for name in ids]
    assert len(set(people[:6])) == len(set(people[6:12])) == 6
    assert people[:6] != [persona.id for persona in PERSONAS]
    assert [name for name, _ in plan(PERSONAS, 50, seed=3)][:20] == ids
    assert ids != [name for name, _ in plan(PERSONAS, 20, seed=4)]


def test_a_larger_count_adds_and_a_smaller_one_shows_less(tmp_path, ledger):
    def write(count):
        settings = small_settings(tmp_path, count=count)
        outcome = write_conversations(ledger, Players(), PERSONAS, settings)
        return outcome.written, outcome.already, len(recorded_conversations(ledger, PERSONAS, settings))

    assert write(4) == (4, 0, 4)
    assert write(7) == (3, 4, 7)
    assert write(5) == (0, 5, 5)


def test_conversations_of_other_settings_are_refused(tmp_path, ledger):
    write_conversations(ledger, Players(), PERSONAS, small_settings(tmp_path, count=2))
    with pytest.raises(AloeError, match=r"written with conversations\.turns=3, the config says 4"):
        write_conversations(ledger, Players(), PERSONAS, small_settings(tmp_path, count=2, turns=4))


def test_both_replies_of_the_first_turns_are_answered():
    tree = write_conversation(Players(), "c", PERSONAS[0], talk(4, branch="both", branch_depth=2), seed=0)
    # Two lines at the first turn, four at the second: 4 + 3 + 2 + 2 turns.
    assert len(tree.turns) == 11 and len(tree.main_line) == 4
    assert [tree.depth(k) for k in range(11)] == [0, 1, 2, 3, 1, 2, 3, 2, 3, 2, 3]
    places = [tree.parent(k) for k in range(11)]
    assert len(set(places)) == 11
    for place in [(0, "preferred"), (0, "rejected")]:
        (second,) = [k for k in range(11) if places[k] == place]
        assert {(second, "preferred"), (second, "rejected")} <= set(places)
    for number, turn in enumerate(tree.turns):
        assert f"turn {tree.depth(number)} " in turn.user
    assert len({turn.user for turn in tree.turns}) == 11  # every line has seeds of its own
    alone = write_conversation(Players(), "c", PERSONAS[0], talk(4), seed=0)
    assert tree.main_line == alone.turns


def test_a_verifier_that_contradicts_itself_is_asked_about_other_replies():
    cast = Players()
    cast.contradictions = 4
    tree = write_conversation(cast, "c", PERSONAS[0], talk(1, verify_twice=True), seed=0)
    assert tree.turns[0].reply(tree.turns[0].hinted).startswith("hinted")
    assert cast.contradictions == 0 and set(cast.plain_draws.values()) == {3}
    assert tree.turns[0].favoured_first + tree.turns[0].favoured_second == 2  # of the pairs that were given up

    cast.judgement = "first"
    given_up = Counter()
    with pytest.raises(RoleError, match="contradicts itself when the order is swapped"):
        write_conversation(cast, "c", PERSONAS[0], talk(1, verify_twice=True), seed=0, given_up=given_up)
    assert given_up.total() > 1


def test_without_a_hint_both_replies_are_plain_draws():
    class Drawing(Players):
        def reply(self, history, hint, seed):
            assert hint is None
            return f"reply {seed}"

        def infer(self, persona, user_messages, seed):
            raise AssertionError("nobody needs to know")

    for turn in write_conversation(Drawing(), "c", PERSONAS[0], talk(3, hint=False), seed=0).turns:
        assert turn.hinted is None and turn.plain is None and turn.preferred != turn.rejected


def test_a_model_out_of_reach_leaves_conversations_for_a_later_run(tmp_path, ledger):
    settings = small_settings(tmp_path, count=6, turns=2, concurrency=1)

    class Flaky(Players):
        down = 2

        def infer(self, persona, user_messages, seed):
            if self.down:
                self.down -= 1
                raise UnavailableError("503 eight times")
            return super().infer(persona, user_messages, seed)

    cast = Flaky()
    outcome = write_conversations(ledger, cast, PERSONAS, settings)
    assert (outcome.written, outcome.unreachable, outcome.left, outcome.skipped.total()) == (4, 2, 0, 0)
    assert write_conversations(ledger, cast, PERSONAS, settings).written == 2
    with Ledger(tmp_path / "other") as other:
        write_conversations(other, Players(), PERSONAS, settings)
        assert other.all(CONVERSATION).keys() == ledger.all(CONVERSATION).keys()
        assert all(ledger.get(CONVERSATION, name) == value for name, value in other.all(CONVERSATION).items())

    cast.down = 100
    with pytest.raises(UnavailableError, match="503"):
        write_conversations(ledger, cast, PERSONAS, small_settings(tmp_path, count=30, turns=2, concurrency=1))
    assert cast.down == 100 - GIVE_UP


def test_the_budget_ends_a_run_cleanly(tmp_path):
    settings = small_settings(tmp_path, count=12, turns=3)
    scripted = [
        Persona(id=f"p{k}-t0", profile=p, personality=seed_personalities()[k])
        for k, p in enumerate(seed_profiles()[:3])
    ]
    with Ledger(tmp_path / "j", budget=Budget(max_calls=40)) as ledger:
        outcome = write_conversations(ledger, Cast(settings.roles, ledger), scripted, settings)
        assert "max_calls: this run has made its 40 calls" in outcome.stopped
        assert outcome.left == 12 - outcome.written > 0
        assert sum(usage.calls for usage in ledger.usage().values()) == 40
    with Ledger(tmp_path / "j") as ledger:
        assert write_conversations(ledger, Cast(settings.roles, ledger), scripted, settings).left == 0
        calls = sum(usage.calls for usage in ledger.usage().values())
        with Ledger(tmp_path / "whole") as whole:
            write_conversations(whole, Cast(settings.roles, whole), scripted, settings)
            assert whole.all(CONVERSATION).keys() == ledger.all(CONVERSATION).keys()
            assert sum(usage.calls for usage in whole.usage().values()) == calls  # nothing was asked twice
