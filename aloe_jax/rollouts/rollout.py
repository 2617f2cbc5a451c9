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


ReplyPosition = tuple[int, int]  # of a reply in a rollout: number of its group, and which of its siblings


@dataclass
class Group:
    """A user message and the replies that were drawn to it."""

    user: str
    prompt: tuple[int, ...]  # tokens from the end of the reply before it up to where replies begin
    siblings: tuple[Sibling, ...]  # G
    continued: tuple[int, ...]  # which of them the conversation goes on from; the first of them is the main line's
    after: ReplyPosition | None = None  # the reply that the user answers; None at the beginning
    turn: int = 0  # how many turns come before it
    components: list[dict[RewardName, float]] = field(default_factory=list)  # rewards by name, of every sibling
    rewards: np.ndarray | None = None  # float64 [G], weighted and added up; None: no reward could be had
    dropped: str | None = None  # why not


@dataclass
class Rollout:
    """A conversation by its groups, in the order in which they were drawn: one a turn, or more where it branches."""

    id: str
    persona: Persona
    groups: list[Group] = field(default_factory=list)
    ended: str | None = None  # why it has fewer turns than were asked for

    def path(self, after: ReplyPosition | None) -> list[tuple[Group, Sibling]]:
        """The groups up to a reply, with the reply that was continued in each."""
        path: list[tuple[Group, Sibling]] = []
        while after is not None:
            group = self.groups[after[0]]
            path.append((group, group.siblings[after[1]]))
            after = group.after
        return path[::-1]

    def messages(self, after: ReplyPosition | None) -> list[Message]:
        """All messages up to a reply, which is the last of them."""
        messages: list[Message] = []
        for group, reply in self.path(after):
            messages.append({"role": "user", "content": group.user})
            messages.append({"role": "assistant", "content": reply.text})
        return messages

    def history(self) -> list[Message]:
        """All messages of the main line."""
        next_group = {group.after: number for number, group in enumerate(self.groups)}
        after: ReplyPosition | None = None
        while (number := next_group.get(after)) is not None:
            after = number, self.groups[number].continued[0]
        return self.messages(after)

    def tokens(self, after: ReplyPosition | None, stop: int) -> list[int]:
        """The token ids up to the end of a reply; `stop` closes a reply's turn."""
        return [token for group, reply in self.path(after) for token in (*group.prompt, *closed(reply, stop))]

    def size(self) -> int:
        """Tokens of the tree, at most."""
        return sum(len(group.prompt) + sum(len(one.tokens) + 1 for one in group.siblings) for group in self.groups)

    def tree(self, stop: int) -> TokenTree:
        """The token tree: siblings side by side, continued ones last, each with its answer and what follows.

        Reply `g` of group `k` has the id "<rollout>/<k>/<g>".
        """
        nodes: list[Node] = []
        waiting: list[tuple[int, int, int]] = []  # group, sibling, and the node that the sibling follows
        answer_to = {group.after: number for number, group in enumerate(self.groups)}

        def begin(number: int, parent: int) -> None:
            group = self.groups[number]
            nodes.append(Node(parent, group.prompt, turn=group.turn))
            order = sorted(range(len(group.siblings)), key=lambda g: g in group.continued)
            waiting.extend((number, g, len(nodes) - 1) for g in reversed(order))

        begin(0, -1)
        while waiting:
            number, g, prompt = waiting.pop()
            group, sibling = self.groups[number], self.groups[number].siblings[g]
            tokens = closed(sibling, stop) if g in group.continued else sibling.tokens
            nodes.append(Node(prompt, tokens, len(sibling.tokens), group.turn, f"{self.id}/{number}/{g}"))
            if (answer := answer_to.get((number, g))) is not None:
                begin(answer, len(nodes) - 1)
        return TokenTree(self.id, tuple(nodes), ())


def closed(sibling: Sibling, stop: int) -> Sequence[int]:
    """A reply's ids, its turn closed for the model where it was cut or ended by another id; that is not learned."""
    return sibling.tokens if sibling.tokens[-1:] == (stop,) else (*sibling.tokens, stop)
