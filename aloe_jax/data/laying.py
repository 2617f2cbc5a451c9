"""Encoded exchanges of a message tree → token trees."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from aloe_jax.data.messages import Hash, MessageTree, ReplyIndex
from aloe_jax.data.paths import Paths
from aloe_jax.data.trees import Node, Pair, TokenTree


@dataclass(frozen=True)
class EncodedExchange:
    """Ids of one exchange: from the end of what it answers (or from the start) to its replies' prompt, and on."""

    prompt: Sequence[int]
    replies: list[Sequence[int]]  # through their ends of turn
    trails: list[Sequence[int]]  # what the template writes after a last reply


@dataclass(frozen=True)
class LaidOut:
    """The token trees of a conversation, and which of its exchanges are in none, since no row could hold them."""

    source: MessageTree
    trees: list[TokenTree]
    parted: bool  # a tree for every exchange, because the template rewrites what was said before
    beyond: list[int]  # exchanges that are left out
    before: set[int]  # the nodes of the replies, where there is one tree, that exchanges left out answer
    rate: float  # tokens a character of the messages that are left out or unread, about
    unread: int  # characters of messages in the trees that alone are longer than any row: zeros stand for them
    depth: list[int]  # of every exchange: how many exchanges come before it on its path
    answered: dict[int, set[int]]  # of an exchange, the replies that another answers


def lay_out(paths: Paths, pieces: dict[int, EncodedExchange], rate: float, parted: bool = False) -> LaidOut:
    """One tree of all pieces, or where the conversation is `parted`, one of every piece that is judged."""
    source = paths.tree
    left_out = [number for number in range(len(source.exchanges)) if number not in pieces]
    before: set[int] = set()
    if parted:
        judged = [n for n in sorted(pieces) if any(reply.branch is not None for reply in source.exchanges[n].replies)]
        trees = [_tree(paths, pieces, number, {number}, f"{source.id}/{number}")[0] for number in judged]
    else:
        tree, found = _tree(paths, pieces, 0, pieces, source.id)
        trees = [tree]
        before = {found[reply] for number in left_out if (reply := source.exchanges[number].follows) in found}
    answered: dict[int, set[int]] = {}
    for number, which in paths.answers:
        answered.setdefault(number, set()).add(which)
    return LaidOut(source, trees, parted, left_out, before, rate, paths.unread, paths.depth, answered)


def _tree(
    paths: Paths, pieces: dict[int, EncodedExchange], first: int, within: Collection[int], tree_id: str
) -> tuple[TokenTree, dict[ReplyIndex | None, int]]:
    """The tree from exchange `first` on with the exchanges `within`, and the node of every reply."""
    source = paths.tree
    nodes: list[Node] = []
    found: dict[ReplyIndex | None, int] = {}
    waiting: list[Callable[[], None]] = []  # what is still to lay out, the next one last

    def ask(number: int, parent: int, before: Hash) -> None:
        """Append an exchange's prompt; `before` is the digest of its path up to `parent`."""
        nodes.append(Node(parent, pieces[number].prompt, turn=paths.depth[number]))
        asked, prompt = digested(before, pieces[number].prompt), len(nodes) - 1
        for which in reversed(range(len(pieces[number].replies))):
            waiting.append(partial(answer, (number, which), prompt, asked))

    def answer(index: ReplyIndex, prompt: int, asked: Hash) -> None:
        """Append a reply; what answers it comes next."""
        number, which = index
        reply, scored = source.exchanges[number].replies[which], pieces[number].replies[which]
        digest = digested(asked, scored)
        after = [later for later in paths.answers.get(index, ()) if later in within]
        # The template writes the trail after a last reply; what follows an answered one begins with its own.
        tokens = scored if after else [*scored, *pieces[number].trails[which]]
        found[index] = len(nodes)
        depth = nodes[prompt].turn
        if reply.branch is None:
            nodes.append(Node(prompt, tokens, 0, depth, source=number))
        else:
            name = f"{reply.name}#{digest.hexdigest()}"
            nodes.append(Node(prompt, tokens, len(scored), depth, name, number, reply.branch))
        for later in reversed(after):
            waiting.append(partial(ask, later, found[index], digest))

    ask(first, -1, hashlib.blake2s(digest_size=6))
    while waiting:
        waiting.pop()()
    pairs = [
        Pair(
            nodes[found[number, 0]].turn, found[number, choice.preferred], found[number, choice.rejected], choice.where
        )
        for number in dict.fromkeys(index[0] for index in found if index is not None)
        for choice in source.exchanges[number].choices
    ]
    return TokenTree(tree_id, tuple(nodes), tuple(sorted(pairs, key=lambda pair: pair.turn))), found


def digested(before: Hash, ids: Sequence[int]) -> Hash:
    """The digest of a path's ids, from the digest of its beginning: stale log-probs cannot match a reply's name."""
    digest = before.copy()
    digest.update(np.array(ids, np.int32).tobytes())
    return digest
