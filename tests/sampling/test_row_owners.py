"""Rows that change hands: what a conversation counts as cached is in its row, and prompts are read once a group."""

import random

import pytest

from aloe_jax.sampling.conversations import CachedConversation, Prefixes, common_prefix
from aloe_jax.sampling.row_owners import RowCopy, RowOwners

PIECE = 5  # tokens that are read at a time


def test_common_prefixes_equal_a_plain_count():
    stream = random.Random(0)
    for _ in range(300):
        first, second = ([stream.randrange(2) for _ in range(stream.randrange(9))] for _ in range(2))
        pairs = zip(first, second, strict=False)
        plain = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
        assert common_prefix(first, second) == plain


class Contents:
    """A cache of tokens instead of keys and values."""

    def __init__(self, rows: int, shards: int):
        self.owners = RowOwners(rows, shards)
        self.rows: list[list[int]] = [[] for _ in range(rows)]
        self.read = 0

    def copy(self, copy: RowCopy) -> None:
        assert self.owners.shard(copy.source) == self.owners.shard(copy.target)
        assert len(self.rows[copy.source]) == copy.length >= copy.kept > 0
        self.rows[copy.target] = self.rows[copy.source][: copy.kept]

    def bring_in(self, conversations: list[CachedConversation]) -> None:
        """All of them get a row, in turns, and have read all but their newest token when they leave it."""
        waiting = self.owners.ordered(conversations)
        while waiting:
            active: list[CachedConversation] = []
            prefixes = Prefixes()
            while waiting and len(active) < len(self.rows):
                active.append(one := waiting.pop(0))
                before = one.row
                copy = self.owners.seat(one, active, waiting, prefixes)
                if copy is not None:
                    self.copy(copy)
                elif before is None:
                    self.rows[one.row] = self.rows[one.row][: one.cached]
                assert self.owners.owners[one.row] is one
            self.read_unread(active, prefixes)
            for one in active:  # a reply of three tokens, of which the last is not in the cache
                assert self.rows[one.row] == one.tokens[:-1] and one.cached == one.readable
                one.tokens += [100 * one.number + at for at in range(3)]
                self.rows[one.row] += one.tokens[-4:-1]
                one.cached += 3

    def read_unread(self, active: list[CachedConversation], prefixes: Prefixes) -> None:
        while any(one.unread > 0 for one in active):
            plan = self.owners.plan(active, prefixes)
            assert plan.copies or plan.readers
            sources = {copy.source for copy in plan.copies}
            assert not sources & {copy.target for copy in plan.copies}
            for copy in plan.copies:
                self.copy(copy)
                self.owners.owners[copy.target].cached = copy.kept
            for one in plan.readers:
                new = one.tokens[one.cached : -1][:PIECE]
                self.rows[one.row] = self.rows[one.row][: one.cached] + new
                one.cached += len(new)
                self.read += len(new)


@pytest.mark.parametrize(("rows", "shards"), [(6, 1), (4, 2), (3, 1), (12, 3)])
@pytest.mark.parametrize("seed", range(8))
def test_a_row_has_what_its_conversation_counts_as_cached(rows, shards, seed):
    """Forks, forks of forks, more tokens, other tokens, and drops, at random."""
    stream = random.Random(seed)
    contents = Contents(rows, shards)
    alive = [CachedConversation(number, number, [number] * stream.randrange(1, 20)) for number in range(3)]
    number = 3
    for _ in range(25):
        source = stream.choice(alive)
        for _ in range(stream.randrange(4)):
            alive.append(CachedConversation(number, source.family, list(source.tokens)))
            number += 1
        for one in stream.sample(alive, len(alive) // 2):
            one.tokens += [stream.randrange(3) for _ in range(stream.randrange(6))]
        contents.bring_in(stream.sample(alive, stream.randrange(1, len(alive) + 1)))
        while len(alive) > 8:
            alive.pop(stream.randrange(len(alive))).alive = False


@pytest.mark.parametrize("rows", [3, 4, 5, 12])
def test_groups_that_wait_are_read_once(rows):
    """Four groups of four in fewer rows than there are conversations, even than there are in two groups."""
    contents = Contents(rows, 1)
    groups = [
        [CachedConversation(4 * group + at, 4 * group, [group] * (10 + group)) for at in range(4)] for group in range(4)
    ]
    contents.bring_in([group[at] for at in range(4) for group in groups])
    assert contents.read == sum(9 + group for group in range(4))
