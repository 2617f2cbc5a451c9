"""The collaboration: what a turn records, and that order of work and interruptions leave no trace."""

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.llm.ledger import Ledger
from aloe_jax.roles import Cast
from datagen.conversations import plan, recorded_conversations, write_conversation, write_conversations
from datagen.journal import CONVERSATION
from tests.players import Players, small_settings, some_personas

PERSONAS = some_personas(3)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "journal.sqlite") as opened:
        yield opened


def test_every_turn_continues_the_branch_that_was_followed():
    tree = write_conversation(Players(), "c", PERSONAS[0], 8, seed=1)
    assert len(tree.turns) == 8
    for number, turn in enumerate(tree.turns):
        assert f"turn {number} " in turn.user
        assert turn.inferred_profile == f"{number + 1} messages"  # this message included
        assert {turn.preferred, turn.rejected} == {f"hinted reply to {turn.user}", f"plain reply to {turn.user}"}
        assert turn.reply(turn.hinted).startswith("hinted")
        assert turn.reply(turn.plain).startswith("plain")
    assert {turn.continued for turn in tree.turns} == {"preferred", "rejected"}


def test_the_judgement_is_the_verifiers_whatever_the_order_shown():
    trees = [write_conversation(Players(), f"c{k}", PERSONAS[0], 10, seed=0) for k in range(5)]
    assert {turn.hinted for tree in trees for turn in tree.turns} == {"preferred"}


def test_a_verifier_that_favours_a_position_favours_neither_reply():
    cast = Players()
    cast.judgement = "first"
    turns = [turn for k in range(20) for turn in write_conversation(cast, f"c{k}", PERSONAS[0], 10, seed=0).turns]
    hinted = sum(turn.hinted == "preferred" for turn in turns)
    followed = sum(turn.continued == "preferred" for turn in turns)
    assert 70 < hinted < 130  # of 200, ± 4 standard deviations
    assert 70 < followed < 130


def test_equal_replies_are_drawn_again_then_given_up(tmp_path, ledger):
    cast = Players()
    cast.equal_draws = 3
    assert write_conversation(cast, "c", PERSONAS[0], 2, seed=0).turns[0].rejected.startswith("plain")
    cast = Players()
    cast.equal_draws = 10**9
    settings = small_settings(tmp_path, count=4)
    outcome = write_conversations(ledger, cast, PERSONAS, settings)
    assert (outcome.written, outcome.left) == (0, 0)
    assert outcome.skipped == {"the replies with and without the hint are equal": 4}
    assert ledger.all(CONVERSATION) == {}


def test_a_spoiled_conversation_is_counted_and_tried_again_by_the_next_run(tmp_path, ledger):
    cast = Players()
    cast.spoiled_messages = 3  # more than one run tries
    settings = small_settings(tmp_path, count=6)
    outcome = write_conversations(ledger, cast, PERSONAS, settings)
    assert (outcome.written, outcome.skipped) == (0, {"user (by rule): unusable answer twice": 6})
    outcome = write_conversations(ledger, cast, PERSONAS, settings)
    assert (outcome.written, outcome.skipped.total()) == (6, 0)


def test_one_spoiled_turn_is_tried_again_with_another_seed():
    cast = Players()
    cast.spoiled_messages = 1
    spoiled = write_conversation(cast, "c", PERSONAS[0], 2, seed=0)
    clean = write_conversation(Players(), "c", PERSONAS[0], 2, seed=0)
    assert spoiled.turns[0].user != clean.turns[0].user
    assert spoiled.turns[1].user == clean.turns[1].user


def test_more_attempts_never_change_a_conversation():
    few = write_conversation(Players(), "c", PERSONAS[0], 4, seed=0, attempts=1)
    assert write_conversation(Players(), "c", PERSONAS[0], 4, seed=0, attempts=9) == few


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
    with pytest.raises(AloeError, match=r"made with conversations\.turns=3, the config says 4"):
        write_conversations(ledger, Players(), PERSONAS, small_settings(tmp_path, count=2, turns=4))
