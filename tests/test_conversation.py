"""Conversation types: round trip, paths, one-line faults."""

import json

import pytest

from aloe_jax.conversation import Conversation
from aloe_jax.errors import AloeError
from tests.conversations import conversation, forked, single_replies


def test_json_round_trip():
    talk = conversation(3)
    assert Conversation.from_json(talk.to_json()) == talk
    assert "\n" not in talk.to_json()


def test_paths_follow_the_continued_branch():
    talk = conversation(3, continued="rp")
    texts = [message["content"] for message in talk.messages(2, "preferred")]
    assert texts == [
        talk.turns[0].user, talk.turns[0].rejected,
        talk.turns[1].user, talk.turns[1].preferred,
        talk.turns[2].user, talk.turns[2].preferred,
    ]  # fmt: skip
    assert [message["role"] for message in talk.messages(1)] == ["user", "assistant", "user"]


def test_the_plain_reply_is_the_one_without_the_hint():
    talk = conversation(2)
    assert [turn.plain for turn in talk.turns] == ["preferred", "rejected"]
    assert talk.turns[0].model_copy(update={"hinted": None}).plain is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d["turns"][1].pop("rejected"), "turns.1.rejected: field required"),
        (lambda d: d["turns"][0].update(preferred="  "), "turns.0.preferred: is empty"),
        (lambda d: d["turns"][0].update(continued="chosen"), "turns.0.continued: input should be"),
        (lambda d: d.update(turns=[]), "turns: list should have at least 1 item"),
        (lambda d: d.update(extra=1), "extra: extra inputs are not permitted"),
    ],
)
def test_faults_name_record_and_field(change, told):
    value = json.loads(conversation(2).to_json())
    change(value)
    with pytest.raises(AloeError, match=told) as caught:
        Conversation.from_json(json.dumps(value), "d.jsonl line 4")
    assert str(caught.value).startswith("d.jsonl line 4: ") and "\n" not in str(caught.value)


def test_text_that_is_not_json():
    with pytest.raises(AloeError, match=r"d.jsonl line 2: not valid JSON"):
        Conversation.from_json('{"id": ', "d.jsonl line 2")


def test_a_forked_tree_knows_its_paths():
    tree = forked()
    assert [tree.depth(k) for k in range(5)] == [0, 1, 2, 1, 2]
    assert tree.parent(3) == (0, "rejected") and tree.parent(4) == (3, "rejected")
    assert tree.path(4) == [(0, "rejected"), (3, "rejected")]
    assert [m["content"] for m in tree.messages(4)] == [
        tree.turns[0].user, tree.turns[0].rejected, tree.turns[3].user, tree.turns[3].rejected, tree.turns[4].user
    ]  # fmt: skip
    assert tree.main_line == tree.turns[:3]
    assert Conversation.from_json(tree.to_json()) == tree
    assert Conversation.from_json(single_replies().to_json()) == single_replies()


@pytest.mark.parametrize(
    ("turn", "change", "fault"),
    [
        (3, {"follows": 3}, r"turns\.3\.follows: 3 is not an earlier turn"),
        (3, {"after": "preferred"}, "the preferred reply of turn 0 is answered twice"),
        (3, {"after": None}, "follows and after belong together"),
        (0, {"follows": 0, "after": "preferred"}, r"turns\.0\.follows: 0 is not an earlier turn"),
        (0, {"rejected": None, "hinted": None}, "turn 0 has no rejected reply"),
        (1, {"rejected": None}, "there is no rejected reply to be continued"),
    ],
)
def test_a_tree_that_is_none_is_refused(turn, change, fault):
    record = forked().record()
    record["turns"][turn] |= change
    with pytest.raises(AloeError, match=f"here: .*{fault}"):
        Conversation.parse(record, "here")
