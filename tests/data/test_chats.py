"""Chat records: both ways of writing them, every family's chat, and what is refused."""

import numpy as np
import pytest

from aloe_jax.data.chats import ends_unanswered, read_chat
from aloe_jax.data.selection import BOTH, PLAIN, PREFERRED
from aloe_jax.errors import AloeError
from tests.data.families import FAMILIES, loaded
from tests.data.families.checks import decode, paths
from tests.data.jsonl import chat
from tests.data.prepared import path_messages, prepare, trees_of

NAMES = {"system": "system", "user": "human", "assistant": "gpt"}


def other_form(record):
    """The same chat as CodeAct and ShareGPT write it."""
    return {
        "id": 3,
        "conversations": [{"from": NAMES[m["role"]], "value": m["content"]} for m in record["messages"]],
    }


@pytest.mark.parametrize("system", [None, "Speak kindly."])
def test_both_forms_are_the_same_chat(system):
    record = chat("Ada", 3, system)
    one, two = read_chat(record, "w"), read_chat(other_form(record), "w")
    mixed = read_chat({"conversations": record["messages"], "messages": None}, "w")
    assert one == two == mixed
    assert path_messages(one, 2, 0) == record["messages"]
    assert one.system == system and len(one.exchanges) == 3


@pytest.mark.parametrize("name", FAMILIES)
def test_every_reply_is_scored_in_the_published_chat(name):
    family, tokenizer, template = loaded(name)
    record = chat("Ada", 4)
    messages = record["messages"]
    trees = trees_of(template, read_chat(record, "w"))
    assert len(trees) == (1 if family.stable else 4)
    found = list(paths(trees))
    assert [node.source for node, _, _ in found] == [0, 1, 2, 3]
    for node, before, _ in found:
        upto = messages[: 2 * node.source + 2]
        assert before == template.prompt(upto[:-1])
        reply = decode(tokenizer, node.tokens[: node.scored])
        assert (reply.removeprefix(" ") if family.adds_spaces else reply) == upto[-1]["content"] + family.end


@pytest.mark.parametrize("name", FAMILIES)
def test_a_system_message_is_in_every_path(name, capsys):
    _, tokenizer, template = loaded(name)
    talk = read_chat(chat("Ada", 3, "Speak kindly."), "w")
    made = prepare([talk], template, 1024, PREFERRED, "chats.jsonl")
    assert made.report.replies == 3
    told = capsys.readouterr().err
    moves = name.startswith("mistral")  # its template has system messages in the newest user message, or nowhere
    assert ("in 1 of 1 conversations it stands before the first user message" in told) == moves
    for start in np.flatnonzero(made.rows.positions[0, : made.rows.length[0]] == 0):
        text = decode(tokenizer, made.rows.tokens[0, start : made.rows.subtree_end[0, start]])
        assert text.count("Speak kindly.") == 1 and text.index("Speak kindly.") < text.index("Ada asks 0")
    if not moves:
        first = next(paths(trees_of(template, talk)))[1]
        assert first == template.prompt(path_messages(talk, 0, 0)[:-1])


@pytest.mark.parametrize("selection", [PREFERRED, PLAIN, BOTH])
def test_every_reply_is_learnt_from(selection):
    talks = [read_chat(chat(f"Ada {k}", k + 1), f"w {k}") for k in range(4)]
    made = prepare(talks, loaded("llama3")[2], 512, selection, "chats.jsonl")
    assert made.report.replies == 10 and made.report.pairs == 0 and made.report.trees == 4


def test_a_user_message_without_reply_is_left_out():
    record = chat("Ada", 2)
    longer = {"messages": [*record["messages"], {"role": "user", "content": "bye"}]}
    assert read_chat(longer, "w") == read_chat(record, "w")
    assert ends_unanswered(longer) and not ends_unanswered(record)


def changed(where, value):
    record = chat("Ada", 2, "Speak kindly.")
    *steps, last = where
    inner = record
    for step in steps:
        inner = inner[step]
    inner[last] = value
    return record


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"messages": []}, r"w: messages: is empty; give a list"),
        ({"messages": "hello"}, r"w: messages: is not a list"),
        ({"other": 1}, r"w: messages: is missing"),
        ({"messages": ["hello"]}, r"w: messages\.0: expected .*, found str"),
        (changed(["messages", 1, "role"], "tool"), r"w: messages\.1\.role: is 'tool' where 'user' is due; a"),
        (changed(["messages", 1, "role"], "assistant"), r"w: messages\.1\.role: is 'assistant' where 'user' is due"),
        (changed(["messages", 2, "role"], "user"), r"w: messages\.2\.role: is 'user' where 'assistant' is due; mend"),
        (changed(["messages", 3, "role"], "system"), r"w: messages\.3\.role: is 'system' where 'user' is due"),
        (changed(["messages", 3, "role"], ["user"]), r"w: messages\.3\.role: is \['user'\] where"),
        (changed(["messages", 2, "content"], " \n"), r"w: messages\.2\.content: is empty"),
        (changed(["messages", 2, "content"], None), r"w: messages\.2\.content: is missing"),
        (changed(["messages", 2, "content"], [{"type": "text"}]), r"w: messages\.2\.content: expected text, found l"),
        (changed(["messages", 2, "content"], "\ud83d"), r"w: messages\.2\.content: has half a character"),
        (changed(["messages", 2, "tool_calls"], [1]), r"w: messages\.2\.tool_calls: would be lost"),
        ({"conversations": [{"from": "human", "value": 3}]}, r"w: conversations\.0\.value: expected text, found int"),
        ({"conversations": [{"from": "human", "value": "hi"}]}, r"w: conversations: has no message of the assistant"),
    ],
)  # fmt: skip
def test_what_is_no_chat_is_refused_by_field(record, told):
    with pytest.raises(AloeError, match=told) as caught:
        read_chat(record, "w")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("empty", [[], None, "", {}])
def test_an_empty_field_of_another_form_is_as_if_it_were_not_there(empty):
    record = {"instruction": "a", "output": "b", "completion": empty, "prompt": empty}
    assert [exchange.replies[0].text for exchange in read_chat(record, "f").exchanges] == ["b"]
    assert not ends_unanswered(record)
