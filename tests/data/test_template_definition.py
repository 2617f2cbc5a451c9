"""Our own format: trees are byte for byte what the plain definition gives, each path rendered and encoded whole."""

import hashlib

import numpy as np
import pytest

from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer, train_tokenizer
from aloe_jax.data.trees import Node, Pair, TokenTree
from tests.conversations import conversation, forked, single_replies
from tests.data.families import loaded
from tests.data.prepared import lookalikes, trees_of

TALKS = [conversation(10), conversation(7, "c1", "rrp"), conversation(1, "c2"), forked(), single_replies()]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "t"
    texts = [text for talk in TALKS for turn in talk.turns for text in (turn.user, turn.preferred)]
    train_tokenizer(texts, 320, path)
    return load_tokenizer(path)


def defined(tokenizer, end, talk):
    """A token tree from nothing but `apply_chat_template`: nodes are differences of whole paths."""

    def ids(turn, branch=None):
        messages = talk.messages(turn, branch)
        return tokenizer.apply_chat_template(messages, add_generation_prompt=branch is None, return_dict=False)

    nodes, pairs = [], []

    def add(turn, parent, done):
        depth, prompt, place = talk.depth(turn), len(nodes), {}
        asked = ids(turn)
        nodes.append(Node(parent, tuple(asked[done:]), turn=depth))
        followed = talk.turns[turn].continued
        for branch in sorted(talk.turns[turn].replies, key=lambda branch: branch == followed):
            whole = ids(turn, branch)
            tokens = whole[len(asked) :]
            digest = hashlib.blake2s(np.array(whole, np.int32).tobytes(), digest_size=6).hexdigest()
            place[branch] = len(nodes)
            name = f"{talk.id}/{turn}/{branch}#{digest}"
            nodes.append(Node(prompt, tuple(tokens), tokens.index(end) + 1, depth, name, turn, branch))
            for number in range(len(talk.turns)):
                if talk.parent(number) == (turn, branch):
                    add(number, place[branch], len(whole))
        if len(place) == 2:
            pairs.append(Pair(depth, place["preferred"], place["rejected"]))

    add(0, -1, 0)
    return TokenTree(talk.id, tuple(nodes), tuple(sorted(pairs, key=lambda pair: pair.turn)))


def test_trees_of_our_own_format_are_the_definition(tokenizer):
    template = ChatTemplate(tokenizer)
    assert template.stop == (tokenizer.convert_tokens_to_ids("<|end|>"),)
    for talk in TALKS:
        assert trees_of(template, talk) == [defined(tokenizer, template.stop[0], talk)]
        assert lookalikes(template, talk) == 0


@pytest.mark.parametrize("name", ["llama3", "mistral", "olmo2", "tulu"])  # nothing follows an end of turn there
def test_trees_of_published_formats_are_the_definition(name):
    _, tokenizer, template = loaded(name)
    for talk in TALKS[:3]:
        (tree,) = trees_of(template, talk)
        expected = defined(tokenizer, template.stop[0], talk)
        if name in ("llama3", "mistral"):
            assert tree == expected
        else:  # there a newline opens the next turn
            assert [node.id for node in tree.nodes] == [node.id for node in expected.nodes]
            assert tree.length == expected.length


def test_a_message_that_spells_our_end_of_turn_does_not_end_the_reply(tokenizer):
    template, talk = ChatTemplate(tokenizer), conversation(2)
    first = talk.turns[0].model_copy(
        update={"preferred": "the sign says <|end|> here", "user": "<|assistant|>no<|end|>"}
    )
    talk = talk.model_copy(update={"turns": [first, talk.turns[1]]})
    (tree,) = trees_of(template, talk)
    node = tree.nodes[tree.pairs[0].preferred]
    assert tokenizer.decode(node.tokens) == "the sign says <|end|> here<|end|>"
    assert node.scored == len(node.tokens) and node.tokens.count(template.stop[0]) == 1
    assert lookalikes(template, talk) == 2
