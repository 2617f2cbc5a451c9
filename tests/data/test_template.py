"""Chat template → token trees."""

import pytest

from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer, train_tokenizer
from aloe_jax.errors import AloeError
from tests.conversations import conversation, forked, single_replies
from tests.data.prepared import trees_of

REWRITES_HISTORY = (
    "{% for m in messages %}{% set kept = loop.last or m['role'] == 'user' %}"
    "{{ '<|' + m['role'] + '|>' + (m['content'] if kept else '...') + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
REWRITES_PROMPT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|system|>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "t"
    texts = [text for k in range(3) for turn in conversation(4, f"c{k}").turns for text in (turn.user, turn.preferred)]
    train_tokenizer(texts, 320, path)
    return load_tokenizer(path)


def path_tokens(tree, node):
    tokens = []
    while node >= 0:
        tokens = list(tree.nodes[node].tokens) + tokens
        node = tree.nodes[node].parent
    return tokens


def test_every_path_equals_the_rendered_conversation(tokenizer):
    template, talk = ChatTemplate(tokenizer), conversation(5, continued="prrp")
    (tree,) = trees_of(template, talk)
    for pair in tree.pairs:
        for branch, node in (("preferred", pair.preferred), ("rejected", pair.rejected)):
            messages = talk.messages(pair.turn, branch)
            expected = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
            assert path_tokens(tree, node) == expected
            scored = tree.nodes[node].tokens[: tree.nodes[node].scored]
            assert tokenizer.decode(scored) == talk.turns[pair.turn].reply(branch) + "<|end|>"


def test_every_path_of_a_forked_tree_is_there_once(tokenizer):
    talk = forked()
    (tree,) = trees_of(ChatTemplate(tokenizer), talk)
    replies = [(place, node) for place, node in enumerate(tree.nodes) if node.scored]
    assert len(replies) == 10 and len(tree.pairs) == 5
    assert sorted({node.turn for node in tree.nodes}) == [0, 1, 2]
    for place, node in replies:
        messages = talk.messages(node.source, node.branch)
        assert path_tokens(tree, place) == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    for pair in tree.pairs:
        assert tree.nodes[pair.preferred].branch == "preferred" and tree.nodes[pair.rejected].branch == "rejected"
        assert tree.nodes[pair.preferred].source == tree.nodes[pair.rejected].source
    shorter = tree.fit(tree.length - 1)
    assert shorter is not None and shorter.turns == 2 and len(shorter.pairs) == 3
    assert path_tokens(shorter, shorter.pairs[-1].preferred) in [path_tokens(tree, place) for place, _ in replies]


def test_a_turn_with_one_reply_has_no_pair(tokenizer):
    (tree,) = trees_of(ChatTemplate(tokenizer), single_replies())
    assert not tree.pairs and sum(node.scored > 0 for node in tree.nodes) == 2


def test_continuations_join_to_the_whole_prompt(tokenizer):
    template, talk = ChatTemplate(tokenizer), conversation(4)
    ids = []
    for turn in range(4):
        ids += template.continuation(talk.messages(turn))
        assert ids == template.prompt(talk.messages(turn))
        reply = talk.turns[turn].reply(talk.turns[turn].continued)
        ids += tokenizer(reply, add_special_tokens=False)["input_ids"] + [template.stop[0]]
    assert template.decode(ids[-3:]) == tokenizer.decode(ids[-3:-1]).strip()


def test_a_template_that_rewrites_history_gives_one_tree_a_turn(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", REWRITES_HISTORY)
    trees = trees_of(ChatTemplate(tokenizer), conversation(3))
    assert [len(tree.pairs) for tree in trees] == [1, 1, 1]
    assert [tree.pairs[0].turn for tree in trees] == [0, 1, 2]


def test_a_template_without_prefix_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", REWRITES_PROMPT)
    with pytest.raises(AloeError, match="conversation c0, turn 1: the chat template's reply prompt is not a prefix"):
        trees_of(ChatTemplate(tokenizer), conversation(3))


def test_no_template_and_no_end_of_turn_are_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(AloeError, match="no chat template"):
        ChatTemplate(tokenizer)
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(AloeError, match="without a special token"):
        ChatTemplate(tokenizer)


def test_reply_ids_change_with_what_leads_to_them(tokenizer):
    template = ChatTemplate(tokenizer)
    first, second = trees_of(template, conversation(2, "a"))[0], trees_of(template, conversation(2, "b"))[0]
    renamed = conversation(2, "b").model_copy(update={"id": "a"})
    ids = {node.id for node in first.nodes if node.scored}
    assert len(ids) == 4
    assert not ids & {node.id for node in trees_of(template, renamed)[0].nodes}
    assert second.id == "b"


def test_a_missing_tokenizer_is_one_line(tmp_path):
    with pytest.raises(AloeError, match="no tokenizer directory there"):
        load_tokenizer(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AloeError, match="cannot load a tokenizer"):
        load_tokenizer(tmp_path / "empty")
