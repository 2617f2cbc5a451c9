"""What is asked of every family's token trees, against `apply_chat_template` itself."""

from __future__ import annotations

from aloe_jax.benchmark.candidates import path_tokens
from aloe_jax.benchmark.dialogue import CandidateReply, Dialogue, DialogueTurn

# What a template may be told besides the messages: no thinking aloud, and a date that does not pass.
SETTINGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}


def published_ids(family, tokenizer, messages):
    """The ids of a path as transformers makes them, with the end of turn that an open-ended template leaves out."""
    prompt = messages[-1]["role"] == "user"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False, **SETTINGS)
    return ids if prompt or not family.open_end else [*ids, tokenizer.convert_tokens_to_ids(family.end)]


def published_text(family, tokenizer, messages):
    prompt = messages[-1]["role"] == "user"
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False, **SETTINGS)
    return text if prompt or not family.open_end else text + family.end


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def paths(trees):
    """(node, ids of its path before it, ids of its path with it) of every reply."""
    for tree in trees:
        for node in tree.nodes:
            if node.scored:
                before, parent = [], node.parent
                while parent >= 0:
                    before = [*tree.nodes[parent].tokens, *before]
                    parent = tree.nodes[parent].parent
                yield node, before, [*before, *node.tokens]


def spoken_path(template, trees, conversation, turn):
    """The ids that a sampling session has been fed when it is to answer `turn`, its replies those of the trees."""
    scored = {(node.source, node.branch): tuple(node.tokens[: node.scored]) for node, _, _ in paths(trees)}
    exchanges = [
        DialogueTurn(
            conversation.turns[number].user,
            CandidateReply(conversation.turns[number].reply(branch), scored[number, branch]),
        )
        for number, branch in conversation.path(turn)
    ]
    return path_tokens(template, Dialogue(conversation.persona, exchanges), conversation.turns[turn].user)
