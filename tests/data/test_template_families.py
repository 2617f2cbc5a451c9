"""Published chat formats: token trees hold what transformers makes of every path, and what a session is fed."""

import copy

import pytest

from aloe_jax.data.packing import pack
from aloe_jax.data.selection import PAIRS
from aloe_jax.data.template import ChatTemplate, UnstableTemplateError
from aloe_jax.errors import AloeError
from tests.conversations import conversation, forked
from tests.data.families import FAMILIES, loaded
from tests.data.families.checks import decode, paths, published_ids, spoken_path
from tests.data.prepared import prepare, trees_of

TALK = conversation(10, continued="prrp")
every_family = pytest.mark.parametrize("name", FAMILIES)


@every_family
def test_every_path_of_ten_turns_is_the_published_chat(name):
    family, tokenizer, template = loaded(name)
    trees = trees_of(template, TALK)
    assert len(trees) == (1 if family.stable else 10)
    found = list(paths(trees))
    assert len(found) == 20
    for node, before, whole in found:
        expected = published_ids(family, tokenizer, TALK.messages(node.source, node.branch))
        last = (node.source + 1, TALK.turns[node.source].continued) != (node.source + 1, node.branch)
        if family.stable and not last and node.source < 9:  # what follows an end of turn is where the next turn begins
            assert whole == expected[: len(whole)] and decode(tokenizer, expected[len(whole) :]) == family.trail
        else:
            assert whole == expected
        assert before == published_ids(family, tokenizer, TALK.messages(node.source))


@every_family
def test_a_reply_is_scored_through_its_end_of_turn_and_no_further(name):
    family, tokenizer, template = loaded(name)
    for tree in (*trees_of(template, TALK), *trees_of(template, forked())):
        talk = forked() if tree.id.startswith("f0") else TALK
        for node, before, whole in paths([tree]):
            reply = talk.turns[node.source].reply(node.branch)
            found = decode(tokenizer, node.tokens[: node.scored])
            assert (found.removeprefix(" ") if family.adds_spaces else found) == reply + family.end
            assert node.tokens[node.scored - 1] == template.stop[0]
            assert not set(node.tokens[: node.scored - 1]) & set(template.stop)
            opened = decode(tokenizer, before)
            assert (
                decode(tokenizer, [*before, *node.tokens[: node.scored]])[len(opened) :].lstrip() == reply + family.end
            )
            assert decode(tokenizer, whole[len(before) + node.scored :]) in ("", family.trail)


@every_family
def test_there_is_one_bos_where_the_family_has_one(name):
    family, tokenizer, template = loaded(name)
    for _, _, whole in paths(trees_of(template, TALK)):
        if family.bos is None:
            assert tokenizer.bos_token_id is None
            continue
        assert whole[0] == tokenizer.bos_token_id
        if family.bos != family.eos:
            assert whole.count(tokenizer.bos_token_id) == 1


@every_family
def test_a_session_is_fed_the_ids_of_training(name):
    family, _, template = loaded(name)
    trees = trees_of(template, TALK)
    before = {node.source: before for node, before, _ in paths(trees)}
    for turn in range(10):
        messages = TALK.messages(turn)
        assert template.prompt(messages) == before[turn]
        if family.stable or turn == 0:
            assert spoken_path(template, trees, TALK, turn) == before[turn]
        else:
            with pytest.raises(UnstableTemplateError, match="rewrites earlier messages"):
                template.continuation(messages)


@every_family
def test_padding_tokens_do_not_matter(name):
    _, tokenizer, template = loaded(name)
    assert tokenizer.pad_token_id is None
    expected = trees_of(template, TALK)
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = padded.eos_token
    again = trees_of(ChatTemplate(padded), TALK)
    assert again == expected
    rows, report = pack(again, max(tree.length for tree in again) + 7)
    assert report.replies == 20
    scored = [node.scored for tree in again for node in tree.nodes if node.scored]
    assert (rows.reply > 0).sum() == sum(scored) == rows.reply_length.sum()


@every_family
def test_stops_are_the_template_s_the_tokenizer_s_and_the_model_s(name):
    family, tokenizer, template = loaded(name)
    expected = dict.fromkeys((family.end, family.eos, *family.generation_eos))
    assert template.stop == tuple(tokenizer.convert_tokens_to_ids(list(expected)))
    assert ChatTemplate(tokenizer, stop=(3, template.stop[0])).stop == (*template.stop, 3)


def test_templates_that_rewrite_history_are_counted(capsys):
    talks = [conversation(3, f"c{k}") for k in range(4)]
    for name in ("qwen3", "end-if-last"):
        prepared = prepare(talks, loaded(name)[2], 512, PAIRS, "talks.jsonl")
        assert prepared.report.trees == 12 and prepared.report.pairs == 12
        assert "rewrites earlier turns in 4 of 4 conversations" in capsys.readouterr().err
    assert prepare(talks, loaded("llama3")[2], 512, PAIRS, "talks.jsonl").report.trees == 4
    assert capsys.readouterr().err == ""


SYSTEM = {"role": "system", "content": "Speak kindly."}


def test_a_system_message_stands_where_the_family_has_it():
    asked = TALK.messages(1)
    for name in ("llama3", "qwen2", "qwen3", "olmo", "mistral", "zephyr"):
        family, tokenizer, template = loaded(name)
        assert template.prompt([SYSTEM, *asked]) == published_ids(family, tokenizer, [SYSTEM, *asked])
        assert template.continuation([SYSTEM, asked[0]]) == template.prompt([SYSTEM, asked[0]])
    family, tokenizer, template = loaded("gemma")
    folded = [{"role": "user", "content": "Speak kindly.\n\n" + asked[0]["content"]}, *asked[1:]]
    assert template.prompt([SYSTEM, *asked]) == published_ids(family, tokenizer, folded)
    assert template.continuation([SYSTEM, *asked]) == template.continuation(asked)
    with pytest.raises(AloeError, match="takes no system message"):
        template.prompt([SYSTEM])
    with pytest.raises(AloeError, match=r"refuses the messages .*roles must alternate"):
        template.prompt([asked[0], asked[0]])


def test_system_text_in_the_last_user_message_moves_so_a_session_starts_anew():
    _, tokenizer, template = loaded("mistral")
    asked = [SYSTEM, *TALK.messages(1)]
    text = decode(tokenizer, template.prompt(asked))
    assert "Speak kindly." not in text.split("</s>")[0] and "[INST] Speak kindly.\n\nuser words c0 1" in text
    with pytest.raises(UnstableTemplateError):
        template.continuation(asked)
    assert template.continuation(asked[1:]) == template.prompt(asked[1:])[-len(template.continuation(asked[1:])) :]


def test_a_dated_template_gives_the_same_ids_on_any_day():
    _, tokenizer, template = loaded("llama3-dated")
    assert "Today Date: 26 Jul 2024" in decode(tokenizer, trees_of(template, TALK)[0].nodes[0].tokens)
    today = tokenizer.apply_chat_template(TALK.messages(0), tokenize=False, add_generation_prompt=True)
    assert "26 Jul 2024" not in today
