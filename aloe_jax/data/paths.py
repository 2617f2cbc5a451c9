"""The paths of a message tree as text, and which of its exchanges can be in a row at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from aloe_jax.conversation import Message
from aloe_jax.data.confined import Job, Node
from aloe_jax.data.messages import MessageTree, ReplyIndex
from aloe_jax.data.rendering import Renderer

SHORTENED = 1000  # characters that are rendered of a message that alone is longer than a row
BATCH = 4_000_000  # characters of rendered text that are asked for at a time


@dataclass(frozen=True, slots=True)
class Written:
    """An exchange as its chat template writes it, from the beginning of the chat on."""

    prompt: str  # up to its replies
    replies: list[str]  # through each reply, its end of turn included


class Paths:
    """Renders exchanges of a message tree, every one as the path that leads to it.

    Text that looks like a control token has `mark` in it (see `Renderer.mark`). The system message is before the first
    user message, or with `system_in_user` in it (see `Renderer.system_folded`).
    """

    def __init__(self, renderer: Renderer, tree: MessageTree, system_in_user: bool = False):
        self.tree, self._renderer = tree, renderer
        asked: list[list[Message]] = [[{"role": "user", "content": exchange.user}] for exchange in tree.exchanges]
        if tree.system is not None:
            opening: list[Message] = [{"role": "system", "content": tree.system}, *asked[0]]
            asked[0] = renderer.system_folded(opening, system_in_user)
        messages = [message for opening in asked for message in opening]
        messages += [{"role": "assistant", "content": r.text} for exchange in tree.exchanges for r in exchange.replies]
        marked, self.mark = renderer.mark(messages)
        rest = iter(marked)
        self._asked: list[list[Message]] = [[next(rest) for _ in opening] for opening in asked]
        self._replies: list[list[str]] = [[next(rest)["content"] for _ in e.replies] for e in tree.exchanges]
        self.answers: dict[ReplyIndex, list[int]] = {}  # the exchanges that answer a reply
        self.unread = 0  # characters of messages that `shorten` found too long, whose exchanges and replies are
        self.unread_prompts: set[int] = set()
        self.unread_replies: set[ReplyIndex] = set()
        self.depth: list[int] = []  # of every exchange: how many exchanges come before it on its path
        self._length: list[int] = []  # characters of the messages on the path through the longest reply
        for number, exchange in enumerate(tree.exchanges):
            follows = exchange.follows
            if follows is not None:
                self.answers.setdefault(follows, []).append(number)
            self.depth.append(0 if follows is None else self.depth[follows[0]] + 1)
            own = sum(len(message["content"]) for message in asked[number])
            own += max((len(reply.text) for reply in exchange.replies), default=0)
            self._length.append(own + (0 if follows is None else self._length[follows[0]]))

    def prompt_texts(self, number: int) -> list[str]:
        """What the user says in an exchange; in the first with a system message."""
        return [message["content"] for message in self._asked[number]]

    def shorten(self, number: int, is_too_long: Callable[[str], bool]) -> None:
        """Render only the beginning of messages of an exchange that alone are too long, and remember which."""
        asked, replies = self._asked[number], self._replies[number]
        for index, message in enumerate(asked):
            if is_too_long(message["content"]):
                self.unread += len(message["content"])
                asked[index] = {**message, "content": message["content"][:SHORTENED]}
                self.unread_prompts.add(number)
        for which, text in enumerate(replies):
            if is_too_long(text):
                self.unread += len(text)
                replies[which] = text[:SHORTENED]
                self.unread_replies.add((number, which))

    def unread_texts(self) -> list[str]:
        """What is rendered of the messages that are too long."""
        texts = [text for number in self.unread_prompts for text in self.prompt_texts(number)]
        return texts + [self._replies[number][which] for number, which in self.unread_replies]

    def between(self, number: int, known: Collection[int]) -> tuple[ReplyIndex | None, int]:
        """The first reply on the way up from an exchange that is of a `known` one; characters of the messages between.

        The exchange's own user message counts, its replies do not.
        """
        characters = sum(map(len, self.prompt_texts(number)))
        parent = self.tree.exchanges[number].follows
        while parent is not None and parent[0] not in known:
            characters += sum(map(len, self.prompt_texts(parent[0])))
            characters += len(self._replies[parent[0]][parent[1]])
            parent = self.tree.exchanges[parent[0]].follows
        return parent, characters

    def below(self, numbers: Sequence[int], levels: int) -> list[int]:
        """These exchanges and what answers their replies, so many levels of it."""
        found, level = list(numbers), list(numbers)
        for _ in range(levels - 1):
            level = [
                later
                for number in level
                for which in range(len(self.tree.exchanges[number].replies))
                for later in self.answers.get((number, which), ())
            ]
            found += level
        return found

    def write(self, numbers: Sequence[int]) -> dict[int, Written]:
        """Render exchanges. Raises AloeError when the template refuses the messages."""
        found: dict[int, Written] = {}
        while len(found) < len(numbers):
            taken: list[int] = []
            size = 0
            for number in numbers[len(found) :]:
                size += self._length[number] * (1 + len(self._replies[number]))
                if taken and size > BATCH:
                    break
                taken.append(number)
            found |= self._write(taken)
        return found

    def _write(self, numbers: Sequence[int]) -> dict[int, Written]:
        nodes: list[Node] = []
        ends: dict[int, int] = {}  # of an exchange: the node of its last message before the replies
        replies: dict[ReplyIndex, int] = {}
        jobs: list[Job] = []

        def reply(index: ReplyIndex) -> int:
            if index not in replies:
                replies[index] = len(nodes)
                nodes.append((ends[index[0]], "assistant", self._replies[index[0]][index[1]]))
            return replies[index]

        for number in numbers:
            path = [number]  # of exchanges that have no node yet, the deepest first
            while path[-1] not in ends:
                follows = self.tree.exchanges[path[-1]].follows
                if follows is None:
                    break
                path.append(follows[0])
            for step in reversed(path):
                if step in ends:
                    continue
                follows = self.tree.exchanges[step].follows
                before = -1 if follows is None else reply(follows)
                for message in self._asked[step]:
                    nodes.append((before, message["role"], message["content"]))
                    before = len(nodes) - 1
                ends[step] = before
            jobs.append((ends[number], True))
            jobs += [(reply((number, which)), False) for which in range(len(self._replies[number]))]
        texts = iter(self._renderer.texts(nodes, jobs))
        return {
            number: Written(next(texts), [self._renderer.closed(next(texts)) for _ in self._replies[number]])
            for number in numbers
        }
