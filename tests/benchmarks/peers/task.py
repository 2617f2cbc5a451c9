"""The task that all contestants train on: conversations drawn from a seed, as token ids, and how pairs are batched.

Runs in every contestant's environment: standard library only.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

PAD, END, FIRST = 0, 1, 2  # ids: padding, end of a reply, the first ordinary word
USER, REPLY, SPREAD = 40, 60, 0.3  # tokens of an average message and reply, and how far lengths stray
BETA = 0.1
LEARNING_RATE = 1e-6

Item = TypeVar("Item")


@dataclass(frozen=True)
class Task:
    """One data set and one model; `directory` holds both (see `Task.conversations`, `Task.reference`)."""

    directory: str
    vocab: int
    turns: int = 10
    conversations: int = 32
    layers: int = 4
    width: int = 256
    query_heads: int = 4
    kv_heads: int = 2
    head_size: int = 64
    feed_forward: int = 1024
    max_length: int = 4096
    # Tunix 0.1.7 computes RoPE with this base whatever its configuration says; with it, all compute the same model.
    rope_theta: float = 1_000_000.0
    norm_eps: float = 1e-5
    seed: int = 0

    @property
    def reference(self) -> Path:
        """Hugging Face directory of the model that reference log-probs come from."""
        return Path(self.directory) / f"reference-{self.vocab}"

    @property
    def policy(self) -> Path:
        """The weights that training starts from; were they the reference's, every first loss would be log 2."""
        return Path(self.directory) / f"policy-{self.vocab}"

    def draw(self) -> list[Conversation]:
        """The conversations: the same for everybody who asks."""
        stream = random.Random(f"{self.seed} {self.vocab} {self.turns}")

        def text(mean: int) -> list[int]:
            count = max(2, round(mean * stream.uniform(1 - SPREAD, 1 + SPREAD)))
            return [stream.randrange(FIRST, self.vocab) for _ in range(count)]

        def reply() -> list[int]:
            return [*text(REPLY)[1:], END]

        return [
            Conversation(
                f"c{number}",
                tuple(
                    Turn(tuple(text(USER)), tuple(reply()), tuple(reply()), stream.random() < 0.5)
                    for _ in range(self.turns)
                ),
            )
            for number in range(self.conversations)
        ]

    def pairs(self) -> list[Pair]:
        """Every turn of every conversation as a pair with its whole prompt, as trainers on pairs see it."""
        return [pair for conversation in self.draw() for pair in conversation.pairs()]

    def to_json(self) -> str:
        """One line, for another process."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Turn:
    """A message and its two replies; the conversation goes on after one of them."""

    user: tuple[int, ...]
    preferred: tuple[int, ...]
    rejected: tuple[int, ...]
    preferred_continued: bool

    @property
    def continued(self) -> tuple[int, ...]:
        """The reply that the next message answers."""
        return self.preferred if self.preferred_continued else self.rejected


@dataclass(frozen=True)
class Conversation:
    """A caterpillar: a path of turns with one more reply at each."""

    id: str
    turns: tuple[Turn, ...]

    def pairs(self) -> list[Pair]:
        """One pair a turn."""
        pairs: list[Pair] = []
        path: tuple[int, ...] = ()
        for number, turn in enumerate(self.turns):
            path = (*path, *turn.user)
            pairs.append(Pair(f"{self.id}/{number}", number, path, turn.preferred, turn.rejected))
            path = (*path, *turn.continued)
        return pairs


@dataclass(frozen=True)
class Pair:
    """A prompt and two replies."""

    id: str
    turn: int
    prompt: tuple[int, ...]
    preferred: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the longer of its two sequences."""
        return len(self.prompt) + max(len(self.preferred), len(self.rejected))

    @property
    def tokens(self) -> int:
        """Tokens of both sequences."""
        return 2 * len(self.prompt) + len(self.preferred) + len(self.rejected)


def word(index: int) -> str:
    """An id as a word."""
    return f"w{index}" if index >= FIRST else ("<pad>", "</s>")[index]


def batches_by_length(pairs: Sequence[Pair], size: int) -> list[list[Pair]]:
    """Batches of `size` pairs of about one length (the last may be smaller), as sorting all pairs gives them."""
    ordered = sorted(pairs, key=lambda pair: -pair.length)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def batches_shuffled(pairs: Sequence[Pair], size: int, seed: int) -> list[list[Pair]]:
    """Whole batches of `size` pairs in random order."""
    shuffled = random.Random(seed).sample(list(pairs), len(pairs))
    return [shuffled[start : start + size] for start in range(0, len(shuffled) - size + 1, size)]


def padded_tokens(batch: Sequence[Pair]) -> int:
    """Tokens of a batch whose sequences are all padded to the longest."""
    return 2 * len(batch) * max(pair.length for pair in batch)


def samples(  # noqa: UP047 - Python 3.11 reads this too
    items: Sequence[Item], cost: Callable[[Item], float], rounds: int, count: int, seed: int
) -> list[list[Item]]:
    """`rounds` samples of `count` items, each of nearly the mean cost of all of them, shuffled inside.

    Systematic sampling: evenly spaced places in the order of cost, dealt out to the rounds forwards and backwards in
    turn, so that no round gets the cheaper one of every group. More places than items: items come again.
    """
    ordered = sorted(items, key=cost)
    dealt: list[list[Item]] = [[] for _ in range(rounds)]
    for group in range(count):
        turn = range(rounds) if group % 2 == 0 else range(rounds - 1, -1, -1)
        for place, number in enumerate(turn):
            at = (group * rounds + place + 0.5) / (rounds * count)
            dealt[number].append(ordered[int(at * len(ordered))])
    for number, sample in enumerate(dealt):
        random.Random(seed * 1000 + number).shuffle(sample)
    return dealt


def worth(
    sample: Sequence[Sequence[Pair]], batches: Sequence[Sequence[Pair]], cost: Callable[[Sequence[Pair]], float]
) -> float:
    """How many average pairs a sample of the batches costs: what a round with it counts for."""
    return sum(map(cost, sample)) * sum(map(len, batches)) / sum(map(cost, batches))
