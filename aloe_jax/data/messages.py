"""Message trees: what chats, preference records and conversation trees have in common before they are tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from aloe_jax.conversation import Branch, Conversation

ReplyIndex = tuple[int, int]  # (exchange, reply) of a message tree
Hash = hashlib.blake2s


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
    """A user message, and one or more replies to it."""

    user: str
    replies: tuple[Reply, ...]  # in the order in which they are laid out
    choices: tuple[Choice, ...] = ()
    follows: ReplyIndex | None = None  # the reply that the user answers; None: opens the tree
    plain: Branch | None = None  # of the reply that was written without a hint, where that is recorded


@dataclass(frozen=True)
class MessageTree:
    """Exchanges, every one after the one that it follows; the first opens the tree."""

    id: str
    where: str  # file and record, for messages
    exchanges: tuple[Exchange, ...]
    system: str | None = None
    # Of many records that share a beginning: where that is longer than a row, they part again instead of losing turns.
    joined: bool = False

    @classmethod
    def of(cls, conversation: Conversation) -> MessageTree:
        """A conversation as a message tree. The continued reply comes last, next to its answer."""
        order: list[list[Branch]] = [
            sorted(turn.replies, key=lambda branch: branch == turn.continued) for turn in conversation.turns
        ]
        where = f"conversation {conversation.id}"
        exchanges = []
        for number, turn in enumerate(conversation.turns):
            branches, parent = order[number], conversation.parent(number)
            replies = tuple(Reply(turn.reply(name), f"{conversation.id}/{number}/{name}", name) for name in branches)
            choices: tuple[Choice, ...] = ()
            if len(branches) == 2:
                at = f"{where}, turn {number + 1}"
                choices = (Choice(branches.index("preferred"), branches.index("rejected"), at),)
            follows = None if parent is None else (parent[0], order[parent[0]].index(parent[1]))
            exchanges.append(Exchange(turn.user, replies, choices, follows, turn.plain))
        return cls(conversation.id, where, tuple(exchanges), conversation.system)

    def texts(self) -> Iterator[str]:
        """Every message once."""
        if self.system is not None:
            yield self.system
        for exchange in self.exchanges:
            yield exchange.user
            yield from (reply.text for reply in exchange.replies)


def hashed(before: Hash | None, *texts: str | None) -> Hash:
    """A hash object for texts that follow those of `before`; None is a text that is not there."""
    after = before.copy() if before is not None else hashlib.blake2s(digest_size=8)
    for text in texts:
        data = (text or "").encode()
        after.update(b"-" if text is None else b"%d:" % len(data))
        after.update(data)
    return after
