"""The cache of a session on its devices: rows are copied, read into and drawn from, by programs of fixed shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from aloe_jax.sampling import programs
from aloe_jax.sampling.cache import PAGE, Cache, block_sizes
from aloe_jax.sampling.conversations import CachedConversation, Prefixes
from aloe_jax.sampling.draw import Settings
from aloe_jax.sampling.engine import Engine
from aloe_jax.sampling.row_owners import RowCopy, RowOwners
from aloe_jax.sampling.shapes import bucket, cache_rows, rows_read


class Asked(NamedTuple):
    """What is drawn of one conversation."""

    budget: int  # tokens at most
    seed: int


def ends_of(stop: Sequence[int], enough: int, logps: bool) -> programs.Ends:
    """When a call that draws ends; of shapes that hardly ever change."""
    ids = np.full(bucket(len(stop), 8), -1, np.int32)
    ids[: len(stop)] = stop
    return programs.Ends(ids, np.int32(enough), np.bool_(logps))


class RowCache:
    """Keys and values of the conversations that have a row. One of each program is compiled for a shape of session."""

    def __init__(self, engine: Engine, conversations: int, length: int, size: int | None = None) -> None:
        """`size` rows, whole shards (default: `cache_rows` of the engine's)."""
        self._engine = engine
        self._length = length
        self.size = cache_rows(conversations, engine.rows, engine.shards) if size is None else size
        self._rows = RowOwners(self.size, engine.shards)
        self._group = rows_read(self.size // engine.shards, jax.default_backend())
        self._cache: Cache | None = None
        self._unread_context: jax.Array | None = None
        self._pending: list[RowCopy] = []  # for rows that were given to forks, in order
        self._weights = engine.version  # those under which the cache was read
        self.tokens_read = 0

    def ordered(self, conversations: Collection[CachedConversation]) -> list[CachedConversation]:
        """See `RowOwners.ordered`."""
        return self._rows.ordered(conversations)

    def seat(
        self,
        conversation: CachedConversation,
        active: Collection[CachedConversation],
        waiting: Sequence[CachedConversation],
        prefixes: Prefixes,
    ) -> None:
        """Give a conversation a row; see `RowOwners.seat`."""
        copy = self._rows.seat(conversation, active, waiting, prefixes)
        if copy is not None:
            self._pending.append(copy)

    def forget(self) -> None:
        """Read everything anew next time: a call that was interrupted leaves it open what the cache has."""
        self._cache = None
        self._pending.clear()
        self._rows.forget()

    def renew(self) -> None:
        """Keys and values of earlier weights are not used any more; the memory is."""
        if self._weights != self._engine.version:
            self._weights = self._engine.version
            self._pending.clear()
            self._rows.forget()

    # ------------------------------------------------------------ filling it

    def read(self, active: Collection[CachedConversation], prefixes: Prefixes) -> None:
        """Bring all tokens but the newest of every active conversation into the cache, in pieces of some rows."""
        pending, self._pending = self._pending, []
        self._copy(pending)
        while any(conversation.unread > 0 for conversation in active):
            plan = self._rows.plan(active, prefixes)
            self._copy(plan.copies)
            for copy in plan.copies:
                owner = self._rows.owners[copy.target]
                assert owner is not None
                owner.cached = copy.kept
            if plan.readers:
                self._prefill(plan.readers)

    def _copy(self, copies: Sequence[RowCopy]) -> None:
        """Copy rows on the devices, some of every shard at a time; a row that was copied to is copied from later."""
        shards, rows = self._engine.shards, self.size // self._engine.shards
        waiting: list[list[RowCopy]] = [[] for _ in range(shards)]
        for copy in copies:
            waiting[self._rows.shard(copy.target)].append(copy)
        while any(waiting):
            numbers = np.zeros((4, shards * self._group), np.int32)
            numbers[1] = rows  # past the last row: none
            for shard, copies_here in enumerate(waiting):
                first, written = shard * rows, set[int]()
                while copies_here and len(written) < self._group and copies_here[0].source not in written:
                    copy = copies_here.pop(0)
                    at = shard * self._group + len(written)
                    numbers[:, at] = copy.source - first, copy.target - first, copy.length, copy.kept
                    written.add(copy.target)
            with self._engine.on_mesh():
                self._cache = programs.copy_rows(self._arrays(), *map(self._engine.put, numbers), shards=shards)

    def _prefill(self, readers: Sequence[CachedConversation]) -> None:
        """Read a page of each of the longest of them, as many of a shard as are read together."""
        engine, shards, rows = self._engine, self._engine.shards, self.size // self._engine.shards
        numbers = np.full(shards * self._group, rows, np.int32)  # past the last row: none
        tokens = np.zeros((numbers.size, PAGE), np.int32)
        lengths, counts = np.zeros(numbers.size, np.int32), np.zeros(numbers.size, np.int32)
        for shard in range(shards):
            here = [one for one in readers if one.row is not None and self._rows.shard(one.row) == shard]
            longest = sorted(here, key=lambda one: (-one.unread, one.row))[: self._group]
            for at, one in enumerate(longest, start=shard * self._group):
                assert one.row is not None
                piece = one.tokens[one.cached : -1][:PAGE]
                numbers[at], lengths[at], counts[at] = one.row - shard * rows, one.cached, len(piece)
                tokens[at, : len(piece)] = piece
                one.cached += len(piece)
        with engine.on_mesh():
            self._cache = programs.prefill(
                engine.graph, engine.state, engine.layers, self._arrays(),
                *(engine.put(x) for x in (numbers, tokens, lengths, counts)),
                shards=shards, dtype=engine.dtype,
            )  # fmt: skip
        self.tokens_read += int(counts.sum())

    # ------------------------------------------------------------ drawing from it

    def draw(
        self,
        asked: Mapping[CachedConversation, Asked],
        settings: Settings,
        stop: Sequence[int],
        logps: bool,
        others_wait: bool,
    ) -> programs.Drawn:
        """One call of the device: at most PAGE tokens of each conversation that is asked, by row."""
        engine = self._engine
        last, lengths, most = (np.zeros(self.size, np.int32) for _ in range(3))
        seeds = np.zeros(self.size, np.uint32)
        for row, owner in enumerate(self._rows.owners):
            if owner is not None and owner.tokens:
                last[row], lengths[row] = owner.tokens[-1], owner.cached
                if owner in asked:
                    most[row], seeds[row] = asked[owner].budget, asked[owner].seed % 2**32
        put = engine.put
        rows = programs.DrawnRows(put(last), put(lengths), put(most), put(seeds), self._context(asked, settings))
        # To wait for some rows to end spares reading those that take their rows one by one.
        enough = max(1, self.size // 8) if others_wait else self.size + 1
        ends = ends_of(stop, enough, logps)
        with engine.on_mesh():
            drawn, self._cache = programs.decode(
                engine.graph, engine.state, engine.layers, self._arrays(),
                rows, settings, ends,
                shards=engine.shards, dtype=engine.dtype,
            )  # fmt: skip
        return jax.device_get(drawn)

    def _context(self, active: Collection[CachedConversation], settings: Settings) -> jax.Array:
        """All tokens of the active conversations, by row; zeros, stored once, where no penalty asks for them."""
        if settings.repetition_penalty == 1 and self._unread_context is not None:
            return self._unread_context
        tokens = np.zeros((self.size, self._length), np.int32)
        if settings.repetition_penalty == 1:
            self._unread_context = self._engine.put(tokens)
            return self._unread_context
        for conversation in active:
            tokens[conversation.row, : len(conversation.tokens)] = conversation.tokens
        return self._engine.put(tokens)

    def _arrays(self) -> Cache:
        if self._cache is None:
            undivided = jax.default_backend() == "gpu"  # where a choice at every layer would stop the device
            self._cache = self._engine.empty_cache(self.size, tuple(block_sizes(self._length, undivided)))
        return self._cache
