"""Which conversation has which row of the cache, and what comes into it: copied from another row, or read.

The forks of a conversation begin with the same tokens, whose keys and values are the same. So a prompt is read into one
row, and the others get theirs from there. Rows of a mesh are copied within their shard only; a conversation whose
family is in other shards alone is read once more in its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from aloe_jax.sampling.conversations import CachedConversation, Prefixes


@dataclass(frozen=True)
class RowCopy:
    """Row `target` becomes the first `kept` of the `length` tokens in row `source`; both rows of one shard."""

    source: int
    target: int
    length: int
    kept: int


@dataclass(frozen=True)
class ReadingPlan:
    """What to do next: rows to copy, then conversations to read a page of; the others wait for one of these."""

    copies: list[RowCopy]
    readers: list[CachedConversation]


class RowOwners:
    """The rows of a cache, of which every one of `shards` has equally many."""

    def __init__(self, count: int, shards: int) -> None:
        self.owners: list[CachedConversation | None] = [None] * count
        self.shards = shards
        self._shard_rows = count // shards

    def shard(self, row: int) -> int:
        """In which shard a row is."""
        return row // self._shard_rows

    def forget(self) -> None:
        """Nothing in the cache is valid any more; conversations keep their rows, except those that were dropped."""
        for row, owner in enumerate(self.owners):
            if owner is not None:
                owner.cached = 0
                if not owner.alive:
                    self.owners[row], owner.row = None, None

    def ordered(self, conversations: Iterable[CachedConversation]) -> list[CachedConversation]:
        """In which order to seat: first those that have a row, then family by family, in the order of its first."""
        given = list(conversations)
        first: dict[int, int] = {}
        for at, conversation in enumerate(given):
            first.setdefault(conversation.family, at)
        return sorted(given, key=lambda one: (one.row is None, first[one.family] if one.row is None else 0))

    # ------------------------------------------------------------ rows

    def seat(
        self,
        conversation: CachedConversation,
        active: Collection[CachedConversation],
        waiting: Sequence[CachedConversation],
        prefixes: Prefixes,
    ) -> RowCopy | None:
        """Give `conversation` a row that no active one has: the one whose loss costs least.

        First what the waiting ones would then have to read again counts, then what this one and the one that loses
        its row have to read. What its family has in the shard comes with the row at once, before another takes the row
        that it is in: the copy for it is returned, of a row to itself where the row itself was its family's.
        """
        if conversation.row is not None:
            return None
        busy = set(active)
        kin: dict[int, list[CachedConversation]] = defaultdict(list)  # that wait for a row, too
        for other in waiting:
            if other.row is None and other is not conversation:
                kin[other.family].append(other)
        taken = Counter(self.shard(row) for row, owner in enumerate(self.owners) if owner is not None and owner.alive)
        members: dict[int, list[CachedConversation]] = defaultdict(list)
        for owner in self.owners:
            if owner is not None:
                members[owner.family].append(owner)
        relatives = members[conversation.family]
        found = [0] * self.shards  # tokens that this conversation finds in every shard
        for other in relatives:
            assert other.row is not None
            ready = other.readable if other in busy else other.cached
            shard = self.shard(other.row)
            found[shard] = max(found[shard], min(prefixes.shared(conversation, other), conversation.readable, ready))

        def lost_to_waiting(owner: CachedConversation) -> int:
            """The most tokens that one that waits has in this row and will find nowhere else."""
            most = 0
            for other in kin.get(owner.family, ()) if owner.cached else ():
                here = min(prefixes.shared(owner, other), owner.cached)
                elsewhere = [prefixes.shared(conversation, other)]
                elsewhere += [
                    min(prefixes.shared(member, other), member.readable if member in busy else member.cached)
                    for member in members[owner.family]
                    if member is not owner and here > 0
                ]
                most = max(most, here - max(elsewhere))
            return most

        def cost(row: int) -> tuple[int, int, int]:
            owner, shard = self.owners[row], self.shard(row)
            read = conversation.readable - found[shard]
            lost = owner.cached if owner is not None and owner.alive else 0
            return read + lost, taken[shard], int(owner is not None)

        free = sorted((row for row, owner in enumerate(self.owners) if owner is None or owner not in busy), key=cost)
        row, least = free[0], None
        for candidate in free:
            owner = self.owners[candidate]
            lost = 0 if owner is None else lost_to_waiting(owner)
            if least is None or lost < least:
                row, least = candidate, lost
            if lost == 0:  # the others cost no less
                break
        previous = self.owners[row]
        copy: RowCopy | None = None
        own = [] if previous is None else [previous]
        for other in (*relatives, *own):  # of equal ones the last: what is in the row need not move
            if other.row is None or self.shard(other.row) != self.shard(row):
                continue
            kept = min(prefixes.shared(conversation, other), conversation.readable, other.cached)
            if kept and (copy is None or kept >= copy.kept):
                copy = RowCopy(other.row, row, other.cached, kept)
        if previous is not None:
            previous.row, previous.cached = None, 0
        self.owners[row], conversation.row = conversation, row
        conversation.cached = 0 if copy is None else copy.kept
        unchanged = copy is not None and copy.source == row and copy.kept == copy.length
        return None if unchanged else copy

    # ------------------------------------------------------------ what comes into them

    def plan(self, active: Collection[CachedConversation], prefixes: Prefixes) -> ReadingPlan:
        """What brings the active conversations further; empty when nothing of theirs is unread.

        A conversation copies from the row of its shard that has, or will have once read, the most of its tokens. Of
        two unread ones the one that has more read goes ahead, so that they never wait for each other.
        """
        members: dict[tuple[int, int], list[CachedConversation]] = defaultdict(list)
        for row, owner in enumerate(self.owners):
            if owner is not None:
                members[self.shard(row), owner.family].append(owner)
        unread = {one: _rank(one) for one in active if one.unread > 0}
        planned: list[tuple[CachedConversation, CachedConversation, int]] = []
        readers = []
        for one, rank in unread.items():
            assert one.row is not None
            best, source = one.cached, None
            for other in members[self.shard(one.row), one.family]:
                ahead = other in unread and unread[other] < rank
                most = min(one.readable, other.readable if ahead else other.cached)
                if other is not one and most > best and (shared := min(most, prefixes.shared(one, other))) > best:
                    best, source = shared, other
            if source is None:
                readers.append(one)
            elif source.cached >= best:
                planned.append((source, one, best))
        targets = {target for _, target, _ in planned}  # not copied from in the same call
        copies = []
        for source, target, kept in planned:
            if source not in targets:
                assert source.row is not None and target.row is not None
                copies.append(RowCopy(source.row, target.row, source.cached, kept))
        return ReadingPlan(copies, readers)


def _rank(conversation: CachedConversation) -> tuple[int, int]:
    assert conversation.row is not None
    return -conversation.cached, conversation.row
