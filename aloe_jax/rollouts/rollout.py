"""A rollout: one conversation of the policy with a simulated user, with all replies that it drew, as a token tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from aloe_jax.conversation import Message, Persona
from aloe_jax.data.trees import Node, TokenTree
from aloe_jax.rollouts.settings import RewardName


@dataclass(frozen=True)
class Sibling:
    """One of the replies that were drawn to the same user message."""

    tokens: tuple[int, ...]  # as they were drawn: nothing is decoded and encoded again
    logps: tuple[float, ...]  # in nats, of the uncut distribution at temperature 1
    text: str
    ended: bool  # with an end of turn; otherwise it was cut

    @property
    def looks(self) -> tuple[str, int, bool]:
        """What rewards read of it: replies that agree in this earn the same."""
        return self.text, len(self.tokens), self.ended


@dataclass
class Group:
    """A user message and the replies that were drawn to it."""

    user: str
    prompt: tuple[int, ...]  # tokens from the end of the reply before it up to where replies begin
    siblings: tuple[Sibling, ...]  # G
    continued: int  # which of them the conversation goes on from
    components: list[dict[RewardName, float]] = field(default_factory=list)  # rewards by name, of every sibling
    rewards: np.ndarray | None = None  # float64 [G], weighted and added up; None: no reward could be had
    dropped: str | None = None  # why not


@dataclass
class Rollout:
    """A conversation by its groups, one a turn."""

    id: str
    persona: Persona
    groups: list[Group] = field(default_factory=list)
    ended: str | None = None  # why it has fewer turns than were asked for

    def history(self) -> list[Message]:
        """All messages along the replies that were continued."""
        messages: list[Message] = []
        for group in self.groups:
            messages.append({"role": "user", "content": group.user})
            messages.append({"role": "assistant", "content": group.siblings[group.continued].text})
        return messages

    def path(self, stop: int) -> list[int]:
        """The token ids along the replies that were continued; `stop` closes a reply's turn."""
        ids: list[int] = []
        for group in self.groups:
            ids += [*group.prompt, *closed(group.siblings[group.continued], stop)]
        return ids

    def size(self) -> int:
        """Tokens of the tree, at most."""
        return sum(len(group.prompt) + sum(len(one.tokens) + 1 for one in group.siblings) for group in self.groups)

    def tree(self, stop: int) -> TokenTree:
        """The token tree: siblings side by side, the continued one last, next to its answer.

        Reply `g` of turn `k` has the id "<rollout>/<k>/<g>".
        """
        nodes: list[Node] = []
        parent = -1
        for turn, group in enumerate(self.groups):
            prompt = len(nodes)
            nodes.append(Node(parent, group.prompt, turn=turn))
            for number in sorted(range(len(group.siblings)), key=lambda number: number == group.continued):
                sibling = group.siblings[number]
                tokens = closed(sibling, stop) if number == group.continued else sibling.tokens
                nodes.append(Node(prompt, tokens, len(sibling.tokens), turn, f"{self.id}/{turn}/{number}"))
            parent = len(nodes) - 1
        return TokenTree(self.id, tuple(nodes), ())


def closed(sibling: Sibling, stop: int) -> Sequence[int]:
    """A reply's ids, its turn closed for the model where it was cut or ended by another id; that is not learned."""
    return sibling.tokens if sibling.tokens[-1:] == (stop,) else (*sibling.tokens, stop)
