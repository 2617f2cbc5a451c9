"""Message trees: what chats, preference records and conversation trees have in common before they are tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aloe_jax.conversation import Branch, Conversation, Message


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of the assistant."""

    text: str
    name: str = ""  # what its log-probs are stored under, before the digest of its token ids
    branch: Branch | None = None  # None: history that no record judges, so it is context and nothing is learnt from it


@dataclass(frozen=True, slots=True)
class Choice:
    """A judgement between two replies of an exchange, as indices in Exchange.replies."""

    preferred: int
    rejected: int
    where: str  # the record that it comes from


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the user says next, and one or more replies to it."""

    asked: tuple[Message, ...]  # a user message, in a first exchange perhaps behind a system message
    replies: tuple[Reply, ...]  # in the order in which they are laid out
    choices: tuple[Choice, ...] = ()
    follows: tuple[int, int] | None = None  # (exchange, reply) that the user answers; None: opens the tree
    plain: Branch | None = None  # of the reply that was written without a hint, where that is recorded


@dataclass(frozen=True)
class MessageTree:
    """Exchanges, each after the one that it follows; the first opens the tree."""

    id: str
    where: str  # file and record, for messages
    exchanges: tuple[Exchange, ...]
    # Of many records that share a beginning: where that is longer than a row, they part again instead of losing turns.
    joined: bool = False

    @classmethod
    def of(cls, talk: Conversation | MessageTree) -> MessageTree:
        """A conversation as a message tree. The reply that the dialogue followed comes last, next to its answer."""
        if isinstance(talk, MessageTree):
            return talk
        order: list[list[Branch]] = [
            sorted(turn.replies, key=lambda branch: branch == turn.continued) for turn in talk.turns
        ]
        where = f"conversation {talk.id}"
        exchanges = []
        for number, turn in enumerate(talk.turns):
            here, place = order[number], talk.place(number)
            replies = tuple(Reply(turn.reply(branch), f"{talk.id}/{number}/{branch}", branch) for branch in here)
            choices: tuple[Choice, ...] = ()
            if len(here) == 2:
                at = f"{where}, turn {number + 1}"
                choices = (Choice(here.index("preferred"), here.index("rejected"), at),)
            follows = None if place is None else (place[0], order[place[0]].index(place[1]))
            asked: Message = {"role": "user", "content": turn.user}
            exchanges.append(Exchange((asked,), replies, choices, follows, turn.plain))
        return cls(talk.id, where, tuple(exchanges))

    def messages(self, exchange: int, reply: int) -> list[Message]:
        """The path through a reply."""
        parts: list[Sequence[Message]] = []
        place: tuple[int, int] | None = (exchange, reply)
        while place is not None:
            here = self.exchanges[place[0]]
            parts.append((*here.asked, {"role": "assistant", "content": here.replies[place[1]].text}))
            place = here.follows
        return [message for part in reversed(parts) for message in part]

    def system_in_user(self) -> MessageTree | None:
        """The tree with its system message before the first user message's text; None where it has none."""
        first, *rest = self.exchanges
        if len(first.asked) == 1:
            return None
        system, user = (message["content"] for message in first.asked)
        asked: Message = {"role": "user", "content": f"{system}\n\n{user}"}
        return replace(self, exchanges=(replace(first, asked=(asked,)), *rest))

    def texts(self) -> Iterator[str]:
        """Every message once."""
        for exchange in self.exchanges:
            yield from (message["content"] for message in exchange.asked)
            yield from (reply.text for reply in exchange.replies)


def hashed(before: Any, *texts: str | None) -> Any:
    """A hash object for texts that follow those of `before`; None is a text that is not there."""
    after = before.copy() if before is not None else hashlib.blake2s(digest_size=8)
    for text in texts:
        data = (text or "").encode()
        after.update(b"-" if text is None else b"%d:" % len(data))
        after.update(data)
    return after
