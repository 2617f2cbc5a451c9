"""The task of on-policy RL: conversations with scripted user messages, replies in groups, a rating of every reply.

Runs in every contestant's environment: standard library only.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import gcd

from tests.benchmarks.peers.task import END, Task, word

USER, ASSISTANT, FIRST = 2, 3, 4  # ids: what begins a user's message and a reply, the first ordinary word
MESSAGE, SPREAD = 14, 0.3  # words of an average message (in the demo, too), and how far lengths stray
TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{word(USER)} ' if message['role'] == 'user' else '{word(ASSISTANT)} ' }}}}"
    f"{{{{ message['content'] }}}} {word(END)} {{% endfor %}}"
    f"{{% if add_generation_prompt %}}{word(ASSISTANT)} {{% endif %}}"
)


@dataclass(frozen=True)
class RLTask(Task):
    """`conversations` a step, in each `turns` groups of `group` replies; the model has the demo's shape.

    Weights are random, but for the end of a reply, which the model draws with a chance of 1 in `mean_reply` at every
    token: about as long are the demo's replies. With `mean_reply` 0 it is a word like others, and replies are cut.
    """

    vocab: int = 1200
    conversations: int = 16
    layers: int = 2
    width: int = 128
    query_heads: int = 8
    kv_heads: int = 8
    head_size: int = 16
    feed_forward: int = 384
    max_length: int = 1024
    group: int = 4
    new_tokens: int = 40
    mean_reply: int = 18
    learning_rate: float = 1e-6

    @property
    def replies(self) -> int:
        """Of one step."""
        return self.conversations * self.turns * self.group

    def sizes(self, together: int, batch: int) -> tuple[int, int]:
        """The largest divisors of these that divide a step's replies, and each other: of small steps, smaller ones."""
        together = gcd(together, self.replies)
        return together, gcd(batch, together)

    def talks(self) -> list[Talk]:
        """The conversations of a step, the same in every step and for everybody who asks."""
        stream = random.Random(f"rl {self.seed} {self.vocab} {self.turns}")

        def words(count: int) -> tuple[int, ...]:
            return tuple(stream.randrange(FIRST, self.vocab) for _ in range(count))

        def message() -> tuple[int, ...]:
            return words(round(MESSAGE * stream.uniform(1 - SPREAD, 1 + SPREAD)))

        def reply() -> tuple[int, ...]:
            if not self.mean_reply:
                return words(self.new_tokens)
            length = 0
            while length < self.new_tokens and stream.random() > 1 / self.mean_reply:
                length += 1
            return words(length)

        return [
            Talk(f"c{number}", tuple((message(), reply()) for _ in range(self.turns)))
            for number in range(self.conversations)
        ]

    def prompts(self) -> list[Prompt]:
        """Every turn of every conversation of a step, flattened, as trainers on prompts see it: short ones first."""
        return sorted(
            (prompt for talk in self.talks() for prompt in talk.prompts()), key=lambda prompt: (prompt.turn, prompt.id)
        )

    def known(self) -> list[Prompt]:
        """Prompts whose scripted replies are scored before anything is trained, to see that all have one model."""
        return self.prompts()[-8:]


@dataclass(frozen=True)
class Talk:
    """What the user says, and what is taken to have been replied where nobody replies: the history of later turns."""

    id: str
    turns: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # ids of words alone: message, reply

    def prompts(self) -> list[Prompt]:
        """One a turn."""
        found: list[Prompt] = []
        path: tuple[int, ...] = ()
        for number, (message, reply) in enumerate(self.turns):
            path = (*path, USER, *message, END, ASSISTANT)
            found.append(Prompt(f"{self.id}/{number}", number, path, (*reply, END)))
            path = (*path, *reply, END)
        return found


@dataclass(frozen=True)
class Prompt:
    """All up to where a reply begins, and the scripted reply."""

    id: str
    turn: int
    tokens: tuple[int, ...]
    reply: tuple[int, ...]


def rating(reply: str) -> int:
    """What a reply earns, 1 to 5: the more of its words have a number divisible by three, the more."""
    words = [token for token in reply.split() if token.startswith("w")]
    good = sum(int(token[1:]) % 3 == 0 for token in words)
    return 1 + min(4, 6 * good // max(1, len(words)))
