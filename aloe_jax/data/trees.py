"""Token trees: a conversation tree whose every token stands once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from aloe_jax.conversation import Branch


@dataclass(frozen=True)
class Node:
    """A run of tokens with one parent: a user message with the prompt for its reply, or one reply.

    `scored` is how many of its first tokens are the reply with its end of turn (0: not a reply); what
    follows them, such as a newline after the end of turn, is only context.
    """

    parent: int  # index in TokenTree.nodes, -1 at a root
    tokens: tuple[int, ...]
    scored: int = 0
    turn: int = 0  # depth: how many turns lie before it on its path
    id: str = ""  # of a reply: "<conversation>/<turn>/<branch>", what log-probs are stored under
    source: int = 0  # of a reply: its turn's number in the conversation's list; on a main line equal to `turn`
    branch: Branch | None = None  # of a reply


@dataclass(frozen=True)
class Pair:
    """The two replies of a turn, as indices in TokenTree.nodes."""

    turn: int  # depth
    preferred: int
    rejected: int


@dataclass(frozen=True)
class TokenTree:
    """Nodes in depth-first order (a parent before its children, a subtree in one piece) and their pairs."""

    id: str
    nodes: tuple[Node, ...]
    pairs: tuple[Pair, ...]

    @cached_property
    def length(self) -> int:
        """Tokens in the tree, each counted once."""
        return sum(len(node.tokens) for node in self.nodes)

    def flatten(self) -> FlatTree:
        """Lay the tree out as one sequence, with the fields that rebuild its shape."""
        starts = np.cumsum([0] + [len(node.tokens) for node in self.nodes])
        ends = starts[1:].copy()
        for index in range(len(self.nodes) - 1, -1, -1):  # children before parents
            parent = self.nodes[index].parent
            if parent >= 0:
                ends[parent] = max(ends[parent], ends[index])
        length = int(starts[-1])
        flat = FlatTree(*(np.zeros(length, np.int32) for _ in range(5)))
        depth = np.zeros(len(self.nodes), np.int64)  # tokens on the path up to and including the node
        for index, node in enumerate(self.nodes):
            start, stop = starts[index], starts[index + 1]
            before = depth[node.parent] if node.parent >= 0 else 0
            depth[index] = before + len(node.tokens)
            flat.tokens[start:stop] = node.tokens
            flat.positions[start:stop] = before + np.arange(stop - start)
            flat.subtree_end[start:stop] = ends[index]
            flat.parent[start:stop] = np.arange(start - 1, stop - 1)
            # Nothing comes before a root: it points to itself, and is never scored.
            flat.parent[start] = starts[node.parent + 1] - 1 if node.parent >= 0 else start
            flat.node[start : start + node.scored] = index + 1
        return flat

    def keep_replies(self, wanted: Collection[int]) -> TokenTree:
        """Drop replies that are neither wanted nor continued; score only the wanted ones. Pairs are dropped."""
        parents = {node.parent for node in self.nodes}
        kept: dict[int, int] = {-1: -1}
        nodes: list[Node] = []
        for index, node in enumerate(self.nodes):
            if node.scored and index not in wanted and index not in parents:
                continue
            kept[index] = len(nodes)
            scored = node.scored if index in wanted else 0
            nodes.append(replace(node, parent=kept[node.parent], scored=scored))
        return TokenTree(self.id, tuple(nodes), ())

    @property
    def turns(self) -> int:
        """Turns on its longest path."""
        return 1 + max(node.turn for node in self.nodes)

    def first_turns(self, turns: int) -> TokenTree:
        """The tree without the turns deeper than `turns`."""
        kept: dict[int, int] = {-1: -1}
        nodes: list[Node] = []
        for index, node in enumerate(self.nodes):
            if node.turn < turns:
                kept[index] = len(nodes)
                nodes.append(replace(node, parent=kept[node.parent]))
        pairs = (Pair(p.turn, kept[p.preferred], kept[p.rejected]) for p in self.pairs if p.turn < turns)
        return TokenTree(self.id, tuple(nodes), tuple(pairs))

    def fit(self, length: int) -> TokenTree | None:
        """The longest version in whole turns of at most `length` tokens, None when not even one turn fits."""
        tree = self
        while tree.length > length:
            if tree.turns == 1:
                return None
            tree = tree.first_turns(tree.turns - 1)
        return tree


@dataclass(frozen=True)
class FlatTree:
    """A token tree as one sequence; every array is int32 [T]."""

    tokens: np.ndarray
    positions: np.ndarray  # depth on the token's own path
    subtree_end: np.ndarray  # query q sees key k iff k <= q < subtree_end[k]
    parent: np.ndarray  # index of the token before this one on its path
    node: np.ndarray  # 1 + index of the reply that the token is scored for, or 0
