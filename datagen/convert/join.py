"""Puts preference rows, each with its whole history, together into the conversation trees that they came from."""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from aloe_jax.conversation import NOT_RECORDED, Branch, Conversation, Persona, Turn


class RowGroup(NamedTuple):
    """What rows of one conversation have in common besides their texts."""

    persona: Persona | None
    name: str | None  # the conversation's id
    system: str | None


@dataclass(frozen=True)
class Row:
    """A pair of replies after the dialogue users[0], replies[0], …, users[-1]."""

    where: str
    position: int  # in the file
    group: RowGroup
    users: list[str]
    replies: list[str]  # one fewer than users
    preferred: str
    rejected: str


@dataclass(eq=False)
class _Node:
    """A turn while the tree grows."""

    user: str
    replies: dict[Branch, str]
    position: int
    parent: tuple[_Node, Branch] | None
    answers: dict[Branch, _Node] = field(default_factory=dict)

    @property
    def continued(self) -> Branch:
        """The reply that the main line follows: of two, the one whose answer comes first in the file."""
        return min(self.answers, key=lambda branch: self.answers[branch].position, default="preferred")


def join(rows: Iterable[Row]) -> Iterator[Conversation]:
    """Yield the trees of all rows, in the order of their first rows."""
    forest = _Forest()
    # A turn's row is shorter than those that continue it, so that by length parents come before children.
    for row in sorted(rows, key=lambda row: (len(row.users), row.position)):
        forest.add(row)
    names: set[str] = set()
    for root, group in sorted(forest.roots, key=lambda item: _first(item[0])):
        yield _conversation(root, group, names)


class _Forest:
    def __init__(self) -> None:
        self.roots: list[tuple[_Node, RowGroup]] = []
        self._paths: dict[tuple[int, str, str], int] = {}  # a dialogue's number: (the number without its end, the end)
        self._groups: dict[RowGroup, int] = {}
        # By the dialogue up to and including one reply: the turns, in the order added, that gave this reply there.
        self._turns: defaultdict[int, list[tuple[_Node, Branch]]] = defaultdict(list)

    def add(self, row: Row) -> None:
        """Hang the row's turn where its history ends, with turns of one reply for what has no row."""
        # Negative numbers stand for groups, so that they never collide with paths.
        start = -1 - self._groups.setdefault(row.group, len(self._groups))
        dialogue = [start]
        for user, reply in zip(row.users, row.replies, strict=False):
            dialogue.append(self._path(dialogue[-1], user, reply))
        depth, parent = self._deepest(dialogue, row.position)
        for level in range(depth, len(row.users)):
            last = level == len(row.users) - 1
            replies: dict[Branch, str] = {"preferred": row.preferred if last else row.replies[level]}
            if last:
                replies["rejected"] = row.rejected
            node = _Node(row.users[level], replies, row.position, parent)
            if parent is None:
                self.roots.append((node, row.group))
            else:
                parent[0].answers[parent[1]] = node
            for branch, reply in replies.items():
                self._turns[self._path(dialogue[level], node.user, reply)].append((node, branch))
            if not last:
                parent = (node, "preferred")

    def _path(self, before: int, user: str, reply: str) -> int:
        return self._paths.setdefault((before, user, reply), len(self._paths))

    def _deepest(self, dialogue: list[int], position: int) -> tuple[int, tuple[_Node, Branch] | None]:
        """Where the history ends: the unanswered reply that has most of it, (turns before it and itself, reply)."""
        for depth in range(len(dialogue) - 1, 0, -1):
            unanswered = [reply for reply in self._turns[dialogue[depth]] if reply[1] not in reply[0].answers]
            if unanswered:
                # Of equal dialogues take the one just before the row in the file, where its parent would be.
                return depth, max(
                    unanswered, key=lambda reply: (reply[0].position < position, -abs(position - reply[0].position))
                )
        return 0, None


def _first(root: _Node) -> int:
    """The position of the first row of a tree."""
    first, waiting = root.position, [root]
    while waiting:
        node = waiting.pop()
        first = min(first, node.position)
        waiting.extend(node.answers.values())
    return first


def _conversation(root: _Node, group: RowGroup, names: set[str]) -> Conversation:
    """The tree as a Conversation: the main line first, then each branch with what continues it."""
    turns: list[Turn] = []
    numbers: dict[_Node, int] = {}
    branches: list[tuple[int, int, _Node]] = [(root.position, 0, root)]
    while branches:
        node: _Node | None = heapq.heappop(branches)[2]
        while node is not None:
            follows = None if node.parent is None else (numbers[node.parent[0]], node.parent[1])
            if turns and follows == (len(turns) - 1, turns[-1].continued):  # as it is without being written
                follows = None
            numbers[node] = len(turns)
            turns.append(
                Turn(
                    user=node.user,
                    preferred=node.replies["preferred"],
                    rejected=node.replies.get("rejected"),
                    continued=node.continued,
                    follows=follows and follows[0],
                    after=follows and follows[1],
                )
            )
            for branch, answer in node.answers.items():
                if branch != node.continued:
                    heapq.heappush(branches, (answer.position, len(turns), answer))
            node = node.answers.get(node.continued)
    name = group.name or f"trl-{root.position:06d}-{hashlib.sha256(root.user.encode()).hexdigest()[:12]}"
    unique, copies = name, 1
    while unique in names:  # rows under one id that are no one tree
        copies += 1
        unique = f"{name}.{copies}"
    names.add(unique)
    return Conversation(id=unique, persona=group.persona or NOT_RECORDED, system=group.system, turns=turns)
