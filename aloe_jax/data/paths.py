"""The paths of a message tree as text, and which of its exchanges can be in a row at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aloe_jax.conversation import Message
from aloe_jax.data.confined import Job, Node
from aloe_jax.data.messages import MessageTree
from aloe_jax.data.rendering import Renderer
from aloe_jax.data.trees import Place

SHORTENED = 1000  # characters that are rendered of a message that alone is longer than a row
BATCH = 4_000_000  # characters of rendered text that are asked for at a time


@dataclass(frozen=True, slots=True)
class Written:
    """An exchange as its chat template writes it, from the beginning of the chat on."""

    prompt: str  # up to its replies
    replies: list[str]  # through each reply, its end of turn included


class Paths:
    """Renders exchanges of a message tree, each as the path that leads to it.

    Text that looks like a control token has `mark` in it (see `Renderer.mark`); a system message that the template
    does not take is in the first user message.
    """

    def __init__(self, renderer: Renderer, talk: MessageTree):
        self.talk, self._renderer = talk, renderer
        first, *rest = talk.exchanges
        asked = [renderer.system_folded(first.asked), *(list(exchange.asked) for exchange in rest)]
        said: list[Message] = [message for messages in asked for message in messages]
        said += [{"role": "assistant", "content": r.text} for exchange in talk.exchanges for r in exchange.replies]
        marked, self.mark = renderer.mark(said)
        each = iter(marked)
        self._asked: list[list[Message]] = [[next(each) for _ in messages] for messages in asked]
        self._replies: list[list[str]] = [[next(each)["content"] for _ in e.replies] for e in talk.exchanges]
        self.answers: dict[Place, list[int]] = {}  # the exchanges that answer a reply
        self.unread = 0  # characters of messages that `shorten` found too long, whose exchanges and replies are
        self.unread_prompts: set[int] = set()
        self.unread_replies: set[Place] = set()
        self.depth: list[int] = []  # how many exchanges lie before each on its path
        self._length: list[int] = []  # characters of the messages on the path through the longest reply
        for number, exchange in enumerate(talk.exchanges):
            place = exchange.follows
            if place is not None:
                self.answers.setdefault(place, []).append(number)
            self.depth.append(0 if place is None else self.depth[place[0]] + 1)
            own = sum(len(message["content"]) for message in asked[number])
            own += max((len(reply.text) for reply in exchange.replies), default=0)
            self._length.append(own + (0 if place is None else self._length[place[0]]))

    def texts_of(self, number: int) -> tuple[list[str], list[str]]:
        """What the user says in an exchange (in the first with a system message), and the replies."""
        return [message["content"] for message in self._asked[number]], self._replies[number]

    def shorten(self, number: int, is_too_long: Callable[[str], bool]) -> None:
        """Render only the beginning of messages of an exchange that alone are too long, and remember which."""
        asked, replies = self._asked[number], self._replies[number]
        for place, message in enumerate(asked):
            if is_too_long(message["content"]):
                self.unread += len(message["content"])
                asked[place] = {**message, "content": message["content"][:SHORTENED]}
                self.unread_prompts.add(number)
        for which, text in enumerate(replies):
            if is_too_long(text):
                self.unread += len(text)
                replies[which] = text[:SHORTENED]
                self.unread_replies.add((number, which))

    def below(self, numbers: Sequence[int], levels: int) -> list[int]:
        """These exchanges and what answers their replies, so many levels of it."""
        found, level = list(numbers), list(numbers)
        for _ in range(levels - 1):
            level = [
                later
                for number in level
                for which in range(len(self.talk.exchanges[number].replies))
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
        replies: dict[Place, int] = {}
        jobs: list[Job] = []

        def reply(place: Place) -> int:
            if place not in replies:
                replies[place] = len(nodes)
                nodes.append((ends[place[0]], "assistant", self._replies[place[0]][place[1]]))
            return replies[place]

        for number in numbers:
            path = [number]  # of exchanges that have no node yet, the deepest first
            while path[-1] not in ends:
                follows = self.talk.exchanges[path[-1]].follows
                if follows is None:
                    break
                path.append(follows[0])
            for step in reversed(path):
                if step in ends:
                    continue
                follows = self.talk.exchanges[step].follows
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
