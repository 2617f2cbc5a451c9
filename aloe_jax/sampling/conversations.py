"""One conversation of a session: its tokens, and how many of them are in which row of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class CachedConversation:
    """Tokens [T], of which the first `cached` are in `row` of the cache."""

    number: int
    family: int  # the number of the conversation that it descends from by forks: its own where it is none
    tokens: list[int] = field(default_factory=list)
    cached: int = 0
    row: int | None = None
    alive: bool = True  # False: dropped; its row is free, and can be copied from until another takes it

    @property
    def readable(self) -> int:
        """Tokens that are read into the cache before a reply: all but the newest, which the first draw reads."""
        return max(0, len(self.tokens) - 1)

    @property
    def unread(self) -> int:
        """Tokens to bring into the cache before the newest one is read and the next drawn."""
        return self.readable - self.cached


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common. By slices, which are compared without a Python loop."""
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while high - low > 1:  # the first `low` are equal, the first `high` are not
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


class Prefixes:
    """`common_prefix` of conversations, found once a pair; for as long as no tokens change."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], int] = {}

    def shared(self, first: CachedConversation, second: CachedConversation) -> int:
        """Tokens with which both begin; 0 for conversations of different families, which are not compared."""
        if first.family != second.family:
            return 0
        pair = (min(first.number, second.number), max(first.number, second.number))
        if pair not in self._found:
            self._found[pair] = common_prefix(first.tokens, second.tokens)
        return self._found[pair]
