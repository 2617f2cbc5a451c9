"""Token trees: a conversation tree whose every token stands once."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from aloe_jax.conversation import Branch


@dataclass(frozen=True, slots=True)
class Beyond:
    """What of a conversation is not laid out, because what leads to it is longer than any row."""

    tokens: int  # about
    turns: int  # on the longest path of the whole conversation
    units: int  # pairs, or replies to learn from


@dataclass(frozen=True, slots=True)
class Node:
    """A run of tokens with one parent: a user message with the prompt for its reply, or one reply.

    `scored` is how many of its first tokens are the reply with its end of turn (0: not a reply that counts); what
    follows them, such as a newline after the end of turn, is only context.
    """

    parent: int  # index in TokenTree.nodes, -1 at a root
    tokens: Sequence[int] = field(hash=False)  # stored as an array of 4-byte integers, whatever is given
    scored: int = 0
    turn: int = 0  # depth: how many turns come before it on its path
    id: str = ""  # of a reply that counts: its name and a digest of its path, what log-probs are stored under
    source: int = 0  # of a reply: its turn's number in the conversation's list; on a main line equal to `turn`
    branch: Branch | None = None  # of a reply that counts

    def __post_init__(self) -> None:
        # A tuple of Python integers takes ten times the room.
        if not isinstance(self.tokens, array):
            object.__setattr__(self, "tokens", array("i", self.tokens))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to the same prompt, as indices in TokenTree.nodes."""

    turn: int  # depth
    preferred: int
    rejected: int
    where: str = field(default="", compare=False)  # the record that it comes from, for messages


@dataclass(frozen=True)
class TokenTree:
    """Nodes in depth-first order (a parent before its children, a subtree in one piece) and their pairs."""

    id: str
    nodes: tuple[Node, ...]
    pairs: tuple[Pair, ...]
    beyond: Beyond | None = None  # what is longer than any row; where nothing else is there, the tree has no nodes

    @cached_property
    def length(self) -> int:
        """Tokens in the tree, every one counted once."""
        return sum(len(node.tokens) for node in self.nodes)

    @property
    def whole(self) -> int:
        """Tokens of the conversation, about, where not all of it is laid out."""
        return self.length + (0 if self.beyond is None else self.beyond.tokens)

    def keep_replies(
        self, wanted: Collection[int], context: Collection[int] = (), pairs: Iterable[Pair] = ()
    ) -> TokenTree:
        """The wanted replies, `context` and what leads to them; only the wanted ones are scored, with these `pairs`."""
        wanted = set(wanted)
        return self._part(sorted(self._paths({*wanted, *context})), wanted, pairs)

    @property
    def turns(self) -> int:
        """Turns on its longest path."""
        laid_out = 1 + max((node.turn for node in self.nodes), default=-1)
        return laid_out if self.beyond is None else max(laid_out, self.beyond.turns)

    def first_turns(self, turns: int) -> TokenTree:
        """The tree without the turns deeper than `turns`."""
        indices = [index for index, node in enumerate(self.nodes) if node.turn < turns]
        return self._part(indices, range(len(self.nodes)), (pair for pair in self.pairs if pair.turn < turns))

    def _part(self, indices: Sequence[int], scored: Container[int], pairs: Iterable[Pair]) -> TokenTree:
        """The nodes `indices`, a parent before its children, with these `pairs`; no node beside `scored` is scored."""
        kept: dict[int, int] = {-1: -1}
        nodes: list[Node] = []
        for index in indices:
            node = self.nodes[index]
            kept[index] = len(nodes)
            nodes.append(replace(node, parent=kept[node.parent], scored=node.scored if index in scored else 0))
        renumbered = (replace(pair, preferred=kept[pair.preferred], rejected=kept[pair.rejected]) for pair in pairs)
        return TokenTree(self.id, tuple(nodes), tuple(renumbered))

    def fit(self, length: int) -> TokenTree | None:
        """The longest version in whole turns of at most `length` tokens, None when no reply that counts fits."""
        if self.length <= length and self.beyond is None:
            return self
        sizes = [0] * (1 + max((node.turn for node in self.nodes), default=-1))
        for node in self.nodes:
            sizes[node.turn] += len(node.tokens)
        fitting = sum(size <= length for size in itertools.accumulate(sizes))
        tree = self.first_turns(fitting)
        return tree if any(node.scored for node in tree.nodes) else None

    def split(self, length: int) -> list[TokenTree]:
        """Trees of at most `length` tokens that together hold every pair, and every scored reply that is in none.

        What several of them need of the shared prefixes is repeated as context. A pair that is too long with its
        path is a tree of its own, for `fit` to judge; so is each of what is beyond any row.
        """
        if self.length <= length and self.beyond is None:
            return [self]
        paired = {node for pair in self.pairs for node in (pair.preferred, pair.rejected)}
        units: list[tuple[tuple[int, ...], tuple[Pair, ...]]] = [
            ((pair.preferred, pair.rejected), (pair,)) for pair in self.pairs
        ]
        units += [((i,), ()) for i, node in enumerate(self.nodes) if node.scored and i not in paired]
        trees: list[TokenTree] = []
        taken: set[int] = set()  # nodes of the tree that is being filled
        room, wanted, pairs = length, list[int](), list[Pair]()
        for replies, pair in sorted(units, key=lambda unit: max(unit[0])):  # depth-first: neighbours share most
            more = self._paths(replies) - taken
            size = sum(len(self.nodes[node].tokens) for node in more)
            if wanted and size > room:
                trees.append(self.keep_replies(wanted, pairs=pairs))
                more = self._paths(replies)
                size = sum(len(self.nodes[node].tokens) for node in more)
                taken, room, wanted, pairs = set(), length, [], []
            taken |= more
            room -= size
            wanted += replies
            pairs += pair
        if wanted:
            trees.append(self.keep_replies(wanted, pairs=pairs))
        return [*trees, *self.unlaid()]

    def unlaid(self) -> list[TokenTree]:
        """A tree without nodes for each pair, or reply to learn from, that is beyond any row."""
        if self.beyond is None:
            return []
        each = replace(self.beyond, tokens=self.whole, units=1)
        return [TokenTree(self.id, (), (), each)] * self.beyond.units

    def _paths(self, ends: Iterable[int]) -> set[int]:
        """All nodes on the paths to these."""
        nodes: set[int] = set()
        for node in ends:
            while node >= 0 and node not in nodes:
                nodes.add(node)
                node = self.nodes[node].parent  # noqa: PLW2901 - on to the node before it
        return nodes
