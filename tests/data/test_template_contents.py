"""What people write: control tokens' text stays text, and whatever is written is there, in every family."""

import copy

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aloe_jax.conversation import Conversation, Turn
from aloe_jax.data.selection import PAIRS
from aloe_jax.data.template import ChatTemplate
from tests.conversations import PERSONA, conversation
from tests.data.families import FAMILIES, loaded
from tests.data.families.checks import decode, paths, published_ids, published_text, spoken_path
from tests.data.prepared import lookalikes, prepare, trees_of

NASTY = [
    "Grüße, 你好, \u202eright to left\u202c, a\u0301 and á, \u200b",
    "👩‍👩‍👧‍👦 and 🏳️‍🌈!",
    "\n\nTwo lines first\n\nand last\n\n",
    "  spaces  \t around ",
    ".",
    "\u200b",
    "{{ messages }} {% raw %} \\n \\u0041",
    "a\x00b\ufdd0c",
]
CONTROL = sorted({token for family in FAMILIES.values() for token in family.special})
FRAGMENTS = st.sampled_from([*NASTY, *CONTROL, "\n", " ", "<", "|", "[", "user", "assistant", "</", "s>", "eot_id|>"])
TEXTS = st.lists(FRAGMENTS | st.text(max_size=5), min_size=1, max_size=5).map("".join).filter(str.strip)
TALKS = st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=3)


def talk_of(turns):
    return Conversation(
        id="n",
        persona=PERSONA,
        turns=[Turn(user=u, preferred=p, rejected=r, continued="rejected") for u, p, r in turns],
    )


def control_ids(tokenizer):
    return {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special and token.content.strip()
    }


def check(family, tokenizer, template, talk):
    """Text, end of turn, control tokens and session of every path."""
    plain = conversation(len(talk.turns), continued="r")
    control = control_ids(tokenizer)
    trees = trees_of(template, talk)
    assert len(trees) == (1 if family.stable else len(talk.turns))
    frames = {(node.source, node.branch): whole for node, _, whole in paths(trees_of(template, plain))}
    for node, before, whole in paths(trees):
        assert [i for i in whole if i in control] == [i for i in frames[node.source, node.branch] if i in control]
        assert [i for i in node.tokens[: node.scored] if i in control] == [template.stop[0]]
        text = published_text(family, tokenizer, talk.messages(node.source, node.branch))
        found = decode(tokenizer, whole)
        if family.adds_spaces:
            found, text = found.replace(" ", ""), text.replace(" ", "")
        assert found == text or found + family.trail == text
        if family.stable:
            assert spoken_path(template, trees, talk, node.source) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_nasty_contents(name):
    check(*loaded(name), talk_of([(text, text, text + "?") for text in NASTY]))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_text_of_control_tokens_stays_text(name):
    family, tokenizer, template = loaded(name)
    texts = [f"say {token} now {token}{token}" for token in family.special]
    texts += [family.special[0], family.end + " and more", family.special[0][:1] + family.special[0]]
    talk = talk_of([(text, text, text + "?") for text in texts])
    check(family, tokenizer, template, talk)
    node, _, whole = next(paths(trees_of(template, talk)))
    assert whole != published_ids(family, tokenizer, talk.messages(node.source, node.branch))  # which is fooled
    assert lookalikes(template, talk) == 3 * len(texts)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=30, deadline=None)
@example(turns=[("<s<s>>[INST]", "[/[/INST]INST]</s>", "</s></s>")])
@given(turns=TALKS)
def test_whatever_is_written_is_there(name, turns):
    check(*loaded(name), talk_of(turns))


def test_a_token_that_would_merge_across_the_cut_is_cut():
    family, tokenizer, template = loaded("qwen2")
    talk = talk_of([("tell me", "\n\nGood morning", " Good")])
    merged, same = (published_ids(family, tokenizer, talk.messages(0, branch)) for branch in ("preferred", "rejected"))
    pieces = {node.branch: whole for node, _, whole in paths(trees_of(template, talk))}
    assert pieces["rejected"] == same
    # Text equal, ids not: generation has already ended the prompt with its newline.
    assert pieces["preferred"] != merged and decode(tokenizer, pieces["preferred"]) == decode(tokenizer, merged)
    prompt = template.prompt(talk.messages(0))
    assert pieces["preferred"][: len(prompt)] == prompt and merged[: len(prompt)] != prompt


def test_cuts_in_text_add_no_spaces():
    _, tokenizer, template = loaded("mistral-legacy")
    reply = "it says </s>, [INST]and</s></s>[/INST] "
    (tree,) = trees_of(template, talk_of([("<s>hm</s>", reply, "no")]))
    assert " " + decode(tokenizer, tree.nodes[tree.pairs[0].preferred].tokens).strip() == f" {reply.strip()}</s>"
    assert "<s>hm</s>[/INST]" in decode(tokenizer, tree.nodes[0].tokens)


def test_white_space_is_never_a_control_token():
    tokenizer = copy.deepcopy(loaded("gemma")[1])
    tokenizer.add_special_tokens({"additional_special_tokens": ["\n\n"]})
    template, talk = ChatTemplate(tokenizer), talk_of([("one\n\ntwo", "three\n\nfour", "five")])
    assert lookalikes(template, talk) == 0
    newlines = tokenizer.convert_tokens_to_ids("\n\n")
    assert [newlines in node.tokens for node in trees_of(template, talk)[0].nodes] == [True, True, False]


def test_lookalikes_are_counted(capsys):
    talks = [talk_of([("what is <|eot_id|>?", "the end", "<|eot_id|>")]), conversation(2)]
    prepare(talks, loaded("llama3")[2], 512, PAIRS, "talks.jsonl")
    assert "talks.jsonl: 2 messages hold the text of a control token" in capsys.readouterr().err


def test_thoughts_in_a_reply_are_the_template_s_to_read():
    _, tokenizer, template = loaded("qwen3")
    talk = talk_of([("tell me", "plain", "<think>\nwell\n</think>\n\nGood")])
    found = {
        node.branch: whole for node, _, whole in paths(trees_of(template, talk_of([("tell me", "plain", "Good")])))
    }
    assert decode(tokenizer, found["rejected"]).endswith("<think>\n\n</think>\n\nGood<|im_end|>\n")
    assert lookalikes(template, talk) == 0


def test_decoding_adds_and_drops_nothing():
    for _, tokenizer, template in map(loaded, FAMILIES):
        ids = tokenizer("It is , well , don 't", add_special_tokens=False)["input_ids"]
        assert template.decode([*ids, template.stop[0]]) == "It is , well , don 't"
        assert isinstance(template, ChatTemplate)
