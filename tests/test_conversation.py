"""Conversation types: round trip, paths, one-line faults."""

import json

import pytest

from aloe_jax.conversation import Conversation
from aloe_jax.errors import AloeError
from tests.conversations import conversation


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
